"""Whatever happens to calls and relays, in any order: once the world settles, a call is whole, or over for a reason.

Calls are set up, held, re-INVITEd and ended by either side while relays die, freeze, restart and drain, while peers are
taken out of the settings and come back, while legs are to have SRTP or RTP, and while packets are lost, late and
repeated. Then the wire heals, the relays return, and the books are read.
"""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule
from tests.unit.call.phones import Party, Step
from tests.unit.call.world import KEDGE, Packet, World, living_objects

from kedge.call.call import ACTIVE
from kedge.call.routing import Peer, Routing
from kedge.call.settings import CallSettings
from kedge.relay.model import Intent

RELAYS = ("r1", "r2", "r3")
RINGING: tuple[tuple[Step, ...], ...] = (
    ((0.0, 180, False), (0.0, 200, True)),
    ((0.0, 200, True),),
    ((0.1, 180, False), (1.0, 200, True)),
    ((0.1, 183, True), (0.7, 200, True)),
    ((0.1, 180, False), (0.5, 486, False)),
)


class AnyOrder(RuleBasedStateMachine):
    parties = Bundle("parties")

    @initialize(seed=st.integers(0, 2**16), encrypted=st.booleans(), able=st.booleans(), renumbers=st.booleans())
    def begin(self, seed: int, encrypted: bool, able: bool, renumbers: bool) -> None:
        gc.collect()
        gc.disable()
        self.world = World(len(RELAYS), seed=seed)
        self.world.left.spare_key = "ofAlice"
        self.world.left.starts_encrypted = encrypted
        self.world.right.spare_key = "ofBob" if able else ""
        self.world.right.renumbers = {"101": "96"} if renumbers else {}
        self.loss_until = 0.0
        self.rates = (0.0, 0.0)
        self.world.tamper = self.on_the_wire

    def on_the_wire(self, packet: Packet) -> float | None:
        world = self.world
        if world.now >= self.loss_until:
            return 0.0
        loss, late = self.rates
        if world.rng.random() < loss:
            return None
        if world.rng.random() < late:
            again = packet
            world.at(0.003, lambda: world._arrive(again))
            return world.rng.choice((0.0, 0.002, 0.05, 0.7))
        return 0.0

    # --- what may happen --------------------------------------------------------------------------------------------

    @rule(target=parties, late=st.booleans(), ringing=st.sampled_from(RINGING), wait=st.sampled_from((0.0, 0.02, 3.0)))
    def call(self, late: bool, ringing: tuple[Step, ...], wait: float) -> Party:
        self.world.right.ringing = ringing
        party = self.world.left.invite(late=late)
        self.world.run(wait)
        return party

    def side(self, party: Party, callee: bool) -> Party:
        leg = self.world.b2bua.dialogs.get(party.remote_tag)
        if not callee or leg is None or not hasattr(leg.call, "callee"):
            return party
        tag = leg.call.callee.dialog.remote_tag
        return next((one for one in self.world.right.made if one.local_tag == tag), party)

    @rule(party=consumes(parties), callee=st.booleans())
    def hang_up(self, party: Party, callee: bool) -> None:
        side = self.side(party, callee)
        if side.talking:
            side.bye()
        elif side.caller:
            side.cancel()

    @rule(party=parties, callee=st.booleans(), kind=st.sampled_from(("hold", "update", "late", "again", "fewer")))
    def offer(self, party: Party, callee: bool, kind: str) -> None:
        side = self.side(party, callee)
        if kind == "hold":
            side.hold()
        elif kind == "fewer":
            side.formats = ("0", "101") if len(side.formats) > 2 else ("0", "8", "101")
            side.reinvite()
        else:
            side.reinvite(late=kind == "late", update=kind == "update")

    @rule(party=parties, callee=st.booleans(), reply=st.sampled_from((491, 488, 500, 503)))
    def refuse_once(self, party: Party, callee: bool, reply: int) -> None:
        self.side(party, callee).replies.append(reply)

    @rule(party=parties, callee=st.booleans())
    def be_silent_once(self, party: Party, callee: bool) -> None:
        self.side(party, callee).replies.append(lambda party, request: None)

    @rule(party=parties)
    def terminate(self, party: Party) -> None:
        leg = self.world.b2bua.dialogs.get(party.remote_tag)
        if leg is not None:
            self.world.b2bua.hang_up(leg.call, self.world.now, reason="Ended by an operator", cause=200)

    @rule(name=st.sampled_from(RELAYS), delay=st.sampled_from((0.0, 0.05, 0.4, 1.5)))
    def slow_down(self, name: str, delay: float) -> None:
        self.world.daemons[name].delay = delay

    @rule(name=st.sampled_from(RELAYS), kind=st.sampled_from(("error", "silence", "junk", "cut", "well")))
    def confuse(self, name: str, kind: str) -> None:
        cut = b"v=0\r\no=- 1 1 IN IP4 127.0.0.9\r\ns=-\r\n"
        replies = {"error": "No more ports", "silence": None, "junk": b"v=0\r\n", "cut": cut}
        self.world.daemons[name].distort = None if kind == "well" else lambda command, output: replies[kind]

    @rule(name=st.sampled_from(RELAYS))
    def kill(self, name: str) -> None:
        self.world.daemons[name].kill()

    @rule(name=st.sampled_from(RELAYS))
    def freeze(self, name: str) -> None:
        if self.world.daemons[name].mode == "up":
            self.world.daemons[name].mode = "frozen"

    @rule(name=st.sampled_from(RELAYS))
    def return_(self, name: str) -> None:
        daemon = self.world.daemons[name]
        if daemon.mode == "frozen":
            daemon.mode = "up"
        else:
            daemon.restart(self.world.now)

    @rule(name=st.sampled_from(RELAYS), intent=st.sampled_from((Intent.DRAIN, Intent.SERVE, Intent.CORDON)))
    def intend(self, name: str, intent: Intent) -> None:
        self.world.intend(name, intent)

    @rule(party=parties, name=st.sampled_from(RELAYS))
    def move(self, party: Party, name: str) -> None:
        leg = self.world.b2bua.dialogs.get(party.remote_tag)
        if leg is not None:
            self.world.b2bua.move_to(leg.call, self.world.relay(name), self.world.now)

    @rule(party=parties, callee=st.booleans(), profile=st.sampled_from(("RTP/AVP", "RTP/SAVP")))
    def convert(self, party: Party, callee: bool, profile: str) -> None:
        leg = self.world.b2bua.dialogs.get(party.remote_tag)
        failover = self.world.b2bua.failover
        if leg is None or leg.call.state != ACTIVE or leg.call.move is not None or leg.call.id in failover.wants:
            return
        failover.convert(leg.call.callee if callee else leg.call.caller, profile, self.world.now)

    @rule(gone=st.sampled_from(("", "left", "right")))
    def reload(self, gone: str) -> None:
        b2bua = self.world.b2bua
        peers = tuple(Peer(one.name, one.networks) for one in self.world.peers if one.name != gone)
        b2bua.reload(CallSettings(address=KEDGE), Routing(peers, b2bua.routing.routes))

    @rule(loss=st.sampled_from((0.0, 0.2, 0.5)), late=st.sampled_from((0.0, 0.3)), seconds=st.sampled_from((0.5, 4.0)))
    def disturb(self, loss: float, late: float, seconds: float) -> None:
        self.rates = (loss, late)
        self.loss_until = self.world.now + seconds

    @rule(seconds=st.sampled_from((0.001, 0.003, 0.01, 0.1, 0.3, 1.0, 5.0)))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    # --- what must be so --------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            gc.enable()

    def settle(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        self.loss_until = 0.0
        for name, daemon in world.daemons.items():
            daemon.delay, daemon.distort = 0.0, None
            if daemon.mode == "frozen":
                daemon.mode = "up"
            elif daemon.mode == "killed":
                daemon.restart(world.now)
            world.intend(name, Intent.SERVE)
        world.run(10.0)
        world.idle(400.0)
        self.check_calls()
        self.check_books()
        for party in world.left.made:
            party.bye()
        world.assert_empty()
        living = living_objects()
        assert not living, f"still in memory: {living}"

    def check_calls(self) -> None:
        world = self.world
        seen = set()
        for party in world.left.made:
            if not party.talking:
                continue
            leg = world.b2bua.dialogs.get(party.remote_tag)
            assert leg is not None, f"a phone talks to nobody: {party.log}"
            talk = world.talk_of(party)
            seen.add(talk.id)
            world.assert_anchored(talk)
            assert talk.call.anchored_reason in ("Settled", "AnswersDiverge")
        assert seen == set(world.b2bua.calls)
        assert {party.remote_tag for party in world.right.made if party.talking} == {
            call.callee.dialog.local_tag for call in world.b2bua.calls.values()
        }

    def check_books(self) -> None:
        world = self.world
        on_relay: dict[str, set[str]] = {name: set() for name in RELAYS}
        for call in world.b2bua.calls.values():
            assert call.relay is not None
            on_relay[call.relay.name].add(call.session)
        for name, daemon in world.daemons.items():
            assert world.relay(name).sessions == len(on_relay[name])
            assert on_relay[name] <= set(daemon.sessions)
            assert daemon.left(on_relay[name]) == set()
        assert world.b2bua.failover.wants == {}
        assert all(report.pending == 0 for report in world.books.reports)
        answered = sum(1 for status in world.books.setups if status < 300)
        assert answered - world.books.ended == len(world.b2bua.calls)
        for report in world.books.reports:
            assert min(report.calls, report.moved, report.failed) >= 0


AnyOrder.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)  # fmt: skip
TestAnyOrder = AnyOrder.TestCase
