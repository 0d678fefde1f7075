"""pytest fixtures: a cluster for each file of tests, and a lone API server for the whole session.

A conftest imports what its tests use: ``from tests.lab.fixtures import apiserver, lab, own_lab``. Logs of a session
with failures are kept in ``build/lab-logs``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from tests.lab import machine
from tests.lab.cluster import Cluster, ExternalCluster
from tests.lab.control_plane import ApiServer
from tests.lab.lab import Lab

LOGS = machine.ROOT / "build" / "lab-logs"


@pytest.fixture(scope="module")
def own_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The lab's own cluster with two nodes (``NODES`` of the file says otherwise), for tests that cut, kill and freeze.

    Each file of tests has one of its own: it starts in seconds, and what one file did to nodes and addresses (a lab
    has 32 a node, given out again after that many pods) cannot be what another one fails of.
    """
    own = Lab.start(nodes=getattr(request.module, "NODES", 2), services=True, logs=LOGS / "start")
    try:
        yield own
        if request.session.testsfailed:
            own.save_logs(LOGS / own.run)
    finally:
        own.stop()


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
