"""Which cluster and namespace are meant. Nothing here needs one that answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedge.adapters.token_file import TokenFileError
from kedge.api.load import load_settings
from kedge.api.settings import Settings
from kedge.cli.cluster import ClusterOptions, cluster_of
from kedge.cli.process import StartError


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    """Two contexts of a cluster that is not there."""
    file = tmp_path / "config"
    contexts = [
        {"name": "plain", "context": {"cluster": "c", "user": "u"}},
        {"name": "voice", "context": {"cluster": "c", "user": "u", "namespace": "voice"}},
    ]
    file.write_text(
        json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "plain", "contexts": contexts,
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        })
    )  # fmt: skip
    return str(file)


@pytest.mark.parametrize(
    ("context", "namespace", "settings", "expected"),
    [
        ("", "", "", "default"),
        ("voice", "", "", "voice"),
        ("voice", "", "kube: { namespace: media }", "media"),
        ("voice", "told", "kube: { namespace: media }", "told"),
    ],
    ids=["nobody says", "the context", "the settings", "the command line"],
)
async def test_the_namespace_is_whose_word_is_nearest(
    kubeconfig: str, context: str, namespace: str, settings: str, expected: str
) -> None:
    options = ClusterOptions(kubeconfig=kubeconfig, context=context, namespace=namespace)

    cluster = await cluster_of(load_settings(settings), options)

    assert cluster.namespace == expected
    assert cluster.signaling().namespace == expected


async def test_the_times_of_the_settings_arrive(kubeconfig: str) -> None:
    settings = load_settings("kube: { requestTimeout: 200ms, statusInterval: 7s, resync: 40s }")
    cluster = await cluster_of(settings, ClusterOptions(kubeconfig=kubeconfig))

    assert cluster.client()._timeout.total == 0.2
    operator = cluster.operator(cluster.leadership())
    assert (operator._settings.status_interval, operator._settings.resync) == (7.0, 40.0)


async def test_the_kubeconfig_of_the_settings_will_do(kubeconfig: str) -> None:
    settings = load_settings(f"kube: {{ kubeconfig: {kubeconfig} }}")

    assert (await cluster_of(settings, ClusterOptions())).namespace == "default"


@pytest.mark.parametrize("context", ["", "nosuch"])
async def test_what_cannot_be_found_is_told(kubeconfig: str, tmp_path: Path, context: str) -> None:
    file = kubeconfig if context else str(tmp_path / "nowhere")

    with pytest.raises(StartError, match=r"no cluster: .*--kubeconfig"):
        await cluster_of(Settings(), ClusterOptions(kubeconfig=file, context=context))


async def test_the_token_for_signaling_pods_is_that_of_the_settings_and_follows_its_file(
    kubeconfig: str, tmp_path: Path
) -> None:
    file, options = tmp_path / "token", ClusterOptions(kubeconfig=kubeconfig)
    settings = load_settings(f"admin: {{ address: 192.0.2.7, tokenFile: {file} }}")
    with pytest.raises(TokenFileError, match=r"admin\.tokenFile: .*: No such file"):
        await cluster_of(settings, options)
    file.write_text("the-token-of-today\n")

    cluster = await cluster_of(settings, options)
    today = cluster.token()
    file.write_text("the-token-of-tomorrow\n")

    assert (today, cluster.token()) == ("the-token-of-today", "the-token-of-tomorrow")
    assert (await cluster_of(Settings(), options)).token() == ""


async def test_replicas_are_told_apart_by_the_settings_or_the_host(kubeconfig: str) -> None:
    options = ClusterOptions(kubeconfig=kubeconfig)
    named = await cluster_of(load_settings("signaling: { replica: sig-7 }"), options)
    unnamed = await cluster_of(Settings(), options)

    assert named.signaling().replica == "sig-7"
    assert unnamed.signaling().replica
