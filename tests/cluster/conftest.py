"""What the cluster tests share."""

from tests.lab.fixtures import apiserver, lab

__all__ = ["apiserver", "lab"]
