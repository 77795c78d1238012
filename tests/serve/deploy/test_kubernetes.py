"""deploy/kubernetes: valid against the schemas of Kubernetes, and true to what the image and the service are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.serve.deploy.test_image import VARIABLES, said

from bowerbird.serve.limits import Limits

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
KIND = {}
for path in FILES:
    for one in yaml.safe_load_all(path.read_text("utf-8")):
        KIND[one["kind"]] = one
POD = KIND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def number(quantity: str) -> float:
    """What Kubernetes reads in "2Gi"."""
    units = {"Mi": 1 << 20, "Gi": 1 << 30}
    return float(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else float(quantity)


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None, reason="kubernetes-validate is not installed"
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_what_kubernetes_takes(path: Path):
    import kubernetes_validate

    for one in yaml.safe_load_all(path.read_text("utf-8")):
        if one["kind"] != "Kustomization":  # a file of the client, which the schemas do not know
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_the_linter_has_nothing_to_say():
    pytest.importorskip("yamllint")
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", FOLDER.parent / ".yamllint", FOLDER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_manifest_is_applied_but_the_example():
    named = KIND["Kustomization"]["resources"]
    assert sorted(named) == sorted(
        path.name for path in FILES if path.name not in ("kustomization.yaml", "keys.example.yaml")
    )


def test_the_pod_keeps_to_the_restricted_profile():
    """As the Pod Security Standards define it, and a root that cannot be written to."""
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    assert POD["automountServiceAccountToken"] is False
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    assert all(set(volume) - {"name"} <= allowed for volume in POD["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(POD)


def test_it_runs_as_the_user_of_the_image_on_its_port():
    context = POD["securityContext"]
    assert said("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    (port,) = CONTAINER["ports"]
    assert said("EXPOSE") == [str(port["containerPort"])]
    (service,) = KIND["Service"]["spec"]["ports"]
    (ingress,) = KIND["NetworkPolicy"]["spec"]["ingress"]
    assert {service["targetPort"], ingress["ports"][0]["port"]} == {port["name"]}


def test_what_it_mounts_is_where_the_image_looks():
    places = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert {VARIABLES["BOWERBIRD_DATA_DIR"], VARIABLES["BOWERBIRD_CACHE_DIR"], "/tmp"} <= places
    given = {one["name"]: one.get("value", "") for one in CONTAINER["env"]}
    assert any(given["BOWERBIRD_API_KEYS_FILE"].startswith(place) for place in places)
    assert any(given["BOWERBIRD_INDEX"].startswith(place) for place in places)
    (keys,) = KIND["Secret"]["stringData"]
    assert given["BOWERBIRD_API_KEYS_FILE"].endswith(f"/{keys}")
    assert {volume["name"] for volume in POD["volumes"]} == {
        mount["name"] for mount in CONTAINER["volumeMounts"]
    }


def test_its_variables_are_settings(run):
    from bowerbird.settings import Settings

    text = run("serve", "--help", env={"COLUMNS": "200"}).out
    for one in CONTAINER["env"]:
        name = one["name"]
        if name.startswith("BOWERBIRD_"):
            assert name in text or hasattr(Settings, name.removeprefix("BOWERBIRD_").lower()), name


def test_it_may_finish_what_it_has_accepted():
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > pause + Limits().drain_seconds
    strategy = KIND["Deployment"]["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
    assert KIND["PodDisruptionBudget"]["spec"]["minAvailable"] < KIND["Deployment"]["spec"]["replicas"]
    scaler = KIND["HorizontalPodAutoscaler"]["spec"]
    assert scaler["minReplicas"] == KIND["Deployment"]["spec"]["replicas"] < scaler["maxReplicas"]
    asked, most = CONTAINER["resources"]["requests"], CONTAINER["resources"]["limits"]
    assert number(asked["memory"]) < number(most["memory"])


def test_everything_selects_the_pod():
    labels = KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for chosen in (
        KIND["Deployment"]["spec"]["selector"]["matchLabels"],
        KIND["Service"]["spec"]["selector"],
        KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert chosen.items() <= labels.items()
    target = KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", KIND["Deployment"]["metadata"]["name"])


def test_probes_ask_what_the_service_answers(client: Any):
    """A service that is ready passes all of them, without a key."""
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = CONTAINER[name]
        assert client.get(probe["httpGet"]["path"]).status_code == 200, name
        assert probe["httpGet"]["port"] == CONTAINER["ports"][0]["name"]
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/health/ready"
