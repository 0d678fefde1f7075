"""What the cluster tests share."""

from tests.lab.fixtures import apiserver, lab, own_lab

__all__ = ["apiserver", "lab", "own_lab"]
