"""The verdict on media, by rounds in any order, and what it makes of the verdict on the relay."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kedge.relay.health import Health
from kedge.relay.media_health import Doubt, MediaGuard, MediaHealth
from kedge.relay.model import CanaryPolicy, HealthPolicy, RelayState

READY, SUSPECT, DOWN = RelayState.READY, RelayState.SUSPECT, RelayState.DOWN
RECOVERY = 3
OURS = Doubt(READY, "MediaUnproven", "no witness")
MOST = Doubt(SUSPECT, "MostCanariesLost", "as most")


class Others(MediaGuard):
    """What the other relays of the set let think."""

    def __init__(self) -> None:
        self.says: Doubt | None = None

    def doubt(self, media: MediaHealth, policy: CanaryPolicy) -> Doubt | None:
        return self.says


def lose(media: MediaHealth, times: int, threshold: int = 2) -> None:
    for number in range(times):
        media.round_lost(float(number), "both ways", CanaryPolicy(threshold=threshold))


@given(st.integers(1, 6), st.integers(0, 12))
def test_dead_from_the_threshold_on_and_never_before(threshold: int, losses: int) -> None:
    media = MediaHealth(RECOVERY, Others())
    lose(media, losses, threshold)
    assert media.verdict is (DOWN if losses >= threshold else SUSPECT if losses else READY)


@given(st.lists(st.booleans(), max_size=12))
def test_dead_media_comes_back_with_so_many_rounds_in_a_row(rounds: list[bool]) -> None:
    media = MediaHealth(RECOVERY)
    lose(media, 2)
    row = 0
    for passed in rounds:
        row = row + 1 if passed else 0
        if passed:
            media.passed(10.0)
        else:
            lose(media, 1)
        if row == RECOVERY:
            assert media.verdict is READY
            return
        assert (media.verdict, media.reason) == (DOWN, "MediaLost")


def test_a_doubt_lasts_as_long_as_the_others_give_reason_and_then_rounds_count_anew() -> None:
    others = Others()
    for doubt in (OURS, MOST):
        media = MediaHealth(RECOVERY, others)
        others.says = doubt
        lose(media, 10)
        assert (media.verdict, media.reason, media.held) == (doubt.verdict, doubt.reason, True)
        others.says = None
        verdicts = []
        for _ in range(3):
            lose(media, 1)
            verdicts.append(media.verdict)
        assert verdicts == [SUSPECT, SUSPECT, DOWN]


def test_what_is_down_stays_down_whatever_the_others_do() -> None:
    others = Others()
    media = MediaHealth(RECOVERY, others)
    lose(media, 2)
    others.says = OURS
    lose(media, 5)
    assert media.verdict is DOWN


def test_ready_is_once_shown_and_for_one_instance() -> None:
    media = MediaHealth(RECOVERY)
    told = [media.ready]
    lose(media, 1)
    told.append(media.ready)
    media.passed(5.0)
    told.append(media.ready)
    lose(media, 9)
    told.append(media.ready)
    media.stop()
    told.append(media.ready)
    media.reset()
    told.append(media.ready)
    assert told == [None, False, True, True, True, None]
    assert media.verdict is READY


def relay(guard: MediaGuard | None = None) -> Health:
    health = Health(HealthPolicy(), recovery=RECOVERY, media_guard=guard)
    health.probe_answered(1.0)
    health.identified("i1", None, 1.0)
    health.media.passed(2.0)
    return health


def test_another_instance_is_not_blamed_for_the_one_before() -> None:
    health = relay()
    lose(health.media, 2)
    assert (health.verdict, health.reason) == (DOWN, "MediaLost")
    assert health.identified("i2", None, 9.0) is True
    assert (health.verdict, health.reason, health.media.ready) == (READY, "Restarted", None)


def test_a_lost_probe_and_a_lost_canary_are_not_two_kinds_of_evidence() -> None:
    health = relay()
    health.probe_lost(5.0)
    lose(health.media, 1)
    assert (health.verdict, health.reason) == (SUSPECT, "ProbeLost")
    health = relay()
    lose(health.media, 1)
    health.set_backend(ready=False)  # as its readiness gate may have it
    assert (health.verdict, health.reason) == (SUSPECT, "CanaryLost")


def test_the_last_sign_of_life_is_that_of_what_died() -> None:
    health = relay()
    health.seen(9.0)
    assert health.last_seen == 9.0
    lose(health.media, 2)
    assert health.last_seen == 2.0
    for _ in range(3):
        health.probe_lost(10.0)
    assert (health.reason, health.last_seen) == ("ProbesLost", 9.0)


def test_a_doubt_is_told_though_the_relay_is_ready() -> None:
    others = Others()
    health = relay(others)
    others.says = OURS
    lose(health.media, 3)
    assert (health.verdict, health.reason) == (READY, "MediaUnproven")
    assert "3 canaries" in health.message
    health.media.passed(9.0)
    assert health.reason == "Probed"


class BothMachine(RuleBasedStateMachine):
    """Probes and rounds in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.run = 1
        self.others = Others()
        self.good_rounds = 0

    @initialize(threshold=st.integers(1, 4))
    def begin(self, threshold: int) -> None:
        self.policy = CanaryPolicy(threshold=threshold)
        self.health = Health(HealthPolicy(canary=self.policy), recovery=RECOVERY, media_guard=self.others)

    @rule()
    def answer(self) -> None:
        self.now += 1.0
        self.health.probe_answered(self.now)
        if self.health.identity_due and self.health.identified(f"i{self.run}", None, self.now):
            assert self.health.media.verdict is READY

    @rule()
    def silence(self) -> None:
        self.now += 1.0
        self.health.probe_lost(self.now)

    @rule()
    def restart(self) -> None:
        self.run += 1

    @rule(says=st.sampled_from([None, OURS, MOST]))
    def others_say(self, says: Doubt | None) -> None:
        self.others.says = says

    @rule()
    @precondition(lambda self: self.health.control is READY)
    def round_passes(self) -> None:
        self.now += 1.0
        self.health.media.passed(self.now)
        self.good_rounds += 1

    @rule()
    @precondition(lambda self: self.health.control is READY)
    def round_is_lost(self) -> None:
        self.now += 1.0
        was = self.health.verdict
        self.health.media.round_lost(self.now - 0.5, "one way", self.policy)
        self.good_rounds = 0
        if self.others.says is not None and was is not DOWN:
            assert self.health.verdict is self.others.says.verdict

    @invariant()
    def the_worse_verdict_stands(self) -> None:
        if hasattr(self, "health"):
            order = [READY, SUSPECT, DOWN]
            both = (self.health.control, self.health.media.verdict)
            assert self.health.verdict is max(both, key=order.index)

    @invariant()
    def a_reason_is_that_of_the_verdict(self) -> None:
        if hasattr(self, "health") and self.health.verdict is DOWN:
            assert (self.health.reason == "MediaLost") is (self.health.control is not DOWN)

    @invariant()
    def dead_media_takes_as_many_good_rounds(self) -> None:
        if hasattr(self, "health") and self.health.media.verdict is DOWN:
            assert self.health.media.good < RECOVERY


TestBoth = BothMachine.TestCase
TestBoth.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
