"""The root of Kedge's errors. Each boundary has its own branch, at the head of its own file."""

from __future__ import annotations


class KedgeError(Exception):
    """Anything that Kedge raises on purpose."""
