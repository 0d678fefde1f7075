from dataclasses import replace
from typing import Any

import pytest
from tests.unit.relay.simulation import SET, World

from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.model import Intent, PlacementPolicy

INTERVAL = TIMEOUT = 0.1
MARGIN = 0.01  # "a few milliseconds": the confirming probe and the way of its datagrams


def ready_world(count: int, **given: Any) -> World:
    world = World(count, **given)
    world.run(0.35)
    assert world.states() == ["Ready"] * count
    world.forget()
    return world


def test_a_new_relay_is_suspect_until_it_has_said_who_it_is() -> None:
    world = World(1)
    assert (world.relay(1).state.value, world.relay(1).reason) == ("Suspect", "NotProbedYet")
    assert world.fleet.pick(SET) is None
    world.run(0.01)
    assert (world.relay(1).state.value, world.relay(1).reason, world.relay(1).instance) == ("Ready", "Probed", "run1")
    assert world.events() == ["added", "Suspect->Ready"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("after", [0.0, 0.03, 0.07])
def test_a_killed_relay_is_down_a_few_milliseconds_after_the_next_probe(seed: int, after: float) -> None:
    world = ready_world(3, seed=seed)
    world.run(after)
    killed = world.now
    world.daemon(2).mode = "killed"
    world.run(0.5)
    assert world.events("r2") == ["Ready->Suspect", "Suspect->Down", "lost Refused"]
    assert world.time_of("lost Refused") - killed <= INTERVAL + MARGIN
    assert world.relay(2).health.last_seen <= killed + 0.001
    assert world.events("r1") == world.events("r3") == []


@pytest.mark.parametrize("seed", range(5))
def test_a_frozen_relay_is_down_after_the_threshold_and_ready_as_the_same_instance_after(seed: int) -> None:
    world = ready_world(3, seed=seed)
    world.daemon(1).mode = "frozen"
    frozen = world.now
    world.run(0.5)
    assert world.events() == ["Ready->Suspect", "Suspect->Down", "lost ProbesLost"]
    assert world.time_of("lost ProbesLost") - frozen <= 3 * INTERVAL + TIMEOUT + 0.001

    world.daemon(1).mode = "up"
    world.forget()
    thawed = world.now
    world.run(1.0)
    assert world.events() == ["Down->Ready"]  # and not restarted
    assert 2 * INTERVAL < world.time_of("Down->Ready") - thawed <= 3 * INTERVAL + MARGIN


def test_one_lost_probe_keeps_new_calls_away_and_one_good_one_brings_them_back() -> None:
    world = ready_world(1)
    world.daemon(1).mode = "frozen"
    world.run(0.21)
    assert world.relay(1).state.value == "Suspect"
    assert world.fleet.pick(SET) is None
    world.daemon(1).mode = "up"
    world.run(0.11)
    assert world.fleet.pick(SET) is world.relay(1)
    assert world.events() == ["Ready->Suspect", "Suspect->Ready"]


def test_one_refusal_alone_makes_no_relay_down() -> None:
    world = ready_world(1)
    world.fleet.on_refused(world.relay(1), world.now)
    assert (world.relay(1).state.value, world.relay(1).reason) == ("Suspect", "Refused")
    world.run(0.02)
    assert world.events() == ["Ready->Suspect", "Suspect->Ready"]


def test_refusals_of_datagrams_sent_before_the_confirming_probe_are_one_refusal() -> None:
    world = ready_world(1)
    for _ in range(8):
        world.fleet.on_refused(world.relay(1), world.now)
    assert world.relay(1).state.value == "Suspect"


def test_a_quick_restart_is_noticed_by_the_next_probe_or_within_a_second() -> None:
    world = ready_world(2)
    world.daemon(1).restart(world.now)  # between two probes: nothing was lost
    world.run(1.2)
    assert world.events() == ["restarted"]
    assert (world.relay(1).instance, world.relay(1).reason) == ("run2", "Restarted")


def test_a_restart_while_suspect_is_told_with_its_return() -> None:
    world = ready_world(2)
    world.daemon(1).mode = "frozen"
    world.run(0.21)
    world.daemon(1).restart(world.now)
    world.run(0.3)
    assert world.events() == ["Ready->Suspect", "Suspect->Ready", "restarted"]


def test_a_restart_while_down_is_told_as_well() -> None:
    world = ready_world(2)
    world.daemon(1).mode = "killed"
    world.run(0.5)
    world.daemon(1).restart(world.now)
    world.run(0.5)
    assert world.events()[-2:] == ["Down->Ready", "restarted"]


def test_a_relay_that_takes_no_sessions_is_told_apart_by_its_uptime() -> None:
    world = ready_world(1)
    world.run(5.0)
    world.daemon(1).full = True  # an offer, even of a probe, is an error now
    world.run(5.0)
    assert world.events() == []
    world.daemon(1).restart(world.now)
    world.run(1.3)
    assert world.events() == ["restarted"]


def test_a_new_relay_that_takes_no_sessions_is_ready_all_the_same() -> None:
    world = World(1)
    world.daemon(1).full = True
    world.run(0.1)
    assert (world.states(), world.relay(1).instance) == (["Ready"], "")


def test_not_ready_in_the_api_moves_nothing_while_probes_answer_but_one_lost_probe_then_does() -> None:
    world = ready_world(3)
    world.change(1, backend_ready=False)
    world.run(2.0)
    assert world.events() == []
    world.daemon(1).mode = "frozen"
    frozen = world.now
    world.run(0.5)
    assert world.events() == ["Ready->Down", "lost BackendNotReady"]
    assert world.time_of("lost BackendNotReady") - frozen <= INTERVAL + TIMEOUT + 0.001


def test_not_ready_in_the_api_confirms_a_loss_that_came_before() -> None:
    world = ready_world(3)
    world.daemon(1).mode = "frozen"
    world.run(0.21)
    world.change(1, backend_ready=False)
    assert world.events() == ["Ready->Suspect", "Suspect->Down", "lost BackendNotReady"]


def test_a_relay_gone_from_the_inventory_drains_while_it_lives() -> None:
    world = ready_world(2)
    world.fleet.reserve(world.relay(1))
    relay = world.relay(1)
    del world.descriptions[1]
    world.apply()
    assert world.events() == ["Ready->Draining", "drain"]
    world.run(1.0)
    assert world.fleet.relays.get("uid-1") is relay
    assert {world.fleet.pick(SET) for _ in range(20)} == {world.relay(2)}

    world.fleet.release(relay)
    world.run(0.11)
    assert world.events()[2:] == ["removed"]
    assert "uid-1" not in world.fleet.relays
    assert relay.client.closed


def test_a_relay_gone_from_the_inventory_is_down_with_its_first_refusal() -> None:
    world = ready_world(2)
    world.fleet.reserve(world.relay(1))
    del world.descriptions[1]
    world.apply()
    world.daemon(1).mode = "killed"
    world.run(0.2)
    assert world.events() == ["Ready->Draining", "drain", "Draining->Down", "lost Deleted"]


def test_an_empty_relay_gone_from_the_inventory_goes_at_once() -> None:
    world = ready_world(2)
    del world.descriptions[1]
    world.apply()
    assert world.events() == ["Ready->Draining", "drain", "removed"]


def test_a_relay_may_come_back_to_the_inventory_before_it_is_empty() -> None:
    world = ready_world(1)
    world.fleet.reserve(world.relay(1))
    kept = world.descriptions.pop(1)
    world.apply()
    world.descriptions[1] = kept
    world.apply()
    world.run(0.5)
    assert world.events() == ["Ready->Draining", "drain", "Draining->Ready"]
    assert world.fleet.pick(SET) is world.relay(1)


def test_the_last_delete_reaches_a_removed_relay() -> None:
    world = ready_world(1)
    relay = world.relay(1)
    world.fleet.reserve(relay)
    world.descriptions.clear()
    world.apply()
    relay.client.delete("last", "a", None, 0, world.now)
    world.fleet.release(relay)
    world.run(0.2)
    assert any(command.get(b"call-id") == b"last" for _, command in world.daemon(1).commands)
    assert world.events()[-1] == "removed"


@pytest.mark.parametrize(
    ("intent", "state", "events"),
    [(Intent.CORDON, "Cordoned", ["Ready->Cordoned"]), (Intent.DRAIN, "Draining", ["Ready->Draining", "drain"])],
)
def test_intents_take_no_new_calls_and_can_be_taken_back(intent: Intent, state: str, events: list[str]) -> None:
    world = ready_world(1)
    world.change(1, intent=intent)
    world.apply()  # the same again changes nothing
    assert world.relay(1).state.value == state
    assert world.events() == events
    assert world.fleet.pick(SET) is None
    world.change(1)
    assert world.events() == [*events, f"{state}->Ready"]


def test_calls_that_leave_one_draining_relay_are_not_offered_the_next_one_to_drain() -> None:
    world = ready_world(3)
    picked = []
    note = world.log.on_relay_drain

    def drain(relay: object, now: float) -> None:
        picked.append(world.fleet.pick(SET))
        note(relay, now)  # type: ignore[arg-type]

    world.log.on_relay_drain = drain  # type: ignore[method-assign]
    for index in (1, 2):
        world.descriptions[index] = type(world.descriptions[index])(
            uid=f"uid-{index}", name=f"r{index}", relay_set=SET, control=(f"127.0.0.{index}", 2223), intent=Intent.DRAIN
        )
    world.apply()
    assert picked == [world.relay(3)] * 2


def test_a_change_of_address_opens_another_socket_and_asks_who_is_there() -> None:
    world = ready_world(2)
    world.daemons[("127.0.0.9", 5)] = world.daemon(2)
    world.daemon(2).run = 7
    relay = world.relay(1)
    world.change(1, control=("127.0.0.9", 5))
    assert world.events() == ["removed", "added"]
    world.run(0.05)
    assert world.relay(1) is relay
    assert world.events("r1") == ["removed", "added", "restarted"]


def test_a_full_relay_takes_no_more_and_says_so() -> None:
    world = ready_world(1, limit=2)
    for _ in range(2):
        world.fleet.reserve(world.relay(1))
    assert world.fleet.pick(SET) is None
    world.run(0.1)
    assert (world.states(), world.relay(1).reason) == (["Full"], "AtCapacity")
    world.fleet.release(world.relay(1))
    assert world.fleet.pick(SET) is world.relay(1)
    world.run(0.1)
    assert world.events() == ["Ready->Full", "Full->Ready"]


def test_calls_spread_evenly_and_by_weight() -> None:
    world = ready_world(3, limit=1000)
    world.change(3, weight=2)
    for _ in range(400):
        relay = world.fleet.pick(SET)
        assert relay is not None
        world.fleet.reserve(relay)
    counts = [world.relay(index).sessions for index in (1, 2, 3)]
    assert [abs(count - wanted) <= 20 for count, wanted in zip(counts, (100, 100, 200), strict=True)] == [True] * 3


def test_pick_avoids_and_is_the_same_for_the_same_random_numbers() -> None:
    first, second = ready_world(3, seed=4), ready_world(3, seed=4)
    names = [[world.fleet.pick(SET, avoid=world.relay(1)) for _ in range(30)] for world in (first, second)]
    assert [relay and relay.name for relay in names[0]] == [relay and relay.name for relay in names[1]]
    assert {relay and relay.name for relay in names[0]} == {"r2", "r3"}


def test_pick_finds_the_only_one_with_room() -> None:
    world = ready_world(4, limit=1)
    for index in (1, 2, 3):
        world.fleet.reserve(world.relay(index))
    assert {world.fleet.pick(SET) for _ in range(20)} == {world.relay(4)}
    assert world.fleet.pick(SET, avoid=world.relay(4)) is None
    assert world.fleet.pick("default/other") is None


def test_a_relay_of_the_zone_comes_first_as_long_as_it_has_room() -> None:
    world = ready_world(3, limit=2)
    world.change(2, zone="b")
    picked = []
    for _ in range(3):
        relay = world.fleet.pick(SET, zone="b")
        assert relay is not None
        world.fleet.reserve(relay)
        picked.append(relay.name)
    assert picked[:2] == ["r2", "r2"]
    assert picked[2] != "r2"


def test_zones_are_ignored_where_the_set_says_so() -> None:
    world = ready_world(3)
    world.change(2, zone="b")
    world.policy = replace(world.policy, placement=PlacementPolicy(zones=False))
    world.apply()
    assert {relay and relay.name for relay in (world.fleet.pick(SET, zone="b") for _ in range(40))} > {"r2"}


def test_find_by_name() -> None:
    world = ready_world(2)
    assert world.fleet.find(SET, "r2") is world.relay(2)
    assert world.fleet.find(SET, "r9") is None
    assert world.fleet.find("default/other", "r2") is None


class Caller(RelayUser):
    def __init__(self) -> None:
        self.errors: list[str] = []

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        self.errors.append(reply.error)


def test_commands_under_way_end_when_the_relay_is_down() -> None:
    world = ready_world(2)
    caller = Caller()
    world.daemon(1).mode = "frozen"
    world.relay(1).client.offer("s", "a", "", b"v=0\r\n", caller, 1, world.now)
    world.run(0.25)
    assert caller.errors == []
    world.run(0.2)
    assert caller.errors == ["relay down"]
    assert world.relay(1).state.value == "Down"


def test_probes_are_told_for_metrics_and_spread_over_the_interval() -> None:
    world = ready_world(10)
    for index in range(1, 11):
        world.daemon(index).commands.clear()
    world.run(0.1)
    at = sorted(
        when % INTERVAL
        for index in range(1, 11)
        for when, command in world.daemon(index).commands
        if command[b"command"] == b"ping"
    )
    assert len(at) == 10
    assert at[-1] - at[0] > INTERVAL / 2
    assert set(world.log.probes) == {(f"r{index}", "ok") for index in range(1, 11)}
    world.daemon(1).mode = "killed"
    world.daemon(2).mode = "frozen"
    world.run(0.25)
    assert ("r1", "refused") in world.log.probes
    assert ("r2", "timeout") in world.log.probes


# --- the guard: most relays silent at once ---


def test_most_relays_silent_at_once_holds_the_verdict() -> None:
    world = ready_world(3)
    for index in (1, 2):
        world.daemon(index).mode = "frozen"
    world.run(3.0)
    assert world.states() == ["Suspect", "Suspect", "Ready"]
    assert [world.relay(index).reason for index in (1, 2)] == ["MostRelaysLost"] * 2

    for index in (1, 2):
        world.daemon(index).mode = "up"
    world.run(0.2)
    assert world.states() == ["Ready"] * 3
    assert not any("lost" in what for what in world.events())


def test_the_guard_lets_go_when_fewer_are_silent() -> None:
    world = ready_world(3)
    for index in (1, 2):
        world.daemon(index).mode = "frozen"
    world.run(1.0)
    world.daemon(2).mode = "up"
    world.run(0.3)
    assert world.states() == ["Suspect", "Ready", "Ready"]  # it gets as many chances again
    world.run(0.3)
    assert world.states() == ["Down", "Ready", "Ready"]
    assert world.events("r1")[-1] == "lost ProbesLost"


def test_the_guard_gives_way_to_other_evidence() -> None:
    world = ready_world(3)
    for index in (1, 2, 3):
        world.daemon(index).mode = "frozen"
    world.run(1.0)
    assert world.states() == ["Suspect"] * 3
    world.change(1, backend_ready=False)
    assert world.states() == ["Down", "Suspect", "Suspect"]
    world.daemon(2).mode = "killed"
    world.run(0.2)
    assert world.states()[1] == "Down"
    assert world.relay(2).reason == "Refused"
    world.fleet.reserve(world.relay(3))
    del world.descriptions[3]
    world.apply()
    assert world.relay(3).reason == "Deleted"


def test_refusals_are_no_silence() -> None:
    world = ready_world(3)
    for index in (1, 2, 3):
        world.daemon(index).mode = "killed"
    world.run(0.3)
    assert world.states() == ["Down"] * 3


def test_half_of_the_relays_silent_is_not_most_of_them() -> None:
    world = ready_world(4)
    for index in (1, 2):
        world.daemon(index).mode = "frozen"
    world.run(0.6)
    assert world.states() == ["Down", "Down", "Ready", "Ready"]


@pytest.mark.parametrize(("own_network", "state"), [(0.5, "Suspect"), (0.51, "Down"), (0.75, "Down")])
def test_which_share_is_most_of_them_can_be_chosen(own_network: float, state: str) -> None:
    world = ready_world(4, own_network=own_network)
    for index in (1, 2):
        world.daemon(index).mode = "frozen"
    world.run(0.6)
    assert world.states() == [state, state, "Ready", "Ready"]


def test_two_relays_are_too_few_for_the_guard() -> None:
    world = ready_world(2)
    for index in (1, 2):
        world.daemon(index).mode = "frozen"
    world.run(0.6)
    assert world.states() == ["Down", "Down"]


def test_relays_that_fell_silent_one_after_the_other_are_judged_one_by_one() -> None:
    world = ready_world(3)
    for index in (1, 2):
        world.daemon(index).mode = "frozen"
        world.run(2.0)
    assert world.states() == ["Down", "Down", "Ready"]


@pytest.mark.parametrize(("mode", "told"), [("frozen", "lost in a row"), ("killed", "refuses")])
def test_a_relay_that_never_answered_is_down_in_the_end_but_nothing_is_lost(mode: str, told: str) -> None:
    world = World(1)
    world.daemon(1).mode = mode
    world.run(1.0)  # it may be starting
    assert (world.states(), world.relay(1).reason) == (["Suspect"], "NotProbedYet")
    assert told in world.relay(1).message
    world.run(4.0)
    assert world.events() == ["added", "Suspect->Down"]
    world.daemon(1).mode = "up"
    world.run(0.11)  # a new relay need not prove itself three times
    assert world.states() == ["Ready"]


def test_a_daemon_that_starts_late_is_ready_without_having_been_down() -> None:
    world = World(1)
    world.daemon(1).mode = "killed"
    world.run(0.7)
    world.daemon(1).mode = "up"
    world.run(0.15)
    assert world.events() == ["added", "Suspect->Ready"]


def test_a_slow_relay_is_not_silent() -> None:
    world = ready_world(1)
    relay = world.relay(1)
    world.daemon(1).mode = "frozen"
    for _ in range(20):
        world.run(0.05)
        world.fleet.on_datagram(relay, relay.client._prefix + b"0 d6:result4:ponge", world.now)  # some late reply
    assert relay.state.value == "Ready"
