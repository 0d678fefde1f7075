"""An asyncio loop whose time leaps to the next deadline when nothing is left to do: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tests.unit.controller.fake_kube import FakeKube
from tests.unit.controller.worlds import NOW, SETTINGS

from kedge.controller.operator import Operator, OperatorSettings
from kedge.ports.kube import Kind, KubeCredentials, Manifest
from kedge.ports.ports import SignalingView

_T = TypeVar("_T")
_WAY = 0.05
"""Seconds from the operator to the API server, or back."""


class _Selector(selectors.DefaultSelector):
    """Waits for no time to pass, but for threads."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if timeout is not None else None)
        if not found and timeout is not None:
            self.passed += timeout
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._leaps = _Selector()
        super().__init__(self._leaps)

    def time(self) -> float:
        return self._leaps.passed


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end on such a loop."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(coroutine)


class FarKube(FakeKube):
    """Requests and answers take their time, and the world goes on meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: Callable[[str], float] = lambda kind: _WAY
        """Called when the API server has made a list; returns the seconds until it arrives."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        await asyncio.sleep(_WAY)
        found = await super().get(kind, namespace, name)
        await asyncio.sleep(_WAY)
        return found

    async def list_objects(self, kind: Kind, namespace: str, selector: str = "") -> list[Manifest]:
        await asyncio.sleep(_WAY)
        found = await super().list_objects(kind, namespace, selector)
        await asyncio.sleep(self.listed(kind.kind))
        return found

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        await asyncio.sleep(_WAY)
        return await super().apply(kind, manifest, subresource=subresource)

    async def patch_status(self, kind: Kind, namespace: str, name: str, status: Manifest) -> Manifest:
        await asyncio.sleep(_WAY)
        return await super().patch_status(kind, namespace, name, status)


class Watch:
    """Implements ``controller.watching.Watching``: tells of a key when the test says so."""

    notify: Callable[[str], None]

    def __call__(
        self, *, namespace: str, notify: Callable[[str], None], login: Callable[[], Awaitable[KubeCredentials]]
    ) -> Watch:
        self.notify = notify
        return self

    def start(self) -> None:
        """It tells when the test says so."""

    def stop(self) -> None:
        """As above."""

    def join(self, timeout: float = 0.0) -> bool:
        return True


class Running:
    """An operator that works while the test lets time pass."""

    def __init__(self, kube: FakeKube, view: SignalingView, *, resync: float = 30.0) -> None:
        self._settings = OperatorSettings(manifests=SETTINGS, namespace="media", resync=resync, poll=1.0)
        self._kube, self._view = kube, view
        self.watch = Watch()

    async def __aenter__(self) -> Running:
        loop = asyncio.get_running_loop()
        self._operator = Operator(
            self._settings, self._kube, self._view, watching=self.watch, monotonic=loop.time,
            clock=lambda: NOW + loop.time(),
        )  # fmt: skip
        self._task = asyncio.create_task(self._operator.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert not self._task.done()
        self._operator.stop()
        await self._task

    async def settled(self) -> None:
        """Let the longest delays pass, and a resync after them."""
        await asyncio.sleep(2 * self._settings.resync + 35.0)
