"""A farm of phones: callers behind one SIP socket, callees behind another, real RTP where wanted, one event loop.

The callee of a call is known by the number dialled, so calls may pass through a B2BUA that changes all else.
"""

import asyncio
import heapq
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.kit.behaviour import Behaviour
from tests.kit.endpoint import Endpoint
from tests.kit.leg import FAILED, TALKING, Leg
from tests.kit.results import CallReport, FarmReport
from tests.kit.rtp import RtpClock, RtpPhone, new_ssrc
from tests.kit.wire import Address

ANYWHERE: Address = ("127.0.0.1", 0)


@dataclass(slots=True)
class _Call:
    number: int
    caller: Leg
    callee_behaviour: Behaviour
    rtp: bool
    hold: float | None
    batch: "_Batch"
    callee: Leg | None = None
    settled: bool = False


@dataclass(slots=True)
class _Batch:
    """Calls placed together; ``done`` is set when each has been answered (and ACKed at the callee) or has failed."""

    waiting: int
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _Timers:
    """One heap of deadlines on one timer of the event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), call))
        if self._timer is None or when < self._timer.when():
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._fire) if self._heap else None

    def _fire(self) -> None:
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
        self._timer = None
        self._arm()

    def close(self) -> None:
        self._heap.clear()
        self._arm()


class PhoneFarm:
    """Callers and callees. Use it as an asynchronous context manager, or call ``start`` and ``close``."""

    def __init__(
        self,
        *,
        proxy: Address | None = None,
        caller: Address = ANYWHERE,
        callee: Address = ANYWHERE,
        caller_behaviour: Behaviour | None = None,
        callee_behaviour: Behaviour | None = None,
        prefix: str = "49",
        forget_after: float | None = None,
    ) -> None:
        """Open both SIP sockets.

        Args:
            proxy: where the callers send their INVITEs; None: to the callees directly.
            caller: address of the callers; port 0 takes any.
            callee: address of the callees; port 0 takes any.
            caller_behaviour: of callers, unless ``place_calls`` says otherwise.
            callee_behaviour: of callees, unless ``place_calls`` says otherwise, and for calls that others place.
            prefix: of the dialled numbers; eight digits follow.
            forget_after: seconds after which an ended call leaves the table, for long runs; None: never.
        """
        self.timers = _Timers()
        self.clock = RtpClock()
        self.callers = Endpoint(self, caller, "caller")
        self.callees = Endpoint(self, callee, "callee")
        self.proxy = proxy or self.callees.address
        self._behaviours = (caller_behaviour or Behaviour(), callee_behaviour or Behaviour())
        self._prefix = prefix
        self._forget_after = forget_after
        self._calls: dict[int, _Call] = {}
        self._strangers: list[Leg] = []
        self._numbers = itertools.count(1)
        self._session = int(time.time())
        self._ssrc = new_ssrc()
        self._random = random.Random(os.urandom(8))
        self._totals = FarmReport(at=0.0, since=0.0, calls=[])

    @property
    def caller_address(self) -> Address:
        """Where the callers are."""
        return self.callers.address

    @property
    def callee_address(self) -> Address:
        """Where the callees are."""
        return self.callees.address

    async def start(self) -> None:
        """Listen, in the running event loop."""
        loop = asyncio.get_running_loop()
        for endpoint in (self.callers, self.callees):
            loop.add_reader(endpoint.sock, endpoint.on_readable)

    async def close(self) -> None:
        """Fall silent and close all sockets; no BYE is sent."""
        loop = asyncio.get_running_loop()
        for endpoint in (self.callers, self.callees):
            loop.remove_reader(endpoint.sock)
            endpoint.sock.close()
        self.timers.close()
        self.clock.close()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    # --- what a test asks for --------------------------------------------------------------------------------

    async def place_calls(
        self,
        count: int,
        *,
        rate: float = 100.0,
        rtp: bool = True,
        rtp_every: int = 1,
        hold: float | None = None,
        caller: Behaviour | None = None,
        callee: Behaviour | None = None,
        within: float = 10.0,
    ) -> list[int]:
        """Place calls, and wait until each is answered or has failed.

        Args:
            count: how many.
            rate: INVITEs a second.
            rtp: with audio in both directions.
            rtp_every: of the calls with audio only each n-th has it.
            hold: seconds from the answer to the caller's BYE; None: no BYE by itself.
            caller: behaviour of these callers.
            callee: behaviour of these callees.
            within: seconds to wait after the last INVITE; then the calls go on unawaited.

        Returns:
            The numbers of the calls, for the other methods and in reports.
        """
        batch = _Batch(count)
        numbers = [next(self._numbers) for _ in range(count)]
        caller, callee = caller or self._behaviours[0], callee or self._behaviours[1]
        started = time.monotonic()
        for index, number in enumerate(numbers):
            early = started + index / rate - time.monotonic()
            if early > 0.001:
                await asyncio.sleep(early)
            elif index % 64 == 63:
                await asyncio.sleep(0)  # the phones' answers get their turn
            with_rtp = rtp and rtp_every > 0 and index % rtp_every == 0
            self._place(number, caller, callee, with_rtp, hold, batch)
        try:
            await asyncio.wait_for(batch.done.wait(), within)
        except TimeoutError:
            return numbers
        return numbers

    async def hang_up(
        self,
        numbers: Iterable[int] | None = None,
        *,
        side: str = "caller",
        rate: float = 1000.0,
        within: float = 5.0,
    ) -> bool:
        """Hang up calls (None: all), and say whether all their BYEs were answered in time, with both phones out."""
        legs = self._legs(numbers, side)
        started = time.monotonic()
        for index, leg in enumerate(legs):
            early = started + index / rate - time.monotonic()
            if early > 0.001:
                await asyncio.sleep(early)
            (self.callers if side == "caller" else self.callees).hang_up(leg)
        return await self.wait_over([leg.number for leg in legs], within=within)

    async def reinvite(
        self, numbers: Iterable[int] | None = None, *, side: str = "caller", direction: str = "sendrecv"
    ) -> None:
        """Let phones send re-INVITEs of their own: ``sendonly`` or ``inactive`` is hold, ``sendrecv`` resumes."""
        for leg in self._legs(numbers, side):
            (self.callers if side == "caller" else self.callees).reinvite(leg, direction.encode())

    async def update(
        self, numbers: Iterable[int] | None = None, *, side: str = "caller", direction: str = "sendrecv"
    ) -> None:
        """Let phones send an UPDATE with an offer."""
        for leg in self._legs(numbers, side):
            (self.callers if side == "caller" else self.callees).update(leg, direction.encode())

    async def pause_rtp(self, paused: bool) -> None:
        """Stop all audio at its source, or let it go on."""
        self.clock.paused = paused

    async def wait_reanchored(
        self, since: float, *, numbers: Iterable[int] | None = None, within: float = 10.0
    ) -> bool:
        """Wait until both phones of each living call had a re-INVITE ACKed after ``since``; False: not in time."""
        calls = self._chosen(numbers)

        def moved(call: _Call) -> bool:
            legs = (call.caller, call.callee)
            return all(leg is not None and (leg.is_over or _reinvited(leg, since)) for leg in legs)

        return await self._until(lambda: all(moved(call) for call in calls), within)

    async def wait_audio(self, since: float, *, numbers: Iterable[int] | None = None, within: float = 10.0) -> bool:
        """Wait until both phones of each living call with RTP have received audio after ``since``."""
        calls = self._chosen(numbers)

        def heard(leg: Leg | None) -> bool:
            return leg is None or leg.is_over or leg.rtp is None or leg.rtp.last_received > since

        def all_heard() -> bool:
            self.clock.drain()
            return all(heard(call.caller) and heard(call.callee) for call in calls)

        return await self._until(all_heard, within)

    async def wait_over(self, numbers: Iterable[int] | None = None, *, within: float = 10.0) -> bool:
        """Wait until both phones have left their calls, and all that they sent is answered."""
        calls = self._chosen(numbers)
        return await self._until(lambda: all(_is_over(call) for call in calls), within)

    async def wait_answered(self, numbers: Iterable[int] | None = None, *, within: float = 10.0) -> bool:
        """Wait until all that both phones of each call sent is answered."""
        calls = self._chosen(numbers)
        return await self._until(lambda: not any(leg.pending for call in calls for leg in _legs_of(call)), within)

    async def wait_talking(self, count: int, *, within: float = 10.0) -> bool:
        """Wait until exactly ``count`` calls are established at both phones."""
        return await self._until(lambda: self.talking() == count, within)

    async def report(self, since: float = 0.0) -> FarmReport:
        """Say what all phones saw; gaps are those that ended after ``since`` or last."""
        self.clock.drain()
        now = time.monotonic()
        calls = [
            CallReport(
                number=call.number,
                caller=call.caller.report(since, now),
                callee=None if call.callee is None else call.callee.report(since, now),
            )
            for call in self._calls.values()
        ]
        return self._summed(now, since, calls)

    async def summary(self, since: float = 0.0) -> dict[str, float]:
        """Say the main counts, cheaply, for a live view; ``silent`` phones have had no audio for 0.2 s."""
        self.clock.drain()
        now = time.monotonic()
        legs = [leg for call in self._calls.values() for leg in (call.caller, call.callee) if leg is not None]
        rtp = [leg.rtp for leg in legs if leg.rtp is not None and leg.state == TALKING]
        return {
            "at": now,
            "placed": self._totals.placed,
            "failed": self._totals.failed,
            "talking": self.talking(),
            "reinvited": sum(_reinvited(leg, since) for leg in legs),
            "rtp": len(rtp),
            "silent": sum(now - each.last_received > 0.2 for each in rtp),
            "sent": sum(each.sent for each in rtp),
            "received": sum(each.received for each in rtp),
            "gap": max((each.gap_since(since, now)[0] for each in rtp), default=0.0),
        }

    def talking(self) -> int:
        """Count calls that are established at both phones."""
        return sum(_is_talking(call) for call in self._calls.values())

    # --- what the endpoints ask for -----------------------------------------------------------------------------

    def now(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time."""
        self.timers.at(when, call)

    def incoming(self, number: int, call_id: bytes, tag: bytes) -> Leg:
        """Make the callee's phone of a call; a number nobody dialled here belongs to a caller of someone else."""
        call = self._calls.get(number)
        known = call is not None and call.callee is None
        behaviour = call.callee_behaviour if call is not None and known else self._behaviours[1]
        leg = Leg(number, "callee", behaviour, call_id, tag, self.callees.address[0])
        leg.session = b"%d" % (self._session + 2 * number + 1)
        if call is not None and known:
            call.callee = leg
            self._give_rtp(leg, call.rtp)
        else:
            self._strangers.append(leg)
            self._give_rtp(leg, behaviour.any_audio)
        return leg

    def settled(self, leg: Leg) -> None:
        """Count a call as answered when its callee has the ACK."""
        call = self._calls.get(leg.number)
        if call is None or call.settled or not _is_established(call):
            return
        call.settled = True
        self._totals.answered += 1
        self._finish(call.batch)
        if call.hold is not None:
            self.at(time.monotonic() + call.hold, lambda: self.callers.hang_up(call.caller))

    def ended(self, leg: Leg) -> None:
        """Count how a call ended, and close its RTP."""
        if leg.rtp is not None:
            self.clock.remove(leg.rtp)
        call = self._calls.get(leg.number)
        if call is None or leg not in (call.caller, call.callee):
            return
        if leg.side == "caller":
            self._count_end(call, leg)
            if self._forget_after is not None:
                self.at(time.monotonic() + self._forget_after, lambda: self._forget(call))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _place(
        self, number: int, caller: Behaviour, callee: Behaviour, rtp: bool, hold: float | None, batch: _Batch
    ) -> None:
        host = f"{self.callers.address[0]}:{self.callers.address[1]}".encode()
        call_id = b"%x-%d@%b" % (self._random.getrandbits(48), number, host)
        leg = Leg(number, "caller", caller, call_id, b"%x" % self._random.getrandbits(48), self.callers.address[0])
        target = f"sip:{self._prefix}{number:08d}@{self.proxy[0]}:{self.proxy[1]}".encode()
        leg.session = b"%d" % (self._session + 2 * number)
        leg.from_me = b'"Caller %d" <sip:caller%d@%b>;tag=%b' % (number, number, host, leg.tag)
        leg.to_peer = b"<%b>" % target
        self._give_rtp(leg, rtp)
        self._calls[number] = _Call(number, leg, callee, rtp, hold, batch)
        self._totals.placed += 1
        self.callers.invite(leg, target, self.proxy)

    def _give_rtp(self, leg: Leg, wanted: bool) -> None:
        if wanted:
            mine = self._ssrc + 2 * leg.number + (leg.side == "callee")
            partner = self._ssrc + 2 * leg.number + (leg.side != "callee")
            leg.rtp = RtpPhone(leg.ip, mine & 0xFFFFFFFF, -1 if leg.behaviour.any_audio else partner & 0xFFFFFFFF)
            self.clock.add(leg.rtp)

    def _count_end(self, call: _Call, leg: Leg) -> None:
        if leg.state == FAILED:
            self._totals.failed += 1
        else:
            self._totals.finished += 1
            by_phones = leg.ended_by == "local" or (call.callee is not None and call.callee.ended_by == "local")
            self._totals.lost += not by_phones
        if not call.settled:
            call.settled = True
            self._finish(call.batch)

    def _finish(self, batch: _Batch) -> None:
        batch.waiting -= 1
        if batch.waiting == 0:
            batch.done.set()

    def _forget(self, call: _Call) -> None:
        self._calls.pop(call.number, None)
        for leg, endpoint in ((call.caller, self.callers), (call.callee, self.callees)):
            if leg is not None:
                endpoint.legs.pop(leg.call_id, None)
                _add(self._totals, leg)

    def _summed(self, now: float, since: float, calls: list[CallReport]) -> FarmReport:
        totals = self._totals
        made = FarmReport(
            at=now, since=since, calls=calls, strangers=[leg.report(since, now) for leg in self._strangers],
            placed=totals.placed, answered=totals.answered, failed=totals.failed,
            finished=totals.finished, lost=totals.lost, repeats_in=totals.repeats_in, repeats_out=totals.repeats_out,
            refused=dict(totals.refused), unreadable=self.callers.unreadable + self.callees.unreadable,
            send_late=self.clock.latest, cpu_seconds=time.process_time(),
        )  # fmt: skip
        for call in self._calls.values():
            for leg in (call.caller, call.callee):
                if leg is not None:
                    _add(made, leg)
        return made

    def _chosen(self, numbers: Iterable[int] | None) -> list[_Call]:
        if numbers is None:
            return list(self._calls.values())
        return [self._calls[number] for number in numbers if number in self._calls]

    def _legs(self, numbers: Iterable[int] | None, side: str) -> list[Leg]:
        legs = (call.caller if side == "caller" else call.callee for call in self._chosen(numbers))
        return [leg for leg in legs if leg is not None and not leg.is_over]

    async def _until(self, holds: Callable[[], bool], within: float) -> bool:
        deadline = time.monotonic() + within
        while not holds():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True


def _is_established(call: _Call) -> bool:
    """Say whether all phones of the call here have sent or seen the ACK; the callee may be someone else's."""
    return call.caller.established and (call.callee is None or call.callee.established)


def _is_talking(call: _Call) -> bool:
    return call.callee is not None and call.caller.state == TALKING and call.callee.state == TALKING


def _is_over(call: _Call) -> bool:
    return all(leg.is_over and not leg.pending for leg in _legs_of(call))


def _legs_of(call: _Call) -> list[Leg]:
    return [leg for leg in (call.caller, call.callee) if leg is not None]


def _reinvited(leg: Leg, since: float) -> bool:
    return any(each.status == 200 and each.acked_at > since for each in reversed(leg.reinvites))


def _add(report: FarmReport, leg: Leg) -> None:
    report.repeats_in += leg.repeats_in
    report.repeats_out += leg.repeats_out
    for refusal in leg.refused:
        report.refused[refusal] = report.refused.get(refusal, 0) + 1
