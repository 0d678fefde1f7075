"""Test phones and tools: they speak SIP and RTP by code of their own, so that no bug is shared with Kedge."""
