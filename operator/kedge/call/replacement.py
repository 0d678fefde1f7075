"""Another relay for a call whose own fails while an offer or an answer is on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.relay.backend import RelayReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.call.b2bua import B2bua
    from kedge.call.call import Call

_RELAY_TRIES: Final = 3


class Replacement:
    """The tries of one exchange."""

    __slots__ = ("_b2bua", "_call", "tries")

    def __init__(self, b2bua: B2bua, call: Call) -> None:
        self._b2bua = b2bua
        self._call = call
        self.tries = 0
        """How many were made."""

    def take(self, now: float, *, same_again: bool) -> bool:
        """Put the call on another relay than its own; False where none has room, or tries are over.

        ``same_again`` says whether its own will do where there is no other: as a new session, or a new run of it.
        """
        b2bua, call = self._b2bua, self._call
        if self.tries >= _RELAY_TRIES:
            return False
        self.tries += 1
        relay = b2bua.fleet.pick(call.relay_set, avoid=call.relay, zone=call.zone)
        if relay is None and same_again:
            relay = b2bua.fleet.pick(call.relay_set, zone=call.zone)
        if relay is None:
            return False
        b2bua.place(call, relay, now)
        return True

    def replay(
        self,
        offer: tuple[str, str, bytes],
        answer: tuple[str, bytes],
        take: Callable[[float], bool],
        is_current: Callable[[], bool],
        done: Callable[[bytes | None, float], None],
        now: float,
    ) -> None:
        """Give both descriptions to another relay, and to a further one if that fails too.

        ``offer`` is its party's tag, the other's (empty at set-up) and the description, ``answer`` the other party's
        tag and description. ``done`` gets what a relay has for the offerer, None if there is none; nothing is done any
        more once ``is_current`` says no.
        """
        if not take(now):
            done(None, now)
            return
        offerer, to_tag, sdp = offer

        def offered(reply: RelayReply, now: float) -> None:
            if not is_current():
                return
            if reply.sdp is None:
                self.replay(offer, answer, take, is_current, done, now)
            else:
                self._b2bua.answer(self._call, offerer, answer[0], answer[1], answered, now)

        def answered(reply: RelayReply, now: float) -> None:
            if not is_current():
                return
            if reply.sdp is None:
                self.replay(offer, answer, take, is_current, done, now)
            else:
                done(reply.sdp, now)

        self._b2bua.offer(self._call, offerer, to_tag, sdp, offered, now)
