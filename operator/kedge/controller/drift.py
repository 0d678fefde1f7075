"""Whether a live object still says what was applied.

The API server fills in defaults, so the live object has more than the manifest; what the manifest has must be there.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

from kedge.ports.kube import Manifest

_QUANTITY: Final = re.compile(r"([0-9.]+)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?")
_FACTORS: Final[dict[str | None, Decimal]] = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def drifted(live: Manifest, manifest: Manifest) -> bool:
    """Return whether ``manifest`` has anything that ``live`` has otherwise, or not at all."""
    return not _covers(live, manifest)


def _covers(live: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(_covers(live.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and _list_covers(live, wanted)
    return bool(live == wanted) or _same_quantity(live, wanted)


def _list_covers(live: list[Any], wanted: list[Any]) -> bool:
    if not all(isinstance(one, dict) for one in wanted):
        return live == wanted  # arguments: their order matters, and one more is one too many
    return all(any(_covers(one, value) for one in live) for value in wanted)  # others may add containers, owners


def _same_quantity(live: Any, wanted: Any) -> bool:
    """``1000m`` comes back as ``1``."""
    if not isinstance(live, str) or not isinstance(wanted, str):
        return False
    one, other = _QUANTITY.fullmatch(live), _QUANTITY.fullmatch(wanted)
    if one is None or other is None or live.count(".") > 1 or wanted.count(".") > 1:
        return False
    return _amount(one) == _amount(other)


def _amount(quantity: re.Match[str]) -> Decimal:
    return Decimal(quantity[1]) * _FACTORS[quantity[2]]
