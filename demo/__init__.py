"""``make demo``: relays are killed and frozen under real calls, and the phones measure how long they heard nothing."""
