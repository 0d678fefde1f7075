"""Kedge keeps the media of SIP calls alive: relays are watched, and calls re-anchored when one is lost."""

__version__ = "0.1.0"
