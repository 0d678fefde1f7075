"""Asks the relay beside the agent for its sessions, in the ng protocol: one small question, one small answer.

Only a few names are asked for: whether there is a call at all is what counts, and a long answer over UDP is lost for
good. Names that begin as Kedge's own canaries and probes do are no calls.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Final

from kedge.base.address import Address
from kedge.base.errors import KedgeError
from kedge.relay.bencode import BencodeError, decode_dict, encode
from kedge.relay.canary import CANARY_PREFIX

_OWN: Final = (CANARY_PREFIX.encode(), b"kedge-probe-")
_NAMES: Final = 64
"""Names asked for: more than there are canaries and probes of all signaling processes together."""


class RelaySilentError(KedgeError):
    """The relay gave no answer, or none that can be read, within ``timeout``."""


class RelayGoneError(KedgeError):
    """Nobody listens at the relay's control port."""


class RelaySessions:
    """Counts the sessions of one relay. ``timeout`` in seconds."""

    def __init__(self, control: Address, *, timeout: float = 0.5) -> None:
        self._control = control
        self._timeout = timeout

    async def count(self) -> int:
        """Return how many sessions of calls it holds, as far as ``_NAMES`` names tell; 0 is exact.

        Raises:
            RelayGoneError: nobody listens there.
            RelaySilentError: no answer.
        """
        cookie = secrets.token_hex(8).encode()
        family = socket.AF_INET6 if ":" in self._control[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            try:
                one.connect(self._control)
                async with asyncio.timeout(self._timeout):
                    question = {b"command": b"list", b"limit": _NAMES}
                    await asyncio.get_running_loop().sock_sendall(one, cookie + b" " + encode(question))
                    return await self._answer(one, cookie + b" ")
            except ConnectionRefusedError:
                raise RelayGoneError("nobody listens at the relay's control port") from None
            except TimeoutError:
                raise RelaySilentError("the relay does not answer: no reply in time") from None
            except OSError as error:
                raise RelaySilentError(f"the relay cannot be asked: {error}") from None

    async def _answer(self, one: socket.socket, start: bytes) -> int:
        while True:
            data = await asyncio.get_running_loop().sock_recv(one, 65535)
            if data.startswith(start):
                return calls_in(data[len(start) :])


def calls_in(answer: bytes) -> int:
    """Return how many sessions of an answer to ``list`` are calls.

    Raises:
        RelaySilentError: the answer is none.
    """
    try:
        names = decode_dict(answer).get(b"calls")
    except BencodeError as error:
        raise RelaySilentError(f"the relay's answer cannot be read: {error}") from None
    if not isinstance(names, list):
        raise RelaySilentError("the relay's answer has no sessions in it")
    calls = sum(1 for name in names if not (isinstance(name, bytes) and name.startswith(_OWN)))
    return calls or max(0, len(names) - _NAMES + 1)  # a list that is full of our own may hide a call
