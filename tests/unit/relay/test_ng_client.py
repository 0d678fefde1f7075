from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.base.ids import CountingIds
from kedge.base.timers import TimerHeap
from kedge.relay.backend import RelayReply, RelayUser
from kedge.relay.bencode import decode_dict, encode
from kedge.relay.ng_client import (
    NgClient,
    NgSettings,
    instance_of,
    read_reply,
    read_reply_generally,
    uptime_of,
)

SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nm=audio 5000 RTP/AVP 0\r\n"
DESCRIBE, DELETE = 0, 1  # kinds of command, as read_reply takes them


class Caller(RelayUser):
    """Keeps the replies that it is given."""

    __slots__ = ("replies",)

    def __init__(self) -> None:
        self.replies: list[tuple[int, float, RelayReply]] = []

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        self.replies.append((token, now, reply))

    @property
    def errors(self) -> list[tuple[int, str]]:
        return [(token, reply.error) for token, _, reply in self.replies]


class Bench:
    """A client with its timers and a clock that only this moves."""

    def __init__(self, **settings: Any) -> None:
        self.timers = TimerHeap()
        self.caller = Caller()
        self.client = NgClient("r1", self.timers, CountingIds(), NgSettings(**settings))

    def offer(self, token: int, now: float = 0.0) -> None:
        self.client.offer(f"s{token}", "a", "", SDP, self.caller, token, now)

    def delete(self, token: int, now: float = 0.0) -> None:
        self.client.delete(f"s{token}", "a", self.caller, token, now)

    def sent(self) -> list[bytes]:
        sent = self.client.out[:]
        self.client.out.clear()
        return sent

    def run(self, until: float) -> list[tuple[float, bytes]]:
        """Fire timers one deadline after another; return what was sent, and when."""
        sent: list[tuple[float, bytes]] = []
        while (at := self.timers.next_deadline()) is not None and at <= until:
            self.timers.run_due(at)
            sent += [(round(at, 6), data) for data in self.sent()]
        return sent

    def answer(self, request: bytes, now: float = 0.0, reply: bytes = b"d3:sdp1:x6:result2:oke") -> None:
        self.client.on_datagram(cookie_of(request) + b" " + reply, now)


def cookie_of(request: bytes) -> bytes:
    return request.split(b" ", 1)[0]


def body_of(request: bytes) -> dict[bytes, Any]:
    return decode_dict(request, request.index(b" ") + 1)


def test_offer_and_answer_are_canonical_bencoding_of_the_right_dictionary() -> None:
    bench = Bench()
    bench.client.offer("sess", "a", "", SDP, bench.caller, 1, 0.0)
    bench.client.answer("sess", "a", "bb", SDP, bench.caller, 2, 0.0)
    common = {
        b"DTLS": b"off",
        b"ICE": b"remove",
        b"call-id": b"sess",
        b"flags": [b"port-latching"],
        b"from-tag": b"a",
        b"sdp": SDP,
    }

    offer, answer = bench.sent()

    assert offer == cookie_of(offer) + b" " + encode({**common, b"command": b"offer"})
    assert answer == cookie_of(answer) + b" " + encode({**common, b"command": b"answer", b"to-tag": b"bb"})


NAMES = st.text(min_size=1, max_size=30)
PROFILES = ("", "RTP/SAVP", "RTP/AVPF")


@given(
    NAMES, NAMES, st.text(max_size=30), st.binary(max_size=200), st.lists(NAMES, max_size=3), st.sampled_from(PROFILES)
)
def test_formatted_commands_equal_the_general_codec(
    session: str, from_tag: str, to_tag: str, sdp: bytes, flags: list[str], profile: str
) -> None:
    bench = Bench(flags=tuple(flags))
    bench.client.offer(session, from_tag, to_tag, sdp, bench.caller, 1, 0.0, profile)
    bench.client.delete(session, from_tag, None, 0, 0.0)
    offer, delete = bench.sent()

    expected = {
        b"DTLS": b"off",
        b"ICE": b"remove",
        b"call-id": session.encode(),
        b"command": b"offer",
        b"from-tag": from_tag.encode(),
        b"sdp": sdp,
    }
    if flags:
        expected[b"flags"] = [flag.encode() for flag in flags]  # type: ignore[assignment]
    if to_tag:
        expected[b"to-tag"] = to_tag.encode()
    if profile:
        expected[b"transport protocol"] = profile.encode()
    assert offer.split(b" ", 1)[1] == encode(expected)
    assert body_of(delete) == {
        b"call-id": session.encode(),
        b"command": b"delete",
        b"delete delay": 0,
        b"from-tag": from_tag.encode(),
    }
    assert delete.split(b" ", 1)[1] == encode(body_of(delete))


def test_cookies_differ_over_clients_and_commands() -> None:
    ids, timers, caller = CountingIds(), TimerHeap(), Caller()
    clients = [NgClient("r", timers, ids, NgSettings()) for _ in range(2)]
    for client in clients:
        for token in range(3):
            client.ping(caller, token, 0.0, 0.1)
    assert len({cookie_of(data) for client in clients for data in client.out}) == 6


def test_a_lost_command_is_sent_again_as_it_was_and_then_times_out() -> None:
    bench = Bench()
    bench.offer(7)
    first = bench.sent()[0]

    assert bench.run(10.0) == [(at, first) for at in (0.1, 0.3, 0.7, 1.5)]
    assert [(token, at, reply.error) for token, at, reply in bench.caller.replies] == [(7, 2.0, "timeout")]
    assert (bench.client.retransmissions, bench.client.timeouts) == (4, 1)
    assert bench.client.idle


def test_a_reply_ends_the_command_and_its_repetition_is_a_stray() -> None:
    bench = Bench()
    bench.offer(7)
    request = bench.sent()[0]
    bench.answer(request, 0.001)
    bench.answer(request, 0.002)

    assert [(token, at, reply.sdp) for token, at, reply in bench.caller.replies] == [(7, 0.001, b"x")]
    assert bench.client.strays == 1
    assert bench.run(10.0) == []
    assert len(bench.timers) == 0


def test_the_window_holds_commands_back_and_deletes_go_last() -> None:
    bench = Bench(window=2)
    bench.delete(1)
    bench.offer(2)
    bench.delete(3)
    bench.offer(4)
    first, second = bench.sent()
    assert bench.client.backlog == 2

    bench.answer(first)
    bench.answer(second)

    assert [(body_of(data)[b"command"], body_of(data)[b"call-id"]) for data in bench.sent()] == [
        (b"offer", b"s4"),
        (b"delete", b"s3"),
    ]


def test_what_waits_in_vain_times_out_and_a_delete_waits_longer() -> None:
    bench = Bench(window=1, retry=())
    bench.offer(1)
    bench.delete(2, 0.5)
    bench.offer(3, 0.5)
    assert [cookie_of(data) for data in bench.sent()] == [b"t1.1"]

    bench.run(2.1)
    assert bench.caller.errors == [(1, "timeout")]  # and 3 had its turn at 2.0
    bench.run(30.0)
    assert bench.caller.errors == [(1, "timeout"), (3, "timeout"), (2, "timeout")]
    assert [at for _, at, _ in bench.caller.replies] == [2.0, 2.5, 4.5]


def test_a_delete_that_never_had_a_turn_ends_after_its_longest_wait() -> None:
    bench = Bench(window=1, retry=(), timeout=100.0, delete_wait=30.0)
    bench.offer(1)
    bench.offer(2, 1.0)
    bench.delete(3, 1.0)
    bench.run(50.0)
    assert [(token, at) for token, at, _ in bench.caller.replies] == [(3, 31.0)]
    bench.run(101.0)
    assert [(token, at) for token, at, _ in bench.caller.replies] == [(3, 31.0), (1, 100.0), (2, 101.0)]


def test_other_settings_hold_for_what_is_sent_from_then_on() -> None:
    bench = Bench(window=1)
    bench.offer(1)
    bench.offer(2)
    first = bench.sent()[0]

    bench.client.reload(NgSettings(window=2, retry=(0.3,), timeout=0.5))
    bench.offer(3)
    third = bench.sent()[0]

    assert (body_of(third)[b"call-id"], bench.client.backlog) == (b"s3", 1)
    bench.answer(first)
    assert body_of(bench.sent()[0])[b"call-id"] == b"s2"
    bench.run(10.0)
    assert [(token, at) for token, at, reply in bench.caller.replies if reply.error == "timeout"] == [
        (3, 0.5),
        (2, 2.0),
    ]


def test_a_ping_passes_the_window_and_is_never_sent_again() -> None:
    bench = Bench(window=1)
    bench.offer(1)
    bench.offer(2)
    bench.client.ping(bench.caller, 9, 0.0, 0.1)
    assert [body_of(data)[b"command"] for data in bench.sent()] == [b"offer", b"ping"]

    bench.run(0.1)

    assert bench.caller.errors == [(9, "timeout")]
    assert bench.client.retransmissions == 1  # the offer's


def test_a_probe_whose_timer_fires_late_gets_one_short_grace() -> None:
    bench = Bench()
    bench.client.ping(bench.caller, 1, 0.0, 0.1)
    bench.timers.run_due(0.5)  # this process was stalled: the reply may lie unread in the socket
    assert bench.caller.errors == []
    bench.timers.run_due(0.6)
    assert bench.caller.errors == [(1, "timeout")]


def test_refusal_ends_probes_but_commands_go_on() -> None:
    bench = Bench()
    bench.offer(1)
    bench.client.ping(bench.caller, 2, 0.0, 0.1)
    request = bench.sent()[0]

    bench.client.on_refused(0.01)

    assert bench.caller.errors == [(2, "refused")]
    bench.answer(request, 0.2)
    assert bench.caller.errors == [(2, "refused"), (1, "")]


def test_abort_ends_all_commands_but_takes_new_ones() -> None:
    bench = Bench(window=1)
    bench.offer(1)
    bench.offer(2)
    bench.delete(3)
    bench.client.ping(bench.caller, 4, 0.0, 0.1)

    bench.client.abort(0.01)

    assert bench.caller.errors == [(1, "relay down"), (2, "relay down"), (3, "relay down")]
    bench.sent()
    bench.offer(5, 0.02)
    bench.answer(bench.sent()[0], 0.03)
    bench.run(5.0)
    assert bench.caller.errors[3:] == [(5, ""), (4, "timeout")]


def test_close_ends_everything_and_what_is_given_later_ends_by_a_timer() -> None:
    bench = Bench(window=1)
    bench.offer(1)
    bench.delete(2)
    bench.client.ping(bench.caller, 3, 0.0, 0.1)

    bench.client.close(0.01)

    assert sorted(bench.caller.errors) == [(1, "relay down"), (2, "relay down"), (3, "relay down")]
    assert bench.client.out == []
    assert len(bench.timers) == 0
    bench.offer(4, 0.02)
    assert len(bench.caller.replies) == 3  # not from within the call
    assert bench.run(0.02) == []
    assert bench.caller.errors[3:] == [(4, "relay down")]


class Follower(Caller):
    """Gives a further command for each reply."""

    __slots__ = ("bench",)
    bench: Bench

    def on_relay_reply(self, token: int, reply: RelayReply, now: float) -> None:
        super().on_relay_reply(token, reply, now)
        if token < 10:
            self.bench.offer(token + 10, now)


def test_a_user_may_give_commands_while_it_is_told() -> None:
    bench = Bench(window=1)
    bench.caller = follower = Follower()
    follower.bench = bench
    for token in range(3):
        bench.offer(token)
    bench.client.abort(0.0)
    while sent := bench.sent():
        for data in sent:
            bench.answer(data, 0.0)
    assert sorted(token for token, _ in follower.errors) == [0, 1, 2, 10, 11, 12]
    assert bench.client.idle


OK_SDP = st.binary(max_size=50).map(lambda sdp: b"d3:sdp%d:%b6:result2:oke" % (len(sdp), sdp))
REPLIES = (
    OK_SDP
    | st.binary(max_size=60)
    | st.binary(max_size=30).map(lambda text: b"d3:sdp" + text + b"6:result2:oke")
    | st.dictionaries(
        st.sampled_from([b"sdp", b"result", b"error-reason"]), st.sampled_from([b"ok", b"error", b"x", 1])
    ).map(lambda fields: encode(fields))
)


@given(REPLIES)
def test_replies_to_offers_are_read_as_the_general_codec_reads_them(data: bytes) -> None:
    fast, general = read_reply(DESCRIBE, b"c " + data, 2), read_reply_generally(DESCRIBE, b"c " + data, 2)
    assert (fast.sdp, fast.error) == (general.sdp, general.error)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"d6:result5:error12:error-reason15:Unknown call-ide", "Unknown call-id"),
        (b"d6:result10:load limit7:message4:fulle", "load limit"),
        (b"d6:result2:oke", "bad reply: it has no sdp"),
        (b"d6:result2:ok", "bad reply: a dictionary has no end"),
        (b"de", "bad reply"),
    ],
)
def test_an_error_is_told_in_the_relays_words(reply: bytes, error: str) -> None:
    bench = Bench()
    bench.offer(1)
    bench.answer(bench.sent()[0], reply=reply)
    assert bench.caller.errors == [(1, error)]


def test_delete_of_an_unknown_session_is_no_error() -> None:
    bench = Bench()
    bench.delete(1)
    bench.answer(bench.sent()[0], reply=b"d7:warning38:Call-ID not found or tags didn't match6:result2:oke")
    bench.delete(2)
    bench.answer(bench.sent()[0], reply=b"d6:result2:ok7:warning3:abce")
    assert bench.caller.errors == [(1, ""), (2, "")]


@pytest.mark.parametrize("datagram", [b"", b" ", b"junk", b"t1.99 d6:result2:oke", b"other d6:result2:oke", b"t1.1"])
def test_foreign_datagrams_are_only_counted(datagram: bytes) -> None:
    bench = Bench()
    bench.offer(1)
    bench.client.on_datagram(datagram, 0.1)
    assert (bench.client.strays, bench.caller.replies) == (1, [])


def test_a_late_reply_is_a_sign_of_life() -> None:
    bench = Bench()
    bench.client.ping(bench.caller, 1, 0.0, 0.1)
    ping = bench.sent()[0]
    bench.run(0.1)
    assert bench.client.heard < 0
    bench.answer(ping, 0.4, b"d6:result4:ponge")
    assert bench.client.heard == 0.4


def test_identify_reads_the_instance_and_deletes_the_probe_session() -> None:
    bench = Bench()
    bench.client.identify(bench.caller, 1, 0.0, 0.1)
    probe = bench.sent()[0]
    assert body_of(probe)[b"flags"] == [b"loop-protect"]
    sdp = b"v=0\r\na=rtpengine:c2cf612e2bd5\r\nm=audio 0 RTP/AVP 0\r\n"
    bench.answer(probe, 0.01, encode({b"sdp": sdp, b"result": b"ok"}))

    assert instance_of(bench.caller.replies[0][2]) == "c2cf612e2bd5"
    delete = body_of(bench.sent()[0])
    assert (delete[b"command"], delete[b"call-id"]) == (b"delete", body_of(probe)[b"call-id"])


def test_a_reply_without_instance_has_none() -> None:
    assert instance_of(RelayReply(None, "", {b"sdp": b"v=0\r\n"})) == ""
    assert instance_of(RelayReply(None, "timeout")) == ""


@pytest.mark.parametrize(
    ("fields", "uptime"),
    [
        ({b"statistics": {b"totalstatistics": {b"uptime": b"12"}}}, 12.0),
        ({b"statistics": {b"totalstatistics": {b"uptime": 12}}}, 12.0),
        ({b"statistics": {b"totalstatistics": {b"uptime": b"-"}}}, None),
        ({b"statistics": {b"totalstatistics": {}}}, None),
        ({b"statistics": b""}, None),
        (None, None),
    ],
)
def test_uptime_is_read_from_statistics(fields: dict[bytes, Any] | None, uptime: float | None) -> None:
    assert uptime_of(RelayReply(None, "", fields)) == uptime


def test_query_and_list_return_all_fields() -> None:
    bench = Bench()
    bench.client.query("s1", bench.caller, 1, 0.0)
    bench.client.list_sessions(500, bench.caller, 2, 0.0)
    query, listing = bench.sent()
    assert (body_of(query), body_of(listing)) == (
        {b"call-id": b"s1", b"command": b"query"},
        {b"command": b"list", b"limit": 500},
    )
    bench.answer(listing, reply=b"d5:callsl2:s1e6:result2:oke")
    assert bench.caller.replies[0][2].fields == {b"calls": [b"s1"], b"result": b"ok"}
