"""An API server in memory, as far as the command line uses one: gets, lists, and merges patches as RFC 7386 says."""

from __future__ import annotations

import copy
from typing import Any

from tests.unit.controller.fake_kube import FakeKube

from kedge.ports.kube import Kind, KubeError, Manifest


class FakeCluster(FakeKube):
    """``patches`` are those that came, in order."""

    def __init__(self, *manifests: Manifest) -> None:
        super().__init__()
        self.patches: list[tuple[str, str, Manifest]] = []
        for one in manifests:
            self.put(one)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest) -> Manifest:
        self._ask()
        live = self.objects.get((kind.kind, namespace, name))
        if live is None:
            raise KubeError(404, "NotFound", f'{kind.plural} "{name}" not found')
        self.patches.append((kind.kind, name, patch))
        _merge(live, patch)
        return copy.deepcopy(live)


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value
