"""The B2BUA: one call is a UAS dialog, a UAC dialog and a relay session; re-anchoring. No I/O."""
