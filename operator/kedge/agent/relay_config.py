"""Where a relay listens and where its media goes, as the configuration file that it reads at its start.

The agent starts before the relay, and alone can see all addresses of their pod. One of each wanted family is taken, the
first of the pod's; an address to advertise stands for that of its family. What is missing is told, and nothing is
written: a relay that gives phones a wrong address is worse than none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from kedge.base.address import Address, format_address
from kedge.base.errors import KedgeError

VERSIONS: Final = {"IPv4": 4, "IPv6": 6}
"""Families of addresses, as a RelaySet names them."""
_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at a file that is to be filled by somebody else."""


class AddressesError(KedgeError):
    """The pod has not the addresses that its RelaySet asks for: its author's, or the cluster's, to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddresses:
    """What the relay's addresses are made of."""

    own: Sequence[str]
    """The pod's addresses, the first of them first."""
    families: Sequence[str]
    """The families that media shall have; the control port has the first."""
    advertised: Sequence[str] = ()
    """What phones are told instead, one of a family at most."""
    must_advertise: bool = False
    """Whether media of the first family must not have the pod's own address."""


def relay_config(addresses: RelayAddresses, port: int) -> tuple[str, Address]:
    """Return rtpengine's configuration, and where it takes commands then.

    Raises:
        AddressesError: an address is missing, or is none.
    """
    own = [_parsed(one) for one in addresses.own]
    advertised = {one.version: one for one in map(_parsed, addresses.advertised)}
    chosen = [_of_family(own, family) for family in addresses.families]
    first = chosen[0]
    if addresses.must_advertise and first.version not in advertised:
        there = ", ".join(addresses.advertised) or "none"
        raise AddressesError(f"there is no {addresses.families[0]} address to advertise, only {there}")
    told = {version: f"!{one}" for version, one in advertised.items()}
    interfaces = ";".join(f"default/{one}{told.get(one.version, '')}" for one in chosen)
    control = (str(first), port)
    return f"[rtpengine]\ninterface = {interfaces}\nlisten-ng = {format_address(control)}\n", control


async def filled(file: Path) -> list[str]:
    """Wait until a file has something in it; return its addresses. Commas stand between them."""
    while True:
        if text := _read(file):
            return split_addresses(text)
        await asyncio.sleep(_LOOK_EVERY)


def split_addresses(text: str) -> list[str]:
    """Return addresses that have commas between them."""
    return [one.strip() for one in text.split(",") if one.strip()]


def write(file: Path, text: str) -> None:
    """Write a file in one step: who reads it finds all of it, or none."""
    new = file.with_suffix(".new")
    new.write_text(text, encoding="ascii")
    os.replace(new, file)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # not there yet


def _parsed(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise AddressesError(f"{text!r} is no IP address") from None


def _of_family(own: Sequence[IPv4Address | IPv6Address], family: str) -> IPv4Address | IPv6Address:
    for one in own:
        if one.version == VERSIONS[family]:
            return one
    raise AddressesError(f"media.families asks for {family}, and the pod has only {', '.join(map(str, own)) or 'none'}")
