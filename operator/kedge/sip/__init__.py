"""RFC 3261 without I/O: messages, transactions, dialogs; SDP and offer/answer."""
