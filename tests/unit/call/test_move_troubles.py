"""Each trouble that a party can make for a call that is being moved, and what becomes of the call."""

from __future__ import annotations

import itertools

import pytest
from tests.unit.call.phones import Party, Reply, address_of
from tests.unit.call.world import CALLEE, CALLER, KEDGE, Packet, Talk, World

from kedge.relay.model import FailoverPolicy, Intent
from kedge.sip.body import sdp_of
from kedge.sip.message import Request, Response
from kedge.sip.sdp import parse_sdp


def version(packet: Packet) -> int:
    return int(packet.message.body.split(b"\r\no=", 1)[1].split()[2])


def moved_off(world: World, talk: Talk) -> list[Packet]:
    """Drain the call's relay; return Kedge's re-INVITEs."""
    since = world.now
    world.intend(talk.relay, Intent.DRAIN)
    world.run(0.1)
    return world.sent("INVITE", since=since)


def test_relay_lost_both_are_reinvited_at_once_and_sent_to_the_same_new_session() -> None:
    world = World()
    talk = world.call()
    since = world.now

    old = world.lose(talk)

    offers = world.sent("INVITE", since=since)
    assert [one.destination for one in offers] == [CALLER, CALLEE]
    assert offers[0].at == offers[1].at
    assert talk.relay != old
    world.assert_anchored(talk)
    assert world.books.results() == ["Moved"]
    talk.callee.bye()
    world.assert_empty()


def test_drain_deletes_the_old_session_once() -> None:
    world = World()
    talk = world.call()
    old = talk.relay

    moved_off(world, talk)

    world.assert_anchored(talk)
    assert len(world.daemons[old].sessions) == 1, "packets that are on their way still find it"
    world.run(1.0)
    assert [what for _, what, _ in world.daemons[old].commands].count("delete") == 1
    assert world.daemons[old].unknown_deletes == []
    assert world.daemons[old].sessions == {}


@pytest.mark.parametrize(("side", "least", "most"), [("caller", 0.0, 2.0), ("callee", 2.1, 4.0)])
def test_491_is_tried_again_after_the_time_of_who_owns_the_call_id(side: str, least: float, most: float) -> None:
    waits = []
    for seed in range(5):
        world = World(seed=seed)
        talk = world.call()
        party: Party = getattr(talk, side)
        party.replies.append(491)
        world.lose(talk)
        refused = next(at for at, what in party.log if what == "sent 491 INVITE")
        world.run(5.0)
        accepted = next(at for at, what in party.log if what == "sent 200 INVITE")
        waits.append(accepted - refused)
        world.assert_anchored(talk)

    # RFC 3261 section 14.1: 2.1 to 4 s for the owner of the Call-ID, 0 to 2 s for the other.
    assert all(least <= wait <= most + 0.01 for wait in waits), waits
    assert len(set(waits)) > 1


def test_491_wait_is_kept_when_the_other_party_ends_an_exchange_meanwhile() -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(491)
    since = world.now
    world.lose(talk, seconds=0.15)
    refused = next(at for at, what in talk.callee.log if what == "sent 491 INVITE")
    talk.caller.replies.append(200)

    talk.caller.send("INFO")
    world.run(10.0)

    again = [one.at for one in world.sent("INVITE", CALLEE, since=since)]
    assert len(again) == 2
    assert again[1] - refused >= 2.1
    world.assert_anchored(talk)


def crossed(side: str) -> tuple[World, Talk, Party, float]:
    """A phone's hold crosses our re-INVITE."""
    world = World()
    talk = world.call()
    party: Party = getattr(talk, side)
    since = world.now
    world.daemons[talk.relay].kill()
    assert world.until(lambda: bool(world.sent("INVITE", party.phone.address, since=since)))
    party.hold()  # it has not got ours yet
    world.run(10.0)
    assert "got 491 INVITE" in party.events()
    assert "sent 491 INVITE" in party.events()
    return world, talk, party, since


def test_crossed_reinvites_both_get_491_and_the_phones_retry_is_served_on_the_new_relay() -> None:
    # The callee does not own its Call-ID: it waits 0 to 2 s, we 2.1 to 4 s.
    world, talk, callee, since = crossed("callee")

    assert len(world.sent("INVITE", CALLEE, since=since)) == 1  # ours was dropped
    assert callee.events()[-1] == "got 200 INVITE"
    assert b"a=sendonly" in talk.caller.remote
    world.assert_anchored(talk)


def test_crossed_reinvites_where_ours_comes_first_the_second_time() -> None:
    world, talk, caller, _ = crossed("caller")

    assert caller.events()[-1] == "got 200 INVITE"
    assert "sent 200 INVITE" in caller.events()
    assert b"a=sendonly" in talk.callee.remote
    world.assert_anchored(talk)


@pytest.mark.parametrize("update", [False, True])
def test_phones_own_offer_on_a_lost_relay_is_served_on_another(update: bool) -> None:
    world = World()
    talk = world.call()
    old = talk.relay
    world.daemons[old].mode = "frozen"

    talk.caller.hold(update=update)
    world.run(3.0)

    assert talk.caller.events()[-2:] != []
    world.assert_anchored(talk)
    assert talk.relay != old
    assert b"a=sendonly" in talk.callee.remote
    assert b"a=recvonly" in talk.caller.remote


def test_offer_waits_for_ours_on_the_other_leg() -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(slow(world, 1.0))
    world.lose(talk, seconds=0.2)

    talk.caller.hold()
    world.run(0.5)
    assert not [one for one in talk.caller.responses if one.cseq_method == "INVITE" and one.cseq == 2 and one.is_final]
    world.run(3.0)

    assert talk.caller.events()[-1] == "got 200 INVITE"
    world.assert_anchored(talk)


def test_offer_is_refused_with_491_when_ours_on_the_other_leg_takes_longer_than_2_s() -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(slow(world, 3.0))
    world.lose(talk, seconds=0.2)
    sent = world.now

    talk.caller.hold()
    world.run(2.1)

    refusal = next(at for at, what in talk.caller.log if what == "got 491 INVITE")
    assert refusal - sent == pytest.approx(2.0, abs=0.01)
    world.run(10.0)
    world.assert_anchored(talk)
    assert b"a=sendonly" in talk.callee.remote


def slow(world: World, seconds: float) -> Reply:
    """A reply that the phone gives ``seconds`` later."""

    def reply(party: Party, request: Request) -> Response | None:
        layer = party.phone.layer
        tx = next(one for one in layer.servers.values() if one.request is request)
        world.at(seconds, lambda: party._reply(tx, request, 200, world.now))
        return None

    return reply


def test_reinvite_without_ack_is_waited_for() -> None:
    world = World()
    talk = world.call()
    talk.caller.acks = False
    talk.caller.hold()
    world.run(0.1)
    since = world.now

    world.lose(talk, seconds=1.0)
    assert world.sent("INVITE", since=since) == []
    talk.caller.acks = True  # its next one is for the repeated 200
    world.run(5.0)

    world.assert_anchored(talk)


def test_info_does_not_block() -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(lambda party, request: None)  # the INFO is never answered
    talk.caller.send("INFO")
    world.run(0.1)

    world.lose(talk)

    world.assert_anchored(talk)


@pytest.mark.parametrize("status", [401, 407])
def test_a_party_that_asks_for_credentials_keeps_its_call(status: int) -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(status)

    world.lose(talk)
    world.run(20.0)

    assert talk.alive
    assert (talk.caller.talking, talk.callee.talking) == (True, True)
    assert talk.call.anchored_reason == "Failed"
    assert str(status) in talk.call.anchored_message
    assert [reason for reason, _ in world.books.events] == ["CallNotMoved"]


@pytest.mark.parametrize("status", [415, 488, 606])
def test_refused_while_the_old_relay_lives_the_other_is_rolled_back_with_a_new_version(status: int) -> None:
    world = World()
    talk = world.call()
    old, before = talk.relay, talk.caller.remote
    talk.callee.replies.append(status)

    offers = moved_off(world, talk)

    to_caller = [one for one in offers if one.destination == CALLER]
    assert [version(one) for one in to_caller] == [2, 3]
    assert address_of(to_caller[1].message.body) == address_of(before)
    assert len(offers) - len(to_caller) == 1  # the one that refused is left alone (RFC 6141)
    world.assert_anchored(talk, old)
    assert world.books.results() == ["RolledBack"]
    talk.caller.bye()
    world.assert_empty()


def test_refused_with_the_old_relay_dead_it_is_offered_the_exact_description_that_it_once_took() -> None:
    world = World()
    world.right.formats = ("0", "101")  # agreed: fewer than what the callee was offered
    talk = world.call()
    offered_once = talk.callee.remote
    talk.callee.replies.append(488)

    world.lose(talk)

    second = world.sent("INVITE", CALLEE)[-1].message.body
    assert parse_sdp(second).media[0].formats == parse_sdp(offered_once).media[0].formats == ["0", "8", "101"]
    assert address_of(second)[0] != address_of(offered_once)[0]
    world.assert_anchored(talk)


@pytest.mark.parametrize(("hang_up", "alive"), [(True, False), (False, True)])
def test_refused_for_good_with_the_old_relay_dead_the_policy_decides(hang_up: bool, alive: bool) -> None:
    world = World(failover=FailoverPolicy(hang_up_unmovable=hang_up))
    talk = world.call()
    talk.callee.replies.extend([488, 488, 488, 488])

    world.lose(talk)
    world.run(5.0)

    assert talk.alive is alive
    assert (talk.caller.talking, talk.callee.talking) == (alive, alive)
    assert any(reason == "CallNotMoved" for reason, _ in world.books.events)
    assert world.books.reports[-1].failed == 1
    if not alive:
        assert "could not be moved" in talk.callee.events()[-2]
        world.assert_empty()


@pytest.mark.parametrize("status", [404, 410, 416, 481, 482, 483, 484, 485, 502, 604])
def test_a_dialog_that_is_over_ends_the_other_party_too(status: int) -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(status)

    world.lose(talk)

    assert not talk.alive
    assert talk.caller.events()[-1] == "BYE"
    assert f"cause={status}" in talk.caller.events()[-2]
    assert world.sent("BYE", CALLEE) == []  # RFC 5057: that dialog is gone
    talk.callee.end("as it said")
    world.assert_empty()


def test_silence_ends_both_after_the_answer_timeout() -> None:
    world = World()
    talk = world.call()
    world.tamper = lambda packet: None if packet.destination == CALLEE and packet.word == "INVITE" else 0.0
    world.lose(talk)
    world.run(3.5)
    assert talk.alive

    world.run(1.0)

    assert not talk.alive
    assert (talk.caller.state, talk.callee.state) == ("ended", "ended")
    world.assert_empty()


def test_when_a_whole_peer_falls_silent_its_calls_are_kept_and_moved_when_it_is_back() -> None:
    world = World(settings={"breaker_count": 4})
    talks = [world.call() for _ in range(12)]
    for name in {talk.relay for talk in talks}:
        if name != "r1":
            world.intend(name, Intent.DRAIN)
    world.run(1.0)
    world.intend("r2", Intent.SERVE)
    world.tamper = lambda packet: None if CALLEE in (packet.source, packet.destination) else 0.0
    world.daemons["r1"].kill()
    world.run(6.0)
    ended = [talk for talk in talks if not talk.alive]
    assert len(ended) <= 4

    world.tamper = None
    world.run(60.0)

    for talk in talks:
        if talk not in ended:
            world.assert_anchored(talk)


@pytest.mark.parametrize(("headers", "wait"), [({"Retry-After": "3"}, 3.0), ({}, 2.0), ({"Retry-After": "500"}, 10.0)])
@pytest.mark.parametrize("status", [500, 503, 504])
def test_later_means_later(status: int, headers: dict[str, str], wait: float) -> None:
    world = World()
    talk = world.call()

    def refuse(party: Party, request: Request) -> Response:
        response = party._response(request, status, b"")
        for name, value in headers.items():
            response.add(name, value)
        return response

    talk.callee.replies.append(refuse)
    world.lose(talk)
    world.run(12.0)

    first, second = world.sent("INVITE", CALLEE)[-2:]
    assert second.at - first.at == pytest.approx(wait, abs=0.01)
    world.assert_anchored(talk)


def test_422_raises_the_session_interval() -> None:
    world = World()
    world.right.answer_headers = {"Session-Expires": "90;refresher=uas"}
    talk = world.call(headers={"Session-Expires": "90", "Supported": "timer"})

    def refuse(party: Party, request: Request) -> Response:
        response = party._response(request, 422, b"")
        response.add("Min-SE", "300")
        return response

    talk.callee.replies.append(refuse)
    world.lose(talk)

    first, second = (one.message for one in world.sent("INVITE", CALLEE)[-2:])
    assert first.get("Session-Expires") == "90;refresher=uas"  # RFC 4028: the roles are kept
    assert second.get("Session-Expires") == "300;refresher=uas"
    assert second.get("Min-SE") == "300"
    world.assert_anchored(talk)


def test_target_dies_while_the_call_moves_there_and_the_call_goes_on_to_the_third() -> None:
    world = World()
    talk = world.call()
    first = talk.relay
    world.tamper = lambda packet: 0.3 if packet.source == CALLEE and packet.word == "200 INVITE" else 0.0
    world.daemons[first].kill()
    assert world.until(lambda: talk.relay != first)
    second = talk.relay
    world.daemons[second].kill()

    world.run(10.0)

    assert talk.relay not in (first, second)
    world.assert_anchored(talk)
    talk.caller.bye()
    world.assert_empty()


def test_target_does_not_answer_and_another_one_is_taken() -> None:
    world = World()
    talk = world.call()
    first = talk.relay
    for name, daemon in world.daemons.items():
        daemon.distort = (lambda command, output: "No more ports") if name != "r3" else None
    if first == "r3":
        world.daemons["r3"].distort, world.daemons["r1"].distort = world.daemons["r1"].distort, None

    world.lose(talk, seconds=1.0)

    world.assert_anchored(talk)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_bye_while_moving_ends_the_call_and_both_sessions(side: str) -> None:
    for delay in (0.001, 0.002, 0.003, 0.004, 0.005):
        world = World()
        talk = world.call()
        world.intend(talk.relay, Intent.DRAIN)
        world.run(delay)

        getattr(talk, side).bye()
        world.run(1.0)

        assert not talk.alive
        assert [list(one.sessions) for one in world.daemons.values()] == [[], [], []]
        world.assert_empty()


def test_200_without_description_leaves_all_as_it_was() -> None:
    world = World()
    talk = world.call()

    def accept(party: Party, request: Request) -> Response:
        party.accept(request)
        return party._response(request, 200, b"")

    talk.callee.replies.append(accept)
    world.lose(talk)

    world.assert_anchored(talk)
    assert world.books.results() == ["Moved"]


@pytest.mark.parametrize("wanted", ["sendonly", "inactive", "recvonly"])
def test_direction_is_kept_through_a_move(wanted: str) -> None:
    world = World()
    talk = world.call()
    talk.caller.wanted = wanted
    talk.caller.reinvite()
    world.run(1.0)
    caller, callee = (parse_sdp(one.remote).media[0].direction() for one in (talk.caller, talk.callee))
    assert callee == wanted

    world.lose(talk)

    world.assert_anchored(talk)
    assert parse_sdp(talk.caller.remote).media[0].direction() == caller
    assert parse_sdp(talk.callee.remote).media[0].direction() == callee


def test_hold_by_address_is_kept_through_a_move() -> None:
    world = World()
    talk = world.call()
    talk.caller.held_by_address = True
    talk.caller.reinvite()
    world.run(1.0)

    world.lose(talk)

    world.assert_anchored(talk)
    assert address_of(talk.callee.remote)[0] == "0.0.0.0"


def test_switched_off_m_lines_stay_in_their_place_and_off() -> None:
    world = World()
    body = world.left.invite("9").describe() + b"m=image 0 udptl t38\r\n"
    talk = world.call(body=body)

    world.lose(talk)

    for party in (talk.caller, talk.callee):
        assert [(one.kind, one.enabled) for one in parse_sdp(party.remote).media] == [("audio", True), ("image", False)]
    world.assert_anchored(talk)


def test_formats_are_pruned_to_what_was_agreed() -> None:
    world = World()
    world.right.formats = ("0", "101")
    talk = world.call()

    world.lose(talk)

    offers = [parse_sdp(one.message.body).media[0].formats for one in world.sent("INVITE")[-2:]]
    assert offers == [["0", "101"], ["0", "101"]]


def test_answers_that_differ_are_brought_together() -> None:
    world = World()
    talk = world.call()
    talk.callee.formats = ("0", "101")  # from now on

    world.lose(talk, seconds=1.0)

    assert world.books.results() == ["Moved"]
    for party in (talk.caller, talk.callee):
        assert parse_sdp(party.remote).media[0].formats == ["0", "101"]
    world.assert_anchored(talk)


def encrypted(world: World) -> Talk:
    """Return a call with SRTP between phones that know one suite, through relays that add others to each offer."""
    keys = (f"inline:{number}" for number in itertools.count())

    def add(command: str, output: bytes) -> bytes:
        more = f"a=crypto:2 AEAD_AES_256_GCM {next(keys)}\r\n" if command == "offer" else ""
        return output + more.encode()

    for daemon in world.daemons.values():
        daemon.distort = add
    world.left.key, world.right.key = "ofAlice", "ofBob"
    return world.call()


VIDEO = (
    b"v=0\r\no=alice 1 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\n"
    b"m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\nm=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)


def test_video_that_the_callee_has_refused_is_not_offered_again_and_costs_no_call() -> None:
    world = World(4)
    talk = world.call(body=VIDEO)

    for _ in range(3):
        world.lose(talk)
        world.assert_anchored(talk)

    for party in (talk.caller, talk.callee):
        assert [[one.enabled for one in parse_sdp(offer).media] for offer in party.offers[-3:]] == [[True, False]] * 3
    assert world.books.results() == ["Moved"] * 3


def test_telephone_events_under_a_number_of_the_callees_own_are_kept() -> None:
    """A party may number an encoding anew in its answer (RFC 3264 section 6.1 says only that it should not)."""
    world = World(4)
    world.right.renumbers = {"101": "96"}
    talk = world.call()

    for _ in range(2):
        world.lose(talk)
        world.assert_anchored(talk)

    for party in (talk.caller, talk.callee):
        media = parse_sdp(party.remote).media[0]
        assert {media.encoding(one) for one in media.formats} >= {"PCMU/8000", "TELEPHONE-EVENT/8000"}
    assert world.books.results() == ["Moved"] * 2


def fax(name: str, address: str, port: int) -> bytes:
    """A description of a fax alone (RFC 3362)."""
    return (
        f"v=0\r\no={name} 1 9 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n"
        f"m=image {port} udptl t38\r\na=T38FaxVersion:0\r\na=T38FaxUdpEC:t38UDPRedundancy\r\n"
    ).encode()


def test_a_call_that_has_become_a_fax_is_moved_as_one() -> None:
    world = World(4)
    talk = world.call()
    for party, port in ((talk.caller, 4400), (talk.callee, 4402)):
        described = fax(party.phone.name, party.phone.address[0], port)
        party.answer = lambda offer, described=described: described
    talk.callee.reinvite(body=fax("bob", CALLEE[0], 4402))
    world.run(0.5)

    for _ in range(2):
        world.lose(talk)
        assert world.faults_of(talk) == []

    for party in (talk.caller, talk.callee):
        media = [parse_sdp(offer).media for offer in party.offers[-2:]]
        assert [[(one.kind, one.protocol, one.formats) for one in each] for each in media] == [
            [("image", "udptl", ["t38"])]
        ] * 2
    assert world.books.results() == ["Moved"] * 2


def keys_of(talk: Talk) -> list[list[str]]:
    """Return what each party was told of the other's keys."""
    return [parse_sdp(one.remote).media[0].attributes("crypto") for one in (talk.caller, talk.callee)]


def test_the_suite_in_force_is_the_only_one_that_is_offered_again() -> None:
    world = World()
    talk = encrypted(world)
    assert len(keys_of(talk)[1]) == 2
    since = world.now

    world.lose(talk)

    suite = "1 AES_CM_128_HMAC_SHA1_80 inline:"
    assert keys_of(talk) == [[f"{suite}ofBob"], [f"{suite}ofAlice"]]
    assert len(world.sent("INVITE", since=since)) == 2, "one each"
    assert world.books.results() == ["Moved"]
    world.assert_anchored(talk)


def test_a_party_that_is_rolled_back_is_offered_the_suite_in_force_alone_too() -> None:
    world = World()
    talk = encrypted(world)
    talk.caller.replies.append(488)

    offers = moved_off(world, talk)

    suites = [parse_sdp(one.message.body).media[0].attributes("crypto") for one in offers if one.destination == CALLEE]
    assert suites == [["1 AES_CM_128_HMAC_SHA1_80 inline:ofAlice"]] * 2, "there and back"
    assert world.books.results() == ["RolledBack"]
    world.assert_anchored(talk)


def test_keys_that_a_relay_wraps_in_rubbish_are_not_sent_and_another_relay_is_taken() -> None:
    world = World()
    talk = encrypted(world)
    old, rubbish = talk.relay, next(name for name in world.daemons if name != talk.relay)
    world.daemons[rubbish].distort = lambda command, output: b"v=0\r\na=crypto:1 AEAD_AES_256_GCM inline:x\r\n"

    offers = moved_off(world, talk)

    assert talk.relay not in (old, rubbish)
    assert len(offers) == 2, "one each"
    world.assert_anchored(talk)


@pytest.mark.parametrize("changes", [("caller",), ("callee",), ("caller", "callee")])
def test_a_key_that_a_party_changes_in_its_answer_reaches_the_other(changes: tuple[str, ...]) -> None:
    world = World()
    talk = encrypted(world)
    for side in changes:
        getattr(talk, side).key = f"{side}New"

    world.lose(talk, seconds=1.0)

    suite = "1 AES_CM_128_HMAC_SHA1_80 inline:"
    assert keys_of(talk) == [[f"{suite}{talk.callee.key}"], [f"{suite}{talk.caller.key}"]]
    assert world.books.results() == ["Moved"]
    world.assert_anchored(talk)


def test_answers_that_never_agree_are_left_after_three_offers_and_rest() -> None:
    world = World()
    talk = world.call()
    directions = itertools.cycle((b"recvonly", b"sendonly", b"inactive"))

    def wayward(offer: bytes) -> bytes:
        head, _, _ = talk.callee._usual_answer(offer).rpartition(b"a=")
        return head + b"a=" + next(directions) + b"\r\n"

    talk.callee.answer = wayward
    since = world.now
    world.lose(talk, seconds=5.0)
    offers = world.sent("INVITE", since=since)

    assert world.books.results() == ["AnswersDiverge"]
    assert talk.call.anchored_reason == "AnswersDiverge"
    assert talk.call.rest_until == pytest.approx(since + 60.0, abs=5.0)
    assert max(len([one for one in offers if one.destination == to]) for to in (CALLER, CALLEE)) <= 3
    world.idle(120.0)
    assert len(world.sent("INVITE", since=since)) == len(offers)


def test_own_version_rises_with_each_change_and_for_refused_offers_too() -> None:
    world = World()
    talk = world.call()
    talk.callee.replies.append(491)  # the same body is offered again: same version
    world.lose(talk, seconds=6.0)
    talk.callee.replies.append(503)
    world.lose(talk, seconds=6.0)

    offers = world.sent("INVITE", CALLEE)
    assert [version(one) for one in offers] == [1, 2, 2, 3, 3]
    origins = {one.message.body.split(b"\r\no=", 1)[1].split(b"\r\n")[0].split(b" ")[1] for one in offers}
    assert len(origins) == 1


def test_changed_contact_in_the_200_is_followed_only_within_the_peers_networks() -> None:
    world = World()
    elsewhere = world.phone("bob2", ("203.0.113.99", 5060))
    talk = world.call()
    world.right.contact = "<sip:bob@203.0.113.99:5060>"
    world.lose(talk)
    assert world.sent("ACK")[-1].destination == elsewhere.address

    stranger = World()
    talk = stranger.call()
    stranger.right.contact = "<sip:bob@10.0.0.9:5060>"
    stranger.lose(talk)
    acks = stranger.sent("ACK", CALLEE)
    assert acks[-1].data.startswith(b"ACK sip:bob@10.0.0.9:5060")  # the Request-URI is its own business
    assert {one.destination for one in stranger.packets if one.source == KEDGE} == {CALLER, CALLEE}


def test_late_200_of_a_reinvite_is_acked_again_each_time_it_comes() -> None:
    world = World()
    talk = world.call()
    lost = iter([True, True])
    world.tamper = lambda packet: (
        None if packet.destination == CALLEE and packet.word == "ACK" and next(lost, 0) else 0.0
    )

    world.lose(talk, seconds=5.0)

    assert talk.callee.events().count("got ACK") == 2  # at set-up, and now
    assert len(world.sent("ACK", CALLEE)) == 4
    world.assert_anchored(talk)
    assert sdp_of(world.sent("ACK", CALLEE)[-1].message).sdp == b""
