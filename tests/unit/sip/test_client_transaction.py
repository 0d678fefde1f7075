"""Client transactions: each state and timer of RFC 3261 section 17.1 and RFC 6026."""

from __future__ import annotations

import pytest
from tests.unit.sip.transactions_kit import BRANCH, PEER, Bench, Owner, request, response

from kedge.base.timers import TimerHeap
from kedge.sip.timers import TimerSettings
from kedge.sip.transaction import ACCEPTED, COMPLETED, PROCEEDING, TERMINATED, TRYING


def times(seen: list[tuple[float, str]]) -> list[float]:
    return [at for at, _ in seen]


def test_unanswered_invite_doubles_its_interval_and_times_out() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)
    assert tx.state == TRYING

    seen = bench.run(until=100.0)

    # RFC 3261 section 17.1.1.2: Timer A doubles without a cap, Timer B fires at 64*T1 = 32 s.
    assert seen == [
        (0.5, "INVITE"),
        (1.5, "INVITE"),
        (3.5, "INVITE"),
        (7.5, "INVITE"),
        (15.5, "INVITE"),
        (31.5, "INVITE"),
    ]
    assert owner.seen == [(32.0, "timeout")]
    assert tx.state == TERMINATED
    assert bench.layer.counters.timeouts == 1
    assert bench.layer.counters.retransmissions_sent == 6
    assert bench.is_empty


def test_unanswered_request_backs_off_to_t2_and_times_out() -> None:
    bench, owner = Bench(), Owner()
    bench.send("OPTIONS", owner)

    # RFC 3261 section 17.1.2.2: E = min(2*E, T2), and F fires at 64*T1 = 32 s.
    assert times(bench.run(until=100.0)) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert owner.seen == [(32.0, "timeout")]
    assert bench.is_empty


def test_a_retransmission_is_the_same_datagram_to_the_same_place() -> None:
    bench = Bench()
    bench.send("OPTIONS")

    bench.timers.run_due(0.5)

    assert bench.layer.out == [(request("OPTIONS"), PEER)]


def test_settings_scale_all_timers() -> None:
    bench, owner = Bench(TimerSettings(t1=0.25, t2=0.75, t4=0.5)), Owner()
    bench.send("OPTIONS", owner)

    assert times(bench.run(until=3.0)) == [0.25, 0.75, 1.5, 2.25, 3.0]
    bench.run(until=100.0)
    assert owner.seen == [(16.0, "timeout")]


def test_a_provisional_slows_a_request_down_but_does_not_stop_it() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("OPTIONS", owner)
    bench.receive(response(100), 0.2)

    assert tx.state == PROCEEDING
    assert times(bench.run(until=100.0)) == [0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5]
    assert owner.seen == [(0.2, 100), (32.0, "timeout")]


def test_a_final_response_ends_a_request_and_repeats_are_absorbed_until_timer_k() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("OPTIONS", owner)
    tx.data = object()

    bench.receive(response(200), 1.0)
    bench.receive(response(200), 2.0)

    assert tx.state == COMPLETED
    assert owner.events == [200]
    assert bench.layer.counters.retransmissions_received == 1
    assert tx.data is None
    assert bench.run(until=5.9) == []
    assert not bench.is_empty
    bench.run(until=6.0)
    assert bench.is_empty
    bench.receive(response(200), 6.1)
    assert bench.user.events == ["stray 200"]
    assert owner.events == [200]


def test_a_provisional_stops_the_retransmissions_of_an_invite() -> None:
    bench, owner = Bench(), Owner()
    bench.send("INVITE", owner)
    bench.receive(response(100, "INVITE"), 0.1)
    bench.receive(response(180, "INVITE"), 0.2)

    assert bench.run(until=180.0) == []
    assert owner.events == [100, 180]


def test_an_invite_that_rings_too_long_is_cancelled_and_times_out() -> None:
    bench, owner = Bench(), Owner()
    bench.send("INVITE", owner)
    bench.receive(response(180, "INVITE"), 10.0)
    bench.receive(response(183, "INVITE"), 20.0)

    assert bench.run(until=200.0) == [(200.0, "CANCEL")]
    bench.receive(response(200, "CANCEL"), 200.0)
    bench.run(until=300.0)

    assert owner.seen[2:] == [(232.0, "timeout")]
    assert bench.is_empty


def test_a_refused_invite_is_acked_and_each_repeated_refusal_again_until_timer_d() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)

    sent = bench.receive(response(486, "INVITE", to_tag="busy"), 1.0)

    # RFC 3261 section 17.1.1.3
    assert sent == [
        b"ACK sip:bob@example.com SIP/2.0\r\n"
        b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa\r\n"
        b"Route: <sip:192.0.2.9;lr>\r\n"
        b"Max-Forwards: 70\r\n"
        b"From: <sip:alice@example.com>;tag=f1\r\n"
        b"To: <sip:bob@example.com>;tag=busy\r\n"
        b"Call-ID: c1\r\n"
        b"CSeq: 1 ACK\r\n"
        b"Content-Length: 0\r\n\r\n"
    ]
    assert tx.state == COMPLETED
    assert bench.receive(response(486, "INVITE", to_tag="busy"), 2.0) == sent
    assert bench.receive(response(180, "INVITE"), 2.0) == []
    assert owner.events == [486]
    assert bench.run(until=32.9) == []
    assert not bench.is_empty
    bench.run(until=33.0)
    assert bench.is_empty


def test_a_2xx_of_another_fork_after_a_refusal_goes_to_the_user() -> None:
    bench, owner = Bench(), Owner()
    bench.send("INVITE", owner)
    bench.receive(response(486, "INVITE"), 1.0)

    assert bench.receive(response(200, "INVITE"), 1.1) == []
    assert bench.user.events == ["stray 200"]


def test_every_2xx_of_an_invite_reaches_its_owner_until_timer_m() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)

    assert bench.receive(response(200, "INVITE"), 1.0) == []  # its ACK is the owner's
    assert tx.state == ACCEPTED
    assert tx.packet == b""
    bench.receive(response(200, "INVITE"), 1.5)
    bench.receive(response(200, "INVITE", to_tag="fork"), 2.0)
    bench.receive(response(180, "INVITE"), 2.0)
    bench.receive(response(486, "INVITE"), 2.0)
    assert bench.run(until=32.9) == []
    bench.receive(response(200, "INVITE"), 32.9)

    assert owner.events == [200, 200, 200, 200]
    bench.run(until=33.0)
    assert bench.is_empty
    bench.receive(response(200, "INVITE"), 34.0)
    assert bench.user.events == ["stray 200"]


def test_released_transactions_leave_at_once() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)
    bench.receive(response(200, "INVITE"), 1.0)

    bench.layer.release(tx)
    bench.layer.release(tx)
    bench.receive(response(200, "INVITE"), 2.0)

    assert bench.is_empty
    assert owner.events == [200]
    assert bench.user.events == ["stray 200"]


@pytest.mark.parametrize(("status", "method", "branch"), [(200, "BYE", BRANCH), (200, "OPTIONS", "z9hG4bKother")])
def test_a_response_of_another_branch_or_method_is_stray(status: int, method: str, branch: str) -> None:
    bench, owner = Bench(), Owner()
    bench.send("OPTIONS", owner)

    bench.receive(response(status, method, branch=branch), 0.1)

    assert owner.events == []
    assert bench.user.events == ["stray 200"]
    assert bench.layer.counters.stray_responses == 1


CANCEL = (
    b"CANCEL sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa\r\n"
    b"Route: <sip:192.0.2.9;lr>\r\n"
    b"Max-Forwards: 70\r\n"
    b"From: <sip:alice@example.com>;tag=f1\r\n"
    b"To: <sip:bob@example.com>\r\n"
    b"Call-ID: c1\r\n"
    b"CSeq: 1 CANCEL\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def test_a_ringing_invite_is_cancelled_at_once_and_the_owner_gets_its_487() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)
    bench.receive(response(180, "INVITE"), 1.0)

    bench.layer.cancel(tx, 2.0)
    bench.layer.cancel(tx, 2.0)
    assert bench.sent() == [CANCEL]
    bench.receive(response(200, "CANCEL"), 2.1)
    assert [data.split(b" ")[0] for data in bench.receive(response(487, "INVITE"), 2.2)] == [b"ACK"]

    assert owner.events == [180, 487]
    bench.run(until=100.0)
    assert owner.events == [180, 487]
    assert bench.is_empty


def test_a_cancel_waits_for_the_first_provisional() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)

    bench.layer.cancel(tx, 0.1)
    assert bench.sent() == []
    assert bench.run(until=0.5) == [(0.5, "INVITE")]
    assert bench.receive(response(100, "INVITE"), 0.6) == [CANCEL]

    # RFC 3261 section 17.1.2: CANCEL is a request of its own, with Timer E.
    assert times(bench.run(until=4.5)) == [1.1, 2.1, 4.1]


def test_a_cancelled_invite_without_provisional_times_out_with_timer_b() -> None:
    bench, owner = Bench(), Owner()
    bench.layer.cancel(bench.send("INVITE", owner), 0.1)

    bench.run(until=100.0)

    assert owner.seen == [(32.0, "timeout")]
    assert bench.is_empty


def test_a_cancelled_invite_without_final_response_times_out_after_64_t1() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)
    bench.receive(response(180, "INVITE"), 1.0)
    bench.layer.cancel(tx, 2.0)
    bench.receive(response(200, "CANCEL"), 2.0)
    bench.receive(response(183, "INVITE"), 20.0)  # does not prolong it

    bench.run(until=100.0)

    assert owner.seen == [(1.0, 180), (20.0, 183), (34.0, "timeout")]
    assert bench.is_empty


def test_a_2xx_that_crosses_the_cancel_reaches_the_owner() -> None:
    bench, owner = Bench(), Owner()
    tx = bench.send("INVITE", owner)
    bench.receive(response(180, "INVITE"), 1.0)
    bench.layer.cancel(tx, 2.0)
    bench.receive(response(200, "INVITE"), 2.0)

    assert owner.events == [180, 200]
    assert tx.state == ACCEPTED


def test_what_is_final_or_no_invite_is_not_cancelled() -> None:
    bench = Bench()
    invite, options = bench.send("INVITE"), bench.send("OPTIONS", branch="z9hG4bKb")
    bench.receive(response(100, branch="z9hG4bKb"), 0.1)
    bench.receive(response(200, "INVITE"), 0.1)

    bench.layer.cancel(invite, 1.0)
    bench.layer.cancel(options, 1.0)

    assert bench.sent() == []


class Canceller(Owner):
    """Cancels when it hears a provisional, as a caller who hung up meanwhile."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench

    def on_response(self, tx, response, now):  # type: ignore[no-untyped-def]
        super().on_response(tx, response, now)
        self.bench.layer.cancel(tx, now)


def test_the_owner_may_cancel_from_its_callback() -> None:
    bench = Bench()
    bench.send("INVITE", Canceller(bench))

    assert bench.receive(response(180, "INVITE"), 1.0) == [CANCEL]


def test_ack_to_a_2xx_is_sent_without_state() -> None:
    bench = Bench()

    bench.layer.send(request("ACK"), PEER)

    assert bench.layer.out == [(request("ACK"), PEER)]
    assert bench.is_empty


def test_timers_hold_nothing_of_completed_calls() -> None:
    bench = Bench()
    for number in range(100):
        owner = Owner()
        branch = f"z9hG4bK{number}"
        bench.layer.send_request("INVITE", branch, request("INVITE", branch=branch), PEER, owner, float(number))
        bench.receive(response(100, "INVITE", branch=branch), float(number))
        bench.receive(response(200, "INVITE", branch=branch), float(number))

    assert isinstance(bench.timers, TimerHeap)
    assert len(bench.timers) == 100  # one each, Timer M
    bench.run(until=200.0)
    assert bench.is_empty
