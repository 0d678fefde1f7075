"""The relay's configuration: which addresses are taken, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kedge.agent.relay_config import AddressesError, RelayAddresses, filled, relay_config, split_addresses, write

BOTH = ("10.0.0.7", "fd00::7")


@pytest.mark.parametrize(
    ("own", "families", "advertised", "interface", "control"),
    [
        (BOTH, ["IPv4"], [], "default/10.0.0.7", "10.0.0.7:2223"),
        (BOTH, ["IPv6"], [], "default/fd00::7", "[fd00::7]:2223"),
        (BOTH, ["IPv6", "IPv4"], [], "default/fd00::7;default/10.0.0.7", "[fd00::7]:2223"),
        (BOTH[::-1], ["IPv4", "IPv6"], [], "default/10.0.0.7;default/fd00::7", "10.0.0.7:2223"),
        (
            BOTH, ["IPv4", "IPv6"], ["198.51.100.7"],
            "default/10.0.0.7!198.51.100.7;default/fd00::7", "10.0.0.7:2223",
        ),
        (
            BOTH, ["IPv4", "IPv6"], ["2001:db8::7", "198.51.100.7"],
            "default/10.0.0.7!198.51.100.7;default/fd00::7!2001:db8::7", "10.0.0.7:2223",
        ),
        (["10.0.0.7", "10.0.0.8"], ["IPv4"], ["2001:db8::7"], "default/10.0.0.7", "10.0.0.7:2223"),
    ],
)  # fmt: skip
def test_one_address_of_each_family_with_what_is_advertised_for_it(
    own: list[str], families: list[str], advertised: list[str], interface: str, control: str
) -> None:
    addresses = RelayAddresses(own=own, families=families, advertised=advertised)

    text, where = relay_config(addresses, 2223)

    assert text == f"[rtpengine]\ninterface = {interface}\nlisten-ng = {control}\n"
    assert where == (control.rpartition(":")[0].strip("[]"), 2223)


@pytest.mark.parametrize(
    ("own", "advertised", "trouble"),
    [
        (["10.0.0.7"], ["198.51.100.7"], "asks for IPv6, and the pod has only 10.0.0.7"),
        ([], ["198.51.100.7"], "asks for IPv4, and the pod has only none"),
        (BOTH, ["2001:db8::7"], "no IPv4 address to advertise, only 2001:db8::7"),
        (BOTH, ["node-1"], "'node-1' is no IP address"),
    ],
)
def test_what_is_missing_is_told(own: list[str], advertised: list[str], trouble: str) -> None:
    addresses = RelayAddresses(own=own, families=["IPv4", "IPv6"], advertised=advertised, must_advertise=True)

    with pytest.raises(AddressesError, match=trouble):
        relay_config(addresses, 2223)


async def test_a_file_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "external-ip"
    waiting = asyncio.create_task(filled(file))
    await asyncio.sleep(0)
    assert not waiting.done()

    file.write_text("")
    write(file, "198.51.100.7, 2001:db8::7\n")

    assert await asyncio.wait_for(waiting, 5) == ["198.51.100.7", "2001:db8::7"]
    assert not file.with_suffix(".new").exists()
    assert split_addresses(" , ") == []
