"""Server transactions: each state and timer of RFC 3261 section 17.2 and RFC 6026, and where responses go."""

from __future__ import annotations

import pytest
from tests.unit.sip.transactions_kit import PEER, Bench, first_word, request

from kedge.base.address import Address
from kedge.sip.message import make_response
from kedge.sip.transaction import ACCEPTED, COMPLETED, CONFIRMED, PROCEEDING, TERMINATED, TRYING, ServerTransaction

BACK_OFF = [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
"""T1 doubling up to T2, within 64*T1."""


def invited(bench: Bench) -> ServerTransaction:
    bench.receive(request("INVITE"))
    return bench.user.requests[-1]


def answer(bench: Bench, status: int, now: float = 0.0, to_tag: str = "t1") -> list[bytes]:
    tx = bench.user.requests[-1]
    bench.layer.respond(tx, make_response(tx.request, status, to_tag=to_tag), now)
    return bench.sent()


def words(sent: list[bytes]) -> list[str]:
    return [first_word(data) for data in sent]


def test_an_invite_that_the_user_leaves_unanswered_gets_a_100_after_200_ms() -> None:
    bench = Bench()
    tx = invited(bench)

    assert tx.state == TRYING
    assert bench.receive(request("INVITE"), 0.1) == []  # nothing to repeat yet
    assert bench.run(until=10.0) == [(0.2, "100")]
    assert words(bench.receive(request("INVITE"), 11.0)) == ["100"]
    assert bench.user.events == ["INVITE"]


def test_an_answer_in_time_saves_the_100_and_is_repeated_on_request() -> None:
    bench = Bench()
    tx = invited(bench)
    ringing = answer(bench, 180, 0.1)

    assert words(ringing) == ["180"]
    assert tx.state == PROCEEDING
    assert bench.run(until=100.0) == []
    assert bench.receive(request("INVITE"), 100.0) == ringing
    assert bench.layer.counters.retransmissions_received == 1
    assert bench.layer.counters.retransmissions_sent == 1


def test_a_refusal_is_repeated_until_its_ack_and_then_absorbs_until_timer_i() -> None:
    bench = Bench()
    tx = invited(bench)
    refusal = answer(bench, 486)
    assert tx.state == COMPLETED

    assert bench.run(until=4.0) == [(0.5, "486"), (1.5, "486"), (3.5, "486")]
    assert bench.receive(request("INVITE"), 4.0) == refusal
    assert bench.receive(request("ACK", to_tag="t1"), 4.0) == []
    assert tx.state == CONFIRMED
    assert bench.receive(request("ACK", to_tag="t1"), 4.1) == []
    assert bench.receive(request("INVITE"), 4.2) == []

    assert bench.run(until=8.9) == []
    assert not bench.is_empty
    bench.run(until=9.0)
    assert bench.is_empty
    assert bench.user.events == ["INVITE"]


def test_a_refusal_without_ack_backs_off_to_t2_and_is_reported_by_timer_h() -> None:
    bench = Bench()
    tx = invited(bench)
    tx.data = "the call"
    answer(bench, 486)

    assert bench.run(until=100.0) == [(at, "486") for at in BACK_OFF]
    assert bench.user.events == ["INVITE", "no ACK for the call"]
    assert tx.state == TERMINATED
    assert tx.data is None
    assert bench.layer.counters.acks_missing == 1
    assert bench.is_empty


def test_a_2xx_is_repeated_until_stopped_and_absorbs_until_timer_l() -> None:
    bench = Bench()
    tx = invited(bench)
    answer(bench, 200)
    assert tx.state == ACCEPTED

    assert bench.run(until=2.0) == [(0.5, "200"), (1.5, "200")]
    assert bench.receive(request("INVITE"), 2.0) == []  # RFC 6026 section 7.1
    bench.receive(request("ACK", branch="z9hG4bKack", to_tag="t1"), 2.0)
    assert bench.user.events == ["INVITE", "ACK"]
    bench.layer.stop_2xx(tx, 2.0)
    bench.layer.stop_2xx(tx, 2.0)

    assert bench.run(until=31.9) == []
    assert bench.receive(request("INVITE"), 31.9) == []
    assert not bench.is_empty
    bench.run(until=32.0)
    assert bench.is_empty
    assert bench.user.events == ["INVITE", "ACK"]


def test_a_2xx_without_ack_backs_off_to_t2_and_is_reported_by_timer_l() -> None:
    bench = Bench()
    invited(bench).data = "the call"
    answer(bench, 200)

    assert bench.run(until=100.0) == [(at, "200") for at in BACK_OFF]
    assert bench.user.events == ["INVITE", "no ACK for the call"]
    assert bench.is_empty


def test_an_ack_to_a_2xx_with_the_branch_of_the_invite_is_given_to_the_user() -> None:
    bench = Bench()
    invited(bench)
    answer(bench, 200)

    bench.receive(request("ACK", to_tag="t1"), 1.0)

    assert bench.user.events == ["INVITE", "ACK"]


def test_an_ack_before_any_final_response_is_nobodys() -> None:
    bench = Bench()
    tx = invited(bench)

    assert bench.receive(request("ACK"), 0.1) == []
    assert bench.user.events == ["INVITE"]
    assert tx.state == TRYING


def test_a_request_is_answered_again_until_timer_j() -> None:
    bench = Bench()
    bench.receive(request("BYE"))
    tx = bench.user.requests[0]
    assert bench.receive(request("BYE"), 0.1) == []
    trying = answer(bench, 100, 0.2)
    assert bench.receive(request("BYE"), 0.3) == trying
    final = answer(bench, 200, 1.0)

    assert tx.state == COMPLETED
    assert bench.receive(request("BYE"), 2.0) == final
    assert bench.run(until=32.9) == []
    assert bench.receive(request("BYE"), 32.9) == final
    bench.run(until=33.0)
    assert bench.is_empty
    assert bench.user.events == ["BYE"]


def test_a_request_that_the_user_never_answers_does_not_stay_for_ever() -> None:
    bench = Bench()
    bench.receive(request("BYE"))

    assert bench.run(until=32.0) == []
    assert bench.is_empty
    assert bench.layer.counters.unanswered == 1


@pytest.mark.parametrize("late", [180, 200, 486])
def test_a_response_after_the_final_one_is_not_sent(late: int) -> None:
    bench = Bench()
    tx = invited(bench)
    asked = tx.request
    answer(bench, 486)

    bench.layer.respond(tx, make_response(asked, late), 0.1)

    assert bench.sent() == []
    assert bench.layer.counters.unanswered == 1


def test_the_request_is_let_go_at_its_final_response() -> None:
    bench = Bench()
    bench.receive(request("INVITE", body="v=0"))
    tx = bench.user.requests[0]
    assert tx.request.body == b"v=0"

    answer(bench, 180)
    assert tx.request.body == b"v=0"
    answer(bench, 200)
    assert tx.request.body == b""
    assert tx.request.names == []


def test_written_bytes_are_sent_as_they_are() -> None:
    bench = Bench()
    tx = invited(bench)

    bench.layer.respond_bytes(tx, 200, b"SIP/2.0 200 written", 0.0)

    assert bench.sent() == [b"SIP/2.0 200 written"]
    assert tx.state == ACCEPTED


def test_a_cancel_is_answered_and_told_once() -> None:
    bench = Bench()
    tx = invited(bench)
    answer(bench, 180)

    sent = bench.receive(request("CANCEL"), 1.0)

    assert words(sent) == ["200"]
    assert b"\r\nCSeq: 1 CANCEL\r\n" in sent[0]
    assert b"\r\nTo: <sip:bob@example.com>;tag=t1\r\n" in sent[0]  # RFC 3261 section 9.2: the INVITE's tag
    assert bench.receive(request("CANCEL"), 1.5) == sent
    assert bench.user.events == ["INVITE", "CANCEL"]
    assert tx.cancelled
    assert words(answer(bench, 487, 1.6)) == ["487"]


def test_a_cancel_before_any_response_of_ours_makes_the_tag() -> None:
    bench = Bench()
    tx = invited(bench)

    sent = bench.receive(request("CANCEL"), 0.1)

    assert tx.to_tag
    assert f";tag={tx.to_tag}\r\n".encode() in sent[0]


def test_a_cancel_after_the_final_response_changes_nothing() -> None:
    bench = Bench()
    invited(bench)
    answer(bench, 200)

    assert words(bench.receive(request("CANCEL"), 0.1)) == ["200"]
    assert bench.user.events == ["INVITE"]


@pytest.mark.parametrize("branch", ["z9hG4bKother", ""])
def test_a_cancel_that_matches_nothing_gets_a_481(branch: str) -> None:
    bench = Bench()
    invited(bench)

    assert words(bench.receive(request("CANCEL", branch=branch), 0.1)) == ["481"]
    assert bench.user.events == ["INVITE"]
    assert bench.layer.counters.refused == 1


@pytest.mark.parametrize(
    ("via", "source", "top", "to"),
    [
        ("192.0.2.1:5070", ("192.0.2.1", 4711), "192.0.2.1:5070;branch=z9hG4bKa", ("192.0.2.1", 5070)),
        ("192.0.2.1", ("192.0.2.1", 4711), "192.0.2.1;branch=z9hG4bKa", ("192.0.2.1", 5060)),
        (
            "10.0.0.1:5070",
            ("192.0.2.1", 4711),
            "10.0.0.1:5070;branch=z9hG4bKa;received=192.0.2.1",
            ("192.0.2.1", 5070),
        ),
        (
            "phone.example.com",
            ("192.0.2.1", 4711),
            "phone.example.com;branch=z9hG4bKa;received=192.0.2.1",
            ("192.0.2.1", 5060),
        ),
        (
            "10.0.0.1:5070;rport",
            ("192.0.2.1", 4711),
            "10.0.0.1:5070;rport=4711;branch=z9hG4bKa;received=192.0.2.1",
            ("192.0.2.1", 4711),
        ),
        (
            "192.0.2.1:5070;rport",
            ("192.0.2.1", 5070),
            "192.0.2.1:5070;rport=5070;branch=z9hG4bKa;received=192.0.2.1",
            ("192.0.2.1", 5070),
        ),
        (
            "192.0.2.1;received=203.0.113.9",
            ("192.0.2.1", 5060),
            "192.0.2.1;received=192.0.2.1;branch=z9hG4bKa",
            ("192.0.2.1", 5060),
        ),
        (
            "192.0.2.1;maddr=203.0.113.9",
            ("192.0.2.1", 5060),
            "192.0.2.1;maddr=203.0.113.9;branch=z9hG4bKa",
            ("192.0.2.1", 5060),
        ),
        (
            "[2001:db8::1]:5070;rport",
            ("2001:db8::2", 4711),
            "[2001:db8::1]:5070;rport=4711;branch=z9hG4bKa;received=2001:db8::2",
            ("2001:db8::2", 4711),
        ),
    ],
)
def test_where_responses_go(via: str, source: Address, top: str, to: Address) -> None:
    """RFC 3261 section 18.2 and RFC 3581 section 4."""
    bench = Bench()
    bench.layer.on_datagram(request("OPTIONS", sent_by=via), source, 0.0)
    tx = bench.user.requests[0]

    bench.layer.respond(tx, make_response(tx.request, 200), 0.0)

    (data, destination) = bench.layer.out[0]
    assert destination == tx.response_to == to
    assert tx.source == source
    assert data.split(b"\r\n")[1].decode() == f"Via: SIP/2.0/UDP {top}"


def test_matching_is_by_branch_sent_by_and_method() -> None:
    bench = Bench()
    bench.receive(request("OPTIONS"))
    bench.receive(request("OPTIONS"))
    bench.receive(request("OPTIONS", branch="z9hG4bKb"))
    bench.receive(request("OPTIONS", sent_by="192.0.2.1:5061"))
    bench.receive(request("INFO"))

    assert bench.user.events == ["OPTIONS", "OPTIONS", "OPTIONS", "INFO"]
    assert len(bench.layer.servers) == 4


def test_a_branch_without_cookie_is_matched_as_rfc_2543_says() -> None:
    bench = Bench()
    bench.receive(request("INVITE", branch="1"))
    bench.receive(request("INVITE", branch="1"))
    assert words(bench.receive(request("CANCEL", branch="1"))) == ["200"]
    other = request("INVITE", branch="1").replace(b"Call-ID: c1", b"Call-ID: c2")
    bench.receive(other)
    assert bench.user.events == ["INVITE", "CANCEL", "INVITE"]

    answer(bench, 486)
    bench.receive(request("ACK", branch="1", to_tag="t1").replace(b"Call-ID: c1", b"Call-ID: c2"))
    assert bench.user.requests[-1].state == CONFIRMED
    assert bench.user.events == ["INVITE", "CANCEL", "INVITE"]


def test_a_refused_source_leaves_no_state_and_gets_no_answer() -> None:
    bench = Bench()
    bench.user.refuses.add(PEER)

    assert bench.receive(request("INVITE")) == []
    assert bench.receive(request("CANCEL")) == []
    assert bench.receive(request("INVITE").replace(b"CSeq: 1 INVITE", b"CSeq: 1 BYE")) == []

    assert bench.is_empty
    assert bench.user.events == []
    assert bench.layer.counters.dropped == 3


def test_a_stateless_refusal_is_sent_once_and_no_larger_than_the_request() -> None:
    bench = Bench()
    asked = request("INVITE")
    bench.receive(asked)

    bench.layer.refuse(bench.user.requests[0], 403)

    sent = bench.sent()
    assert words(sent) == ["403"]
    assert len(sent[0]) <= len(asked)
    assert bench.is_empty
    bench.receive(asked)
    assert bench.user.events == ["INVITE", "INVITE"]


def test_a_refusal_that_would_be_larger_than_the_request_loses_its_phrase_or_is_not_sent() -> None:
    def short(sent_by: str) -> bytes:
        asked = request("CANCEL", sent_by=sent_by)
        return asked.replace(b"Max-Forwards: 70\r\n", b"").replace(b"Route: <sip:192.0.2.9;lr>\r\n", b"")

    bench = Bench()

    sent = bench.receive(short("192.0.2.1:5060"))
    assert sent[0].startswith(b"SIP/2.0 481 \r\n")
    assert len(sent[0]) <= len(short("192.0.2.1:5060"))
    assert bench.receive(short("192.0.2.1:5060;rport")) == []  # received and rport would make it larger
    assert bench.layer.counters.dropped == 1


def test_too_many_transactions_are_dropped() -> None:
    bench = Bench(max_server_transactions=2)
    for number in range(5):
        bench.receive(request("OPTIONS", branch=f"z9hG4bK{number}"))

    assert bench.user.events == ["OPTIONS", "OPTIONS"]
    assert bench.layer.counters.dropped == 3


def test_a_hundred_calls_leave_nothing_behind() -> None:
    bench = Bench()
    for number in range(100):
        at, branch = number / 10, f"z9hG4bK{number}"
        bench.receive(request("INVITE", branch=branch), at)
        answer(bench, 200, at)
        bench.layer.stop_2xx(bench.user.requests[-1], at)
        bench.receive(request("BYE", branch=branch), at)
        answer(bench, 200, at)

    assert len(bench.timers) == 200
    bench.run(until=100.0)
    assert bench.is_empty
