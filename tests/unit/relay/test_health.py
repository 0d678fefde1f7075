from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kedge.relay.health import Guard, Health
from kedge.relay.link_health import LAPSE, LinkReport, LinkState, ReportResult
from kedge.relay.model import HealthPolicy, RelayState

READY, SUSPECT, DOWN = RelayState.READY, RelayState.SUSPECT, RelayState.DOWN
THRESHOLD, RECOVERY = 3, 3


def ready(guard: Guard | None = None) -> Health:
    health = Health(HealthPolicy(threshold=THRESHOLD), recovery=RECOVERY, guard=guard)
    health.probe_answered(0.0)
    health.identified("i1", 0.0, 0.0)
    assert health.verdict is READY
    return health


def test_losses_up_to_the_threshold() -> None:
    health = ready()
    verdicts = []
    for number in range(1, 4):
        health.probe_lost(float(number))
        verdicts.append((health.verdict, health.reason))
    assert verdicts == [(SUSPECT, "ProbeLost"), (SUSPECT, "ProbeLost"), (DOWN, "ProbesLost")]
    assert health.last_seen == 0.0
    assert health.silent_since == 1.0
    assert "3 probes" in health.message


def test_losses_count_only_in_a_row() -> None:
    health = ready()
    for number in range(1, 10):
        health.probe_lost(float(number))
        health.probe_lost(float(number))
        health.probe_answered(number + 0.5)
    assert health.verdict is SUSPECT
    assert health.identity_due


def test_a_probe_is_not_lost_when_the_relay_has_answered_anything_since() -> None:
    health = ready()
    health.seen(1.5)
    health.probe_lost(1.0)
    assert health.verdict is READY
    health.probe_lost(1.6)
    assert health.verdict is SUSPECT


def test_a_second_refusal_counts_after_the_confirming_probe_only() -> None:
    health = ready()
    health.probe_refused()
    health.probe_refused()
    assert (health.verdict, health.confirm_due) == (SUSPECT, True)
    health.probe_sent()
    assert not health.confirm_due
    health.probe_refused()
    assert (health.verdict, health.reason) == (DOWN, "Refused")


def test_an_answer_between_two_refusals_clears_the_first() -> None:
    health = ready()
    for _ in range(5):
        health.probe_refused()
        health.probe_sent()
        health.probe_answered(1.0)
        health.identified("i1", None, 1.0)
    assert health.verdict is READY


def test_a_loss_and_a_refusal_are_two_kinds_of_evidence() -> None:
    for first, second in ((0, 1), (1, 0)):
        health = ready()
        signs = (lambda health=health: health.probe_lost(1.0), health.probe_refused)
        signs[first]()
        assert health.verdict is SUSPECT
        signs[second]()
        assert (health.verdict, health.reason) == (DOWN, "Refused")


def test_suspect_is_ready_again_only_after_it_said_who_it_is() -> None:
    health = ready()
    health.probe_lost(1.0)
    health.probe_answered(2.0)
    assert (health.verdict, health.identity_due) == (SUSPECT, True)
    assert health.identified("i1", None, 2.1) is False
    assert health.verdict is READY


def test_down_needs_good_probes_in_a_row_and_the_identity() -> None:
    health = ready()
    for number in range(3):
        health.probe_lost(number + 1.0)
    health.probe_answered(5.0)
    health.probe_answered(6.0)
    health.probe_lost(7.0)
    for number in range(RECOVERY):
        assert not health.identity_due
        health.probe_answered(8.0 + number)
    assert (health.verdict, health.identity_due) == (DOWN, True)
    assert health.identified("i2", None, 12.0) is True
    assert (health.verdict, health.reason, health.instance) == (READY, "Restarted", "i2")


def test_an_identity_that_comes_after_a_new_loss_proves_nothing() -> None:
    health = ready()
    health.probe_lost(1.0)
    health.probe_answered(2.0)
    health.probe_lost(3.0)
    health.identified("i1", None, 3.1)
    assert (health.verdict, health.identity_needed) == (SUSPECT, True)


def test_uptime_that_went_back_asks_for_the_identity_and_rounding_does_not() -> None:
    health = ready()
    for now, uptime in ((10.0, 10.0), (20.9, 20.0), (30.0, 29.0), (40.0, 40.0)):
        health.uptime_told(uptime, now)
        assert not health.identity_needed
    health.uptime_told(3.0, 50.0)
    assert health.identity_needed


class Silence(Guard):
    def __init__(self) -> None:
        self.most_silent = True

    def network_suspect(self, health: Health) -> bool:
        return self.most_silent


def test_the_guard_holds_verdicts_by_silence_alone() -> None:
    guard = Silence()
    health = ready(guard)
    for number in range(10):
        health.probe_lost(number + 1.0)
    assert (health.verdict, health.reason, health.held) == (SUSPECT, "MostRelaysLost", True)
    health.set_backend(ready=False)
    assert (health.verdict, health.reason) == (DOWN, "BackendNotReady")


def test_after_the_guard_let_go_silence_counts_anew() -> None:
    guard = Silence()
    health = ready(guard)
    for number in range(10):
        health.probe_lost(number + 1.0)
    guard.most_silent = False
    verdicts = []
    for number in range(1 + THRESHOLD):
        health.probe_lost(number + 20.0)
        verdicts.append(health.verdict)
    assert verdicts == [SUSPECT] * THRESHOLD + [DOWN]


class HealthMachine(RuleBasedStateMachine):
    """Any evidence in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.run = 1
        self.evidence_since_good = False

    @initialize(threshold=st.integers(1, 5), recovery=st.integers(1, 4), guarded=st.booleans())
    def begin(self, threshold: int, recovery: int, guarded: bool) -> None:
        self.guard = Silence()
        self.recovery = recovery
        self.health = Health(
            HealthPolicy(threshold=threshold), recovery=recovery, guard=self.guard if guarded else None
        )

    def _step(self) -> None:
        self.now += 1.0
        self.before = self.health.verdict

    @rule()
    def answer(self) -> None:
        self._step()
        self.health.probe_sent()
        self.health.probe_answered(self.now)
        self.evidence_since_good = False
        if self.health.identity_due:
            self.health.identified(f"i{self.run}", None, self.now)

    @rule(late=st.booleans())
    def lose(self, late: bool) -> None:
        self._step()
        self.health.probe_sent()
        self.evidence_since_good |= not late
        if late:
            self.health.seen(self.now)
        self.health.probe_lost(self.now)

    @rule()
    def refuse(self) -> None:
        self._step()
        self.evidence_since_good = True
        self.health.probe_refused()

    @rule(most_silent=st.booleans())
    def others(self, most_silent: bool) -> None:
        self.guard.most_silent = most_silent

    @rule()
    def restart(self) -> None:
        self.run += 1

    @rule(state=st.sampled_from(LinkState))
    def report(self, state: LinkState) -> None:
        self._step()
        word = LinkReport(relay="r", state=state, interface="eth0", age=0.0, sequence=int(self.now))
        assert self.health.link_told(word, self.now) is ReportResult.TAKEN
        if not self.evidence_since_good:
            assert (self.health.verdict is DOWN) == (self.before is DOWN)  # a word alone is not death

    @rule(ready=st.booleans(), deleted=st.booleans())
    def inventory(self, ready: bool, deleted: bool) -> None:
        self._step()
        self.health.set_backend(ready=ready)
        self.health.set_deleted(deleted)
        if not self.evidence_since_good:
            assert self.health.verdict is self.before  # what the API says moves nothing while probes answer

    @rule()
    def enough_good_probes(self) -> None:
        self.health.link.lapse(self.now + LAPSE)
        for _ in range(self.recovery):
            self.answer()
        assert self.health.verdict is READY
        assert self.health.reason in {"Probed", "Restarted"}

    @invariant()
    def a_ready_relay_has_nothing_against_it(self) -> None:
        if hasattr(self, "health") and self.health.verdict is READY:
            assert not self.evidence_since_good
            assert not self.health.link.in_trouble
            assert self.health.was_ready

    @invariant()
    def one_sign_is_not_death(self) -> None:
        if hasattr(self, "health") and self.evidence_since_good and self.health.verdict is DOWN:
            kinds = {"Refused", "Deleted", "BackendNotReady", "ProbesLost", "LinkDown", "AddressRemoved"}
            assert self.health.reason in kinds


TestHealth = HealthMachine.TestCase
TestHealth.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.integers(1, 6), st.integers(0, 12))
def test_silence_alone_is_death_from_the_threshold_on_and_never_before(threshold: int, losses: int) -> None:
    health = Health(HealthPolicy(threshold=threshold), recovery=1)
    health.probe_answered(0.0)
    health.identified("i", None, 0.0)
    for number in range(losses):
        health.probe_lost(number + 1.0)
    expected = DOWN if losses >= threshold else SUSPECT if losses else READY
    assert health.verdict is expected
