"""The sweep: sessions that this process has left at a relay, and that no call of it has, are deleted.

Every deletion is asked for where a session ends, and remembered where a relay does not hear it. What slips through all
the same (a deletion that was lost each time it was sent, an offer that arrived after it) would hold ports until the
relay ends it for silence. So each relay is asked now and then for the names of its sessions (``list``), one relay at a
time, and what is nobody's at two looks in a row is deleted: at the first it may be on its way in or out.

Only sessions with this process's own mark are looked at. Those of other signaling processes are their business; those
of one that died are left alone too, as their parties may still be talking, and are ended by the relay when they have
fallen silent. rtpengine cannot list from where it stopped, and a reply must fit a datagram: of a relay that holds more
than ``_MOST`` sessions only so many are seen at a time, and the rest when it holds fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kedge.base.timers import TimerTarget
from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.model import RelayState
from kedge.relay.ng_client import TIMEOUT

if TYPE_CHECKING:
    from kedge.call.b2bua import B2bua
    from kedge.relay.fleet import Relay

_MOST: Final = 1000
"""Names asked for at most: about 45 bytes each, and a datagram holds 65,507."""
_LEAST: Final = 32
"""Names asked for at least, where long replies are lost on their way."""


class _Watched:
    """One relay as the sweep knows it."""

    __slots__ = ("limit", "suspects")

    def __init__(self) -> None:
        self.limit = _MOST
        """Names to ask for: halved when the reply does not come."""
        self.suspects: frozenset[str] = frozenset()
        """Sessions that were nobody's at the last look."""


class Sweep(TimerTarget, RelayUser):
    """The sweep of one signaling process; see the module."""

    __slots__ = ("_asked", "_b2bua", "_turn", "_watched")

    def __init__(self, b2bua: B2bua) -> None:
        self._b2bua = b2bua
        self._watched: dict[str, _Watched] = {}
        """By the relay's uid."""
        self._asked = ""
        """The relay that is being asked, by uid."""
        self._turn = 0

    def start(self, now: float) -> None:
        """Look at the first relay after an interval, and then go on."""
        self._b2bua.timers.schedule(now + self._b2bua.settings.sweep_interval, self)

    def on_timer(self, kind: int, now: float) -> None:
        """Ask the next relay; each one's turn comes once in an interval."""
        relays = self._b2bua.fleet.relays
        self._b2bua.timers.schedule(now + self._b2bua.settings.sweep_interval / max(1, len(relays)), self)
        self._watched = {uid: one for uid, one in self._watched.items() if uid in relays}
        if self._asked or not relays:
            return  # the last reply is not there yet: the next one's turn is a little later
        self._turn = (self._turn + 1) % len(relays)
        relay = list(relays.values())[self._turn]
        if relay.state not in (RelayState.DOWN, RelayState.SUSPECT):
            self._asked = relay.uid
            watched = self._watched.setdefault(relay.uid, _Watched())
            relay.client.list_sessions(watched.limit, self, 0, now)

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        """Compare what a relay holds with the calls."""
        uid, self._asked = self._asked, ""
        relay, watched = self._b2bua.fleet.relays.get(uid), self._watched.get(uid)
        if relay is None or watched is None:
            return
        if reply.error:
            if reply.error == TIMEOUT:
                watched.limit = max(_LEAST, watched.limit // 2)
            return
        watched.limit = min(_MOST, watched.limit * 2)
        nobodys = frozenset(name for name in _names(reply) if not self._is_used(name))
        found, watched.suspects = nobodys & watched.suspects, nobodys - watched.suspects
        self._delete(relay, found, now)

    def _is_used(self, session: str) -> bool:
        """Whether it is not ours, or a call has it or may be about to."""
        b2bua = self._b2bua
        mark, _, rest = session.partition(".")
        if mark != b2bua.mark:
            return True
        call = b2bua.calls.get(rest.partition(".")[0])
        if call is None:
            return False
        legs = (getattr(call, "caller", None), getattr(call, "callee", None))
        return (
            call.move is not None
            or call.session == session
            or any(leg is not None and leg.session == session for leg in legs)
        )

    def _delete(self, relay: Relay, sessions: frozenset[str], now: float) -> None:
        if not sessions:
            return
        b2bua = self._b2bua
        for session in sessions:
            b2bua.delete_session(relay, session, now)
        b2bua.observer.orphans_deleted(relay, len(sessions))
        b2bua.observer.event(
            warning=False, reason="OrphansDeleted", relay_set=relay.relay_set, relay=relay.name, call="",
            message=f"deleted {len(sessions)} sessions at relay {relay.name} that belonged to no call",
        )  # fmt: skip


def _names(reply: RelayReply) -> list[str]:
    names = (reply.fields or {}).get(b"calls")
    if not isinstance(names, list):
        return []
    return [name.decode("ascii", "replace") for name in names if isinstance(name, bytes)]
