from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kedge.agent.media_watch import IFF_LOWER_UP, IFF_UP, Link, MediaReport, MediaWatch, Picture
from kedge.relay.link_health import LinkState

ADDRESS = "192.0.2.7"


def picture(flags: int = IFF_UP | IFF_LOWER_UP, *, address: str = ADDRESS) -> Picture:
    return Picture(
        links={1: Link(name="lo", flags=IFF_UP | IFF_LOWER_UP), 4: Link(name="eth0", flags=flags)},
        addresses={"127.0.0.1": 1, address: 4},
    )


WELL, DOWN, NO_CARRIER, REMOVED = picture(), picture(0), picture(IFF_UP), picture(address="192.0.2.8")


def told(*looks: tuple[float, Picture]) -> list[tuple[float, str, str]]:
    watch = MediaWatch(ADDRESS, repeat=1.0)
    found = [(now, watch.observe(one, now)) for now, one in looks]
    return [(now, one.state.value, one.interface) for now, one in found if one is not None]


def test_a_change_is_told_at_once_with_the_interface() -> None:
    assert told((0.0, WELL), (0.1, DOWN)) == [(0.1, "LinkDown", "eth0")]
    assert told((0.0, WELL), (0.1, NO_CARRIER)) == [(0.1, "LinkDown", "eth0")]
    assert told((0.0, WELL), (0.1, REMOVED)) == [(0.1, "AddressRemoved", "eth0")]


def test_an_interface_that_is_gone_took_the_address_with_it() -> None:
    gone = Picture(links={}, addresses={ADDRESS: 4})

    assert told((0.0, WELL), (0.1, gone)) == [(0.1, "AddressRemoved", "eth0")]


def test_what_is_well_is_not_told_again_and_again() -> None:
    assert told((0.0, WELL), (1.0, WELL), (2.0, WELL)) == []


def test_trouble_is_told_again_each_second_and_its_end_once() -> None:
    looks = ((0.0, WELL), (0.1, DOWN), (0.2, DOWN), (1.1, DOWN), (1.2, WELL), (2.3, WELL))

    assert told(*looks) == [(0.1, "LinkDown", "eth0"), (1.1, "LinkDown", "eth0"), (1.2, "Well", "eth0")]


def test_trouble_is_dated_from_its_last_sight() -> None:
    watch = MediaWatch(ADDRESS)
    watch.observe(WELL, 0.0)
    watch.observe(DOWN, 5.0)

    assert watch.observe(DOWN, 7.0) == MediaReport(state=LinkState.LINK_DOWN, interface="eth0", seen=7.0)


def test_what_was_never_seen_well_is_not_told() -> None:
    assert told((0.0, REMOVED), (1.5, DOWN), (3.0, REMOVED)) == []
    assert told((0.0, REMOVED), (1.0, WELL), (2.0, REMOVED)) == [(2.0, "AddressRemoved", "eth0")]


def test_nothing_is_told_by_one_that_was_blind_until_it_has_seen_well_again() -> None:
    watch = MediaWatch(ADDRESS)
    watch.observe(WELL, 0.0)

    watch.blind()

    assert watch.state is None
    assert watch.observe(DOWN, 1.0) is None
    assert watch.observe(WELL, 2.0) is None
    assert watch.observe(DOWN, 3.0) is not None


@given(st.lists(st.sampled_from([WELL, DOWN, NO_CARRIER, REMOVED]), min_size=1))
def test_whoever_hears_the_reports_knows_what_was_seen_last(looks: list[Picture]) -> None:
    watch, heard = MediaWatch(ADDRESS), LinkState.WELL
    for number, one in enumerate(looks):
        report = watch.observe(one, number * 0.3)
        heard = report.state if report is not None else heard

    assert heard is (watch.state or LinkState.WELL)
