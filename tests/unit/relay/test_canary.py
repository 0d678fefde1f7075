"""Canaries through simulated relays, on a clock of their own."""

import pytest
from tests.unit.relay.simulation import LATENCY, OURS, SET, World, describe

from kedge.base.address import Address
from kedge.relay.canary import CANARY_PREFIX, media_address
from kedge.relay.model import CanaryPolicy, HealthPolicy, Intent

INTERVAL, TIMEOUT, THRESHOLD, RECOVERY = 1.0, 0.5, 2, 3
CANARY = CanaryPolicy(interval=INTERVAL, timeout=TIMEOUT, threshold=THRESHOLD)
ALL = frozenset((0, 1))
MARGIN = 0.01


def ready_world(count: int, *, canary: CanaryPolicy = CANARY, limit: int = 100) -> World:
    world = World(count, health=HealthPolicy(canary=canary), limit=limit)
    world.run(0.35)
    assert world.states() == ["Ready"] * count
    assert [relay.media_ready for relay in world.fleet.relays.values()] == [True] * count
    world.forget()
    return world


def queries(world: World, index: int) -> int:
    return sum(command[b"command"] == b"query" for _, command in world.daemon(index).commands)


def test_one_session_per_relay_made_as_a_call_is_and_not_counted_as_one() -> None:
    world = ready_world(2)
    world.run(10.0)
    for index in (1, 2):
        made = [
            command
            for _, command in world.daemon(index).commands
            if str(command.get(b"call-id", b"")).startswith(f"b'{CANARY_PREFIX}")
        ]
        assert [command[b"command"] for command in made] == [b"offer", b"answer"]
        assert [command[b"sdp"].split(b"m=audio ")[1].split()[0] for command in made] == [b"40000", b"40001"]
        assert made[0][b"from-tag"] == made[1][b"from-tag"] != made[1][b"to-tag"]
        assert world.relay(index).sessions == 0
    assert world.events() == []


def test_rounds_leave_once_an_interval_and_are_told_with_their_time() -> None:
    world = ready_world(1)
    world.run(10.0)
    rounds = [rtt for probe, rtt in zip(world.log.probes, world.log.rtts, strict=True) if probe == ("r1", "media_ok")]
    assert rounds == pytest.approx([2 * LATENCY] * 10)
    assert queries(world, 1) == 0


@pytest.mark.parametrize("drops", [ALL, {0}, {1}])
def test_a_relay_that_answers_and_moves_no_packets_one_way_is_down_in_time(drops: frozenset[int]) -> None:
    world = ready_world(2)
    world.daemon(1).drops = frozenset(drops)
    dead = world.now
    world.run(5.0)
    assert world.events() == ["Ready->Suspect", "Suspect->Down", "lost MediaLost"]
    assert world.time_of("lost MediaLost") - dead <= INTERVAL * THRESHOLD + TIMEOUT + MARGIN
    assert (world.relay(1).reason, world.relay(1).state.value) == ("MediaLost", "Down")  # though every ping is answered
    assert ("both ways" if drops == ALL else "one way") in world.relay(1).message
    assert ("r1", "media_lost") in world.log.probes
    assert ("r1", "timeout") not in world.log.probes
    assert world.fleet.pick(SET) is world.relay(2)


def test_the_last_sign_of_life_is_the_last_round_that_passed() -> None:
    world = ready_world(2)
    dead = world.now
    world.daemon(1).drops = ALL
    world.run(5.0)
    assert dead - INTERVAL <= world.relay(1).health.last_seen <= dead
    assert world.relay(2).health.last_seen > world.now - 0.2


def test_media_comes_back_after_as_many_good_rounds_as_probes_take_and_the_instance_stays() -> None:
    world = ready_world(2)
    world.daemon(1).drops = ALL
    world.run(5.0)
    world.forget()
    world.daemon(1).drops = frozenset()
    back = world.now
    world.run(8.0)
    assert world.events() == ["Down->Ready"]
    after = world.time_of("Down->Ready") - back
    assert (RECOVERY - 1) * INTERVAL < after <= RECOVERY * INTERVAL + MARGIN
    assert len(world.daemon(1).canaries()) == 1


@pytest.mark.parametrize("lost", [1, 2])
def test_a_packet_that_is_lost_is_sent_again_and_no_evidence(lost: int) -> None:
    world = ready_world(2)
    world.daemon(1).drop_next = lost
    world.run(3.0)
    assert world.daemon(1).drop_next == 0
    assert world.events() == []
    assert queries(world, 1) == 0


def test_one_lost_round_keeps_new_calls_away_until_the_next_one() -> None:
    world = ready_world(2)
    world.daemon(1).drop_next = 4
    world.run(1.6)
    assert (world.relay(1).state.value, world.relay(1).reason) == ("Suspect", "CanaryLost")
    assert world.fleet.pick(SET) is world.relay(2)
    world.run(1.0)
    assert world.events() == ["Ready->Suspect", "Suspect->Ready"]


def test_pings_do_not_bring_back_a_relay_whose_media_is_dead() -> None:
    world = ready_world(2)
    world.daemon(1).drops = ALL
    world.run(5.0)
    world.daemon(1).mode = "frozen"
    world.run(2.0)
    assert world.relay(1).reason == "ProbesLost"
    world.daemon(1).mode = "up"
    world.run(5.0)
    assert (world.relay(1).state.value, world.relay(1).reason) == ("Down", "MediaLost")
    assert world.events() == ["Ready->Suspect", "Suspect->Down", "lost MediaLost"]


def test_canaries_say_nothing_while_the_control_port_is_in_trouble() -> None:
    world = ready_world(2)
    world.run(0.6)
    world.daemon(1).mode = "frozen"  # just before a round, so that one is under way
    world.run(10.0)
    assert world.relay(1).reason == "ProbesLost"
    assert ("r1", "media_lost") not in world.log.probes
    assert world.relay(1).client.timeouts == 0  # nor is it asked in vain
    world.daemon(1).mode = "up"
    world.run(2.0)
    assert world.states() == ["Ready", "Ready"]
    assert len(world.daemon(1).canaries()) == 1


def test_a_restarted_relay_gets_a_new_session_and_has_to_show_its_media_anew() -> None:
    world = ready_world(2)
    before = world.daemon(1).canaries()
    world.daemon(1).restart(world.now)
    world.daemon(1).drops = ALL
    world.run(1.3)
    assert world.relay(1).instance == "run2"
    assert world.relay(1).media_ready is not True
    world.daemon(1).drops = frozenset()
    world.run(4.0)
    after = world.daemon(1).canaries()
    assert (len(after), world.relay(1).media_ready) == (1, True)
    assert after != before
    assert world.states() == ["Ready", "Ready"]


def test_a_restart_frees_a_relay_from_what_was_held_against_the_instance_before() -> None:
    world = ready_world(2)
    world.daemon(1).drops = ALL
    world.run(5.0)
    world.daemon(1).drops = frozenset()
    world.daemon(1).restart(world.now)
    world.forget()
    world.run(1.3)  # the identity is asked for once a second
    assert world.events() == ["Down->Ready", "restarted"]


def test_a_session_that_the_relay_has_lost_is_made_anew_and_is_no_evidence() -> None:
    world = ready_world(2)
    world.daemon(1).sessions.clear()
    world.run(5.0)
    assert world.events() == []
    assert ("r1", "media_lost") not in world.log.probes
    assert len(world.daemon(1).canaries()) == 1


def test_a_relay_that_takes_no_sessions_has_no_canary_until_it_does() -> None:
    world = World(2, health=HealthPolicy(canary=CANARY))
    world.daemon(1).full = True
    world.run(5.0)
    assert world.states() == ["Ready", "Ready"]
    assert [world.relay(index).media_ready for index in (1, 2)] == [None, True]
    world.daemon(1).full = False
    world.run(INTERVAL + 0.2)
    assert world.relay(1).media_ready is True


def test_a_relay_whose_media_never_worked_gets_no_calls_beside_one_that_works() -> None:
    world = World(2, health=HealthPolicy(canary=CANARY))
    world.daemon(1).drops = ALL
    world.run(4.0)
    assert (world.relay(1).state.value, world.relay(1).reason) == ("Down", "MediaLost")
    assert world.relay(1).media_ready is False
    assert world.relay(2).state.value == "Ready"


def test_what_our_own_system_refuses_to_send_says_nothing() -> None:
    world = ready_world(2)
    world.refuse_rtp = True
    world.run(5.0)
    assert world.events() == []
    assert queries(world, 1) == 0


def test_without_addresses_of_ours_there_is_no_canary_for_now() -> None:
    world = World(1, health=HealthPolicy(canary=CANARY))
    world.ours = None
    world.run(3.0)
    assert world.daemon(1).canaries() == []
    world.ours = OURS
    world.run(1.5)
    assert world.relay(1).media_ready is True


def test_the_session_is_deleted_when_the_relay_is_removed() -> None:
    world = ready_world(2)
    del world.descriptions[1]
    world.apply()
    world.run(0.3)
    assert world.events() == ["Ready->Draining", "drain", "removed"]
    assert world.daemon(1).canaries() == []
    assert len(world.fleet.canaries.by_key) == 1


@pytest.mark.parametrize("after", [0.0, 0.02, 0.04, 0.06, 0.08])
def test_the_session_is_deleted_when_the_last_call_leaves_a_removed_relay(after: float) -> None:
    world = ready_world(2)
    world.fleet.reserve(world.relay(1))
    del world.descriptions[1]
    world.apply()
    world.run(1.0 + after)
    assert len(world.daemon(1).canaries()) == 1
    world.fleet.release(world.relay(1))
    world.run(0.3)
    assert world.events()[-1] == "removed"
    assert world.daemon(1).canaries() == []


def test_a_session_that_was_made_anew_before_the_restart_was_known_is_not_left_behind() -> None:
    world = ready_world(2)
    world.run(0.2)
    world.daemon(1).drop_next = 8
    while not queries(world, 1):  # a round is lost, and the relay is asked for the session
        world.run(0.001)
        world.daemon(1).restart(world.now)
    world.run(3.0)
    assert len(world.daemon(1).canaries()) == 1
    assert world.relay(1).media_ready is True


def test_a_draining_relay_keeps_it_until_its_last_call_has_left_and_gets_it_back() -> None:
    world = ready_world(2)
    world.fleet.reserve(world.relay(1))
    world.change(1, intent=Intent.DRAIN)
    world.run(1.0)
    assert len(world.daemon(1).canaries()) == 1
    world.fleet.release(world.relay(1))
    world.run(0.3)
    assert world.daemon(1).canaries() == []  # so that whoever counts the sessions sees that it is empty
    assert world.relay(1).media_ready is True
    world.change(1)
    world.run(0.3)
    assert len(world.daemon(1).canaries()) == 1


def test_it_ends_when_the_policy_ends_it_and_nothing_is_held_against_the_relay() -> None:
    world = ready_world(2)
    world.daemon(1).drops = ALL
    world.run(5.0)
    assert world.states() == ["Down", "Ready"]
    world.policy = type(world.policy)(key=SET, health=HealthPolicy())
    world.apply()
    world.run(0.3)
    assert world.states() == ["Ready", "Ready"]
    assert [world.daemon(index).canaries() for index in (1, 2)] == [[], []]
    world.run(3.0)
    assert [outcome for _, outcome in world.log.probes[-40:]] == ["ok"] * 40


def test_it_begins_when_the_policy_begins_it() -> None:
    world = World(1)
    world.run(1.0)
    assert world.relay(1).media_ready is None
    world.policy = type(world.policy)(key=SET, health=HealthPolicy(canary=CANARY))
    world.apply()
    world.run(0.3)
    assert world.relay(1).media_ready is True


def test_an_orderly_end_deletes_all_sessions() -> None:
    world = ready_world(3)
    world.fleet.stop_canaries(world.now)
    world.run(0.01)
    assert [world.daemon(index).canaries() for index in (1, 2, 3)] == [[], [], []]


def test_another_control_address_gets_a_canary_of_its_own() -> None:
    world = ready_world(2)
    world.daemons[("127.0.0.9", 5)] = world.daemon(1)
    world.descriptions[1] = describe(1, control=("127.0.0.9", 5))
    world.apply()
    world.run(2.0)
    assert len(world.daemon(1).canaries()) == 1
    assert world.states() == ["Ready", "Ready"]


# --- the guard ---


def test_when_no_canary_passes_anywhere_our_own_network_is_suspected_and_calls_go_on() -> None:
    world = ready_world(3)
    for index in (1, 2, 3):
        world.daemon(index).drops = ALL
    world.run(10.0)
    assert world.states() == ["Ready"] * 3
    assert [world.relay(index).reason for index in (1, 2, 3)] == ["MediaUnproven"] * 3
    assert not any("lost" in what or "Down" in what for what in world.events())
    for index in (1, 2, 3):
        world.daemon(index).drops = frozenset()
    world.run(2.0)
    assert [world.relay(index).reason for index in (1, 2, 3)] == ["Probed"] * 3


def test_one_relay_alone_is_never_down_by_its_canary_as_nothing_bears_witness() -> None:
    world = ready_world(1)
    world.daemon(1).drops = ALL
    world.run(10.0)
    assert (world.relay(1).state.value, world.relay(1).reason) == ("Ready", "MediaUnproven")


def test_most_canaries_lost_at_once_hold_the_verdict_but_calls_go_to_the_others() -> None:
    world = ready_world(3)
    for index in (1, 2):
        world.daemon(index).drops = ALL
    world.run(10.0)
    assert world.states() == ["Suspect", "Suspect", "Ready"]
    assert world.relay(1).reason == "MostCanariesLost"
    assert world.fleet.pick(SET) is world.relay(3)


def test_the_guard_lets_go_when_fewer_are_lost_and_gives_as_many_chances_again() -> None:
    world = ready_world(3)
    for index in (1, 2):
        world.daemon(index).drops = ALL
    world.run(10.0)
    world.daemon(2).drops = frozenset()
    freed = world.now
    world.run(10.0)
    assert world.states() == ["Down", "Ready", "Ready"]
    assert world.time_of("lost MediaLost") - freed > THRESHOLD * INTERVAL


def test_half_of_them_is_not_most() -> None:
    world = ready_world(4)
    for index in (1, 2):
        world.daemon(index).drops = ALL
    world.run(5.0)
    assert world.states() == ["Down", "Down", "Ready", "Ready"]


def test_a_witness_that_has_died_since_bears_none() -> None:
    world = ready_world(2)
    world.daemon(2).mode = "frozen"
    world.run(5.0)
    world.daemon(1).drops = ALL
    world.run(10.0)
    assert world.relay(1).state.value == "Ready"
    world.daemon(2).mode = "up"
    world.run(6.0)
    assert (world.relay(1).reason, world.relay(2).state.value) == ("MediaLost", "Ready")


# --- what arrives ---


def test_what_is_foreign_is_no_canary() -> None:
    world = ready_world(1)
    strays = world.fleet.canaries.strays
    for data in (b"", b"\x80", b"\x80" * 172, b"\x80" + bytes(200)):
        world.fleet.canaries.on_packet(data, OURS[0], world.now)
    assert world.fleet.canaries.strays == strays + 4


def test_what_comes_back_to_its_sender_is_no_canary() -> None:
    world = ready_world(2)

    def reflect(data: bytes, source: Address, destination: Address) -> None:
        world.fleet.canaries.on_packet(data, source, world.now)

    world._relay_rtp = reflect  # type: ignore[method-assign]
    world.run(5.0)
    assert ("r1", "media_ok") not in world.log.probes
    assert ("r1", "media_lost") in world.log.probes


def test_packets_of_an_earlier_round_are_no_canary() -> None:
    world = ready_world(2)
    sent: list[tuple[bytes, Address]] = []

    def repeat(data: bytes, source: Address, destination: Address) -> None:
        sent.append((data, OURS[1 - OURS.index(source)]))
        for old, at in sent:
            if old[2:4] != data[2:4]:  # another sequence number
                world.fleet.canaries.on_packet(old, at, world.now)

    world._relay_rtp = repeat  # type: ignore[method-assign]
    world.run(5.0)
    assert ("r1", "media_ok") not in world.log.probes
    assert ("r1", "media_lost") in world.log.probes


def test_a_reply_to_a_session_of_before_means_nothing_to_the_next_one() -> None:
    world = World(1, health=HealthPolicy(canary=CANARY))
    while not world.daemon(1).canaries():
        world.run(0.0001)
    world.fleet.stop_canaries(world.now)  # with the reply to its offer on the way
    world.fleet.review_canary(world.relay(1), world.now)
    world.run(0.1)
    (name,) = world.daemon(1).canaries()
    commands = [command[b"command"] for _, command in world.daemon(1).commands if command.get(b"call-id") == name]
    assert commands == [b"offer", b"answer"]
    assert world.relay(1).media_ready is True


def test_a_packet_that_comes_while_the_relay_is_asked_saves_the_round() -> None:
    world = ready_world(2)
    held: list[tuple[bytes, Address]] = []

    def hold(data: bytes, source: Address, destination: Address) -> None:
        held.append((data, OURS[1 - OURS.index(source)]))

    world._relay_rtp = hold  # type: ignore[method-assign]
    while not queries(world, 1):
        world.run(0.0001)
    for packet in held:
        world.fleet.canaries.on_packet(*packet, world.now)
    world.run(0.01)
    assert ("r1", "media_lost") not in world.log.probes
    assert ("r1", "media_ok") in world.log.probes


def test_a_stalled_process_loses_no_round_whose_packets_wait_in_its_sockets() -> None:
    world = ready_world(2)
    late: list[tuple[bytes, Address, Address]] = []
    world._relay_rtp = lambda *packet: late.append(packet)  # type: ignore[method-assign]
    while len(late) < 8:
        world.run(0.001)
    world.now += 2.0  # this process was stopped, after it had sent all of the round again
    world.timers.run_due(world.now)
    for data, source, _ in late:
        world.fleet.canaries.on_packet(data, OURS[1 - OURS.index(source)], world.now)
    world.run(0.01)
    assert [outcome for _, outcome in world.log.probes if outcome.startswith("media")] == ["media_ok"] * 2


@pytest.mark.parametrize(
    ("description", "address"),
    [
        (b"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 20000 RTP/AVP 0\r\n", ("10.0.0.1", 20000)),
        (b"v=0\nc=IN IP4 10.0.0.1\nm=audio 20000 RTP/AVP 0\nc=IN IP6 ::1\n", ("::1", 20000)),
        (b"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 0 RTP/AVP 0\r\n", None),
        (b"v=0\r\nm=audio 20000 RTP/AVP 0\r\n", None),
        (b"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 99999 RTP/AVP 0\r\n", None),
        (b"c=\r\nm=\r\nm=audio x y\r\n", None),
        (b"", None),
    ],
)
def test_where_a_description_wants_its_packets(description: bytes, address: tuple[str, int] | None) -> None:
    assert media_address(description) == address
