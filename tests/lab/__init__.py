"""A real Kubernetes on one machine, for the tests: control plane, nodes and relay pods, without Docker or a registry.

``Lab`` runs everything in network namespaces of its own, so that nothing leaves the machine and two runs do not
meet. ``ApiServer`` is the control plane alone, on loopback, for tests that need no pods. ``ExternalCluster`` stands
in for the lab where ``KUBECONFIG`` names a cluster of the contributor's own.
"""

from tests.lab.cluster import Cluster, ExternalCluster
from tests.lab.control_plane import ApiServer
from tests.lab.errors import KubectlError, LabError, LabOnlyError, LeftoverError, PrerequisiteError, StartError
from tests.lab.lab import Lab

__all__ = [
    "ApiServer",
    "Cluster",
    "ExternalCluster",
    "KubectlError",
    "Lab",
    "LabError",
    "LabOnlyError",
    "LeftoverError",
    "PrerequisiteError",
    "StartError",
]
