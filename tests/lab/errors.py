"""What can go wrong with the lab, and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence


class LabError(RuntimeError):
    """Root of the lab's errors."""


class PrerequisiteError(LabError):
    """The machine lacks something; the message says which command to run."""


class StartError(LabError):
    """A daemon ended, or was not ready within its time. Carries the end of its log."""


class PolicyError(LabError):
    """A NetworkPolicy says what the lab does not enforce, or nft refused its rules."""


class LabOnlyError(LabError):
    """A cluster that the lab did not start cannot be cut, killed or loaded from here."""

    def __init__(self, ability: str) -> None:
        super().__init__(f"{ability} needs the lab's own cluster; unset KUBECONFIG to use it")


class LeftoverError(LabError):
    """Something of a run is still there after its end."""

    def __init__(self, run: str, left: Sequence[str]) -> None:
        super().__init__(f"run {run} left behind: " + "; ".join(left))
        self.left = tuple(left)


class KubectlError(LabError):
    """kubectl ended with a status other than 0; ``stderr`` holds what it said."""

    def __init__(self, args: Sequence[str], status: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(args)} ended with {status}: {stderr.strip()}")
        self.status, self.stderr = status, stderr
