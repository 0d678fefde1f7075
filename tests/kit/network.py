"""A network of its own, whose loopback is all there is, and where the media of a relay can be made to vanish."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from tests.kit.rtpengine import Rtpengine
from tests.lab import machine
from tests.lab.netns import Namespace

_CHAIN: Final = "table inet mute {{ chain input {{ type filter hook input priority 0; {rules}}}; }}\n"
_RULE: Final = "ip daddr {ip} udp dport {first}-{last} counter drop; "


class Network:
    """A context manager: sockets and processes that its thread makes meanwhile belong to it."""

    def __init__(self) -> None:
        self._namespace = Namespace(f"kedge-mute-{os.getpid()}")
        self._nft: list[str] = []
        self._end = ExitStack()

    def __enter__(self) -> Self:
        """Make it, and go there. Needs root."""
        machine.require_root()
        machine.provide(("ip", "nsenter", "nft"))
        self._nft = [*self._namespace.enter, str(machine.program("nft"))]
        self._namespace.create()
        self._end.callback(self._namespace.delete)
        self._end.enter_context(self._namespace.inside())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Come back, and take it away."""
        self._end.close()

    def drop_media(self, *relays: Rtpengine) -> float:
        """Drop what comes to the media ports of ``relays``, and nothing else; return the monotonic time of it."""
        rules = [_RULE.format(ip=each.ip, first=each.first_media_port, last=each.last_media_port) for each in relays]
        table = _CHAIN.format(rules="".join(rules))
        subprocess.run([*self._nft, "-f", "-"], input=table.encode(), check=True, timeout=10)
        return time.monotonic()

    def drop_nothing(self) -> float:
        """Take the rule away; return the monotonic time of it."""
        subprocess.run([*self._nft, "delete", "table", "inet", "mute"], check=True, timeout=10)
        return time.monotonic()

    def dropped(self) -> int:
        """Count the packets that the rule has dropped."""
        listing = subprocess.run(
            [*self._nft, "list", "table", "inet", "mute"], check=True, capture_output=True, timeout=10
        )
        return int(listing.stdout.split(b"counter packets ")[1].split()[0])
