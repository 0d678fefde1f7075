"""What readers copy from the pages is valid: settings, RelaySets, and the values of the quickstart."""

import re
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from kedge.api.load import check_together, load_manifests, load_settings
from kedge.api.relayset import RelaySet

DOCS = Path(__file__).parents[2] / "docs"
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<EOF\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)
ROUTES = _YAML.findall((DOCS / "routes.md").read_text(encoding="utf-8"))
QUICKSTART = (DOCS / "quickstart.md").read_text(encoding="utf-8")
ADDRESSES = {"CALLER": "10.0.0.1", "CALLEE": "10.0.0.2"}


@pytest.mark.parametrize("text", ROUTES, ids=range(len(ROUTES)))
def test_peers_and_routes_are_settings(text: str) -> None:
    settings = load_settings(text)

    assert settings.peers
    assert settings.routes


def quickstart() -> tuple[dict[str, Any], RelaySet]:
    """Return the values for Helm and the RelaySet of the quickstart."""
    values, relay_set = _HEREDOC.findall(QUICKSTART)
    (found,) = load_manifests(relay_set)
    assert isinstance(found, RelaySet)
    return yaml.safe_load(Template(values).substitute(ADDRESSES)), found


def test_the_settings_and_the_relay_set_of_the_quickstart_fit_together() -> None:
    values, relay_set = quickstart()

    settings = load_settings(yaml.safe_dump(values["settings"]))

    assert check_together(settings, [relay_set]) == []
    assert settings.peer_of(ADDRESSES["CALLER"], 5060) is not None
    assert [hop.address for hop in settings.routes[0].next_hops] == [ADDRESSES["CALLEE"]]


def test_the_phones_of_the_quickstart_may_run_where_it_puts_them() -> None:
    pods = list(yaml.safe_load_all((DOCS.parent / "manifests/samples/phones/phones.yaml").read_text(encoding="utf-8")))

    assert [pod["metadata"]["name"] for pod in pods] == ["callee", "caller"]
    assert "pod-security.kubernetes.io/enforce=restricted" in QUICKSTART
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
