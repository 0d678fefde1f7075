"""pytest fixtures: one cluster and one lone API server for a whole session.

A conftest imports what its tests use: ``from tests.lab.fixtures import apiserver, lab, own_lab, shared_lab``. Logs of a
session with failures are kept in ``build/lab-logs``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final

import pytest
from tests.lab import machine
from tests.lab.cluster import Cluster, ExternalCluster
from tests.lab.control_plane import ApiServer
from tests.lab.lab import Lab

LOGS = machine.ROOT / "build" / "lab-logs"
NODES: Final = 3
"""Two can be drained at once, and relays have a place left."""


@pytest.fixture(scope="session")
def shared_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab's own cluster. Tests take ``own_lab``."""
    own = Lab.start(nodes=NODES, services=True, logs=LOGS / "start")
    try:
        yield own
        if request.session.testsfailed:
            own.save_logs(LOGS / own.run)  # first: what has failed may have left something
        own.await_empty()
    finally:
        own.stop()


@pytest.fixture(scope="module")
def own_lab(shared_lab: Lab) -> Iterator[Lab]:
    """The lab's own cluster, for tests that cut, kill and freeze; each file of tests leaves its nodes as they were.

    Namespaces go by themselves meanwhile. That they have gone is seen at the end of the session.
    """
    yield shared_lab
    shared_lab.await_nodes()


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Cluster:
    """A cluster with nodes: the one of ``KUBECONFIG``, else the lab's own."""
    external = ExternalCluster.from_environment()
    if external is not None:
        return external
    own: Lab = request.getfixturevalue("own_lab")
    return own


@pytest.fixture(scope="session")
def apiserver(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """An API server without nodes and controllers, always our own: enough for resources, RBAC and watches."""
    server = ApiServer.start()
    try:
        yield server
        if request.session.testsfailed:
            shutil.copytree(server.log_directory, LOGS / "apiserver", dirs_exist_ok=True)
    finally:
        server.stop()
