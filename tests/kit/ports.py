"""Addresses and ports that nothing else on this machine uses at the moment."""

import os
import random
import socket

_taken: dict[str, set[int]] = {}
# Below the ephemeral range (32768 and up): no client socket of a bystander takes a port between its check and its use.
_LOWEST, _HIGHEST = 10000, 32000


def _is_free(ip: str, port: int, kind: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((ip, port))
        except OSError:
            return False
    return True


def free_ports(count: int, ip: str = "127.0.0.1", *, udp: bool = True, tcp: bool = True) -> int:
    """Find ``count`` adjacent free ports (the first one even) and return the first.

    The same ones are given twice in a process only when no others are left: after a thousand tests, say.

    Raises:
        OSError: nothing was free in two thousand tries.
    """
    taken = _taken.setdefault(ip, set())
    rng = random.Random(os.urandom(8))
    kinds = [socket.SOCK_DGRAM] * udp + [socket.SOCK_STREAM] * tcp
    for attempt in range(2000):
        if attempt == 1000:
            taken.clear()  # those of tests long past; what is still in use is not free
        first = rng.randrange(_LOWEST, _HIGHEST - count, 2)
        ports = range(first, first + count)
        if taken.isdisjoint(ports) and all(_is_free(ip, port, kind) for port in ports for kind in kinds):
            taken.update(ports)
            return first
    raise OSError(f"no {count} adjacent free ports on {ip}")


def free_port(ip: str = "127.0.0.1") -> int:
    """Find one free port, for UDP and TCP."""
    return free_ports(1, ip)
