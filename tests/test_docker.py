"""The container files, parsed: that their variables are settings, and that what they promise holds."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from backend.settings import Settings
from calico.errors import InputError

ROOT = Path(__file__).parents[1]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
VARIABLES = {item.metadata["variable"] for item in dataclasses.fields(Settings)}


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def image_environment() -> dict[str, str]:
    return dict(part.split("=", 1) for line in instructions("ENV") for part in shlex.split(line))


def compose_environment(service: str, given: dict[str, str]) -> dict[str, str]:
    """As compose would fill in `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def fill(match: re.Match) -> str:
        name, kind, rest = match.groups()
        if given.get(name):
            return given[name]
        assert kind != ":?", f"{name}: {rest}"
        return rest or ""

    found = COMPOSE["services"][service]["environment"]
    return {key: re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, value) for key, value in found.items()}


def test_the_image_copies_only_what_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    for line in instructions("COPY"):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept
    assert instructions("ARG")[1] == "EXTRAS=postgres"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"postgres", "cluster"} <= set(extras)


def test_the_image_runs_the_backend_as_nobody_special():
    assert instructions("CMD")[-1] == '["python", "-m", "backend"]'
    assert instructions("USER") == ["calico"]
    assert {name for name in image_environment() if name.startswith("CALICO_")} <= VARIABLES
    assert instructions("EXPOSE") == [image_environment()["CALICO_PORT"]] == [str(Settings().port)]
    assert image_environment()["CALICO_DATA_DIR"] in instructions("VOLUME")
    writable = re.search(r"install -d -o calico (.*)$", DOCKERFILE, re.MULTILINE)
    assert writable is not None
    written = {
        image_environment()["CALICO_DATA_DIR"],
        COMPOSE["services"]["backend-1"]["environment"]["CALICO_VERSIONS"],
    }
    assert set(writable[1].split()) == written  # a new volume is its owner's


def test_the_health_check_asks_the_route_that_needs_no_credential():
    (check,) = instructions("HEALTHCHECK")
    program, flag, code = json.loads(check[check.index("CMD ") + 4 :])
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "/health'" in code


@pytest.mark.parametrize("service", ["backend", "backend-gpu"])
def test_compose_starts_a_backend_that_accepts_its_settings(service):
    environment = {**image_environment(), **compose_environment(service, {"CALICO_WEBHOOK_SECRET": "s" * 20})}
    assert {name for name in environment if not name.startswith(("PIP_", "PYTHON"))} <= VARIABLES
    root = environment.pop("CALICO_LOCAL_FILES_ROOT")  # a folder of the container
    host = COMPOSE["services"]["label-studio"]
    assert root == host["environment"]["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"]
    for volumes in (COMPOSE["services"][service]["volumes"], host["volumes"]):
        assert any(volume.endswith(f":{root}:ro") for volume in volumes)
    settings = Settings.from_environment(environment)
    assert settings.host == "0.0.0.0"
    assert settings.label_studio_url == "http://label-studio:8080"
    assert any(volume.endswith(f":{settings.data_dir}") for volume in COMPOSE["services"][service]["volumes"])


@pytest.mark.parametrize("service", ["backend-1", "backend-2"])
def test_the_members_of_a_cluster_agree_on_what_they_share(service):
    given = {"CALICO_WEBHOOK_SECRET": "s" * 20, "POSTGRES_PASSWORD": "pw"}
    environment = {**image_environment(), **compose_environment(service, given)}
    assert {name for name in environment if not name.startswith(("PIP_", "PYTHON", "RAY_"))} <= VARIABLES
    environment.pop("CALICO_LOCAL_FILES_ROOT")
    settings = Settings.from_environment(environment)
    assert settings.database_url == "postgresql+psycopg://calico:pw@postgres/calico"
    assert str(settings.workers) == "ray://ray-head:10001"
    services = COMPOSE["services"]
    assert {"postgres", "ray-head", "ray-worker", "balancer"} <= set(services)
    for name in (service, "ray-head", "ray-worker"):  # all read the same versions
        assert f"registry:{settings.versions}" in services[name]["volumes"]
        assert services[name]["build"]["args"]["EXTRAS"] == "postgres,cluster"
    own = next(volume for volume in services[service]["volumes"] if volume.endswith(f":{settings.data_dir}"))
    assert own.startswith(service)
    assert f"server {service}:{settings.port} " in COMPOSE["configs"]["balancer"]["content"]
    assert services["balancer"]["networks"]["default"]["aliases"] == ["backend"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "${POSTGRES_PASSWORD:-}"


def test_without_its_profile_nothing_of_the_cluster_starts():
    members = {"balancer", "backend-1", "backend-2", "postgres", "ray-head", "ray-worker"}
    for name, service in COMPOSE["services"].items():
        assert (service.get("profiles") == ["cluster"]) is (name in members), name


def test_compose_wants_a_secret():
    with pytest.raises(AssertionError, match="CALICO_WEBHOOK_SECRET"):
        compose_environment("backend", {})
    with pytest.raises(InputError, match="CALICO_WEBHOOK_SECRET"):
        Settings.from_environment(image_environment())


def test_the_host_may_reach_the_backend():
    """Half of the two variables that switch the block off is a trap: this one alone does it."""
    environment = COMPOSE["services"]["label-studio"]["environment"]
    assert environment["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert "LABEL_STUDIO_ML_BLOCK_LOCAL_IP" not in environment


def test_the_gpu_is_asked_for_and_named():
    service = COMPOSE["services"]["backend-gpu"]
    assert service["environment"]["CALICO_DEVICE"] == "cuda"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "/cu" in service["build"]["args"]["TORCH_INDEX"]
    assert "TORCH_INDEX" in instructions("ARG")[0]
