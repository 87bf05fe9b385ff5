from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from backend.settings import Settings
from calico.errors import InputError

PAGE = Path(__file__).parents[1] / "docs" / "running.md"
VARIABLES = {item.metadata["variable"]: item for item in dataclasses.fields(Settings)}


def test_nothing_set_is_safe_and_works():
    settings = Settings.from_environment({})
    assert (settings.host, settings.port, settings.time_budget_s) == ("127.0.0.1", 9090, 50.0)
    assert settings.is_loopback
    assert settings.inbox_url.startswith("sqlite:///")
    assert "~" not in settings.inbox_url


def test_values_are_parsed(tmp_path):
    (tmp_path / "a").mkdir()
    environment = {
        "CALICO_PORT": "8000",
        "CALICO_MEDIA_ROOTS": f"{tmp_path}:{tmp_path / 'a'}",
        "CALICO_ALLOWED_HOSTS": "MinIO.internal, 10.0.0.7",
        "LABEL_STUDIO_URL": "https://host/studio/",
        "CALICO_TIME_BUDGET_SECONDS": "7.5",
        "CALICO_DEVICE": "",
    }
    settings = Settings.from_environment(environment)
    assert settings.port == 8000
    assert settings.media_roots == (tmp_path, tmp_path / "a")
    assert settings.allowed_hosts == ("minio.internal", "10.0.0.7")
    assert settings.label_studio_url == "https://host/studio"
    assert settings.time_budget_s == 7.5
    assert settings.device is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CALICO_PORT", "http"),
        ("CALICO_PORT", "70000"),
        ("CALICO_DEVICE", "gpu"),
        ("CALICO_CHECKPOINT", "/no/such/folder"),
        ("CALICO_MEDIA_ROOTS", "/no/such/folder"),
        ("CALICO_TRAINING_REPLAY", "/no/such/folder"),
        ("CALICO_ALLOWED_HOSTS", "http://minio.internal:9000"),
        ("CALICO_WEBHOOK_SECRET", "too-short"),
        ("CALICO_WEBHOOK_SECRET", "with/a/slash/in/the/middle"),
        ("LABEL_STUDIO_URL", "localhost:8080"),
        ("LABEL_STUDIO_URL", "http://user:pass@host"),
        ("LABEL_STUDIO_URL", "http://host:port"),
        ("LABEL_STUDIO_API_KEY", "abc def"),
        ("DATABASE_URL", "mysql://host/db"),
        ("CALICO_BASIC_AUTH_USER", "a:b"),
        ("CALICO_TIME_BUDGET_SECONDS", "nan"),
        ("CALICO_QUEUE_SIZE", "0"),
        ("CALICO_LOG_LEVEL", "chatty"),
    ],
)
def test_a_wrong_value_names_the_variable_and_a_right_value(variable, value):
    with pytest.raises(InputError) as caught:
        Settings.from_environment({variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable}: expected ")
    assert "\n" not in message
    assert (value in message) != VARIABLES[variable].metadata["secret"]


def test_beyond_loopback_without_a_credential_refuses_to_start():
    for host in ("0.0.0.0", "192.168.1.2", "::", "backend.internal"):
        with pytest.raises(InputError, match="CALICO_WEBHOOK_SECRET"):
            Settings(host=host)
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert Settings(host=host).is_loopback
    assert Settings(host="0.0.0.0", webhook_secret="s" * 16).has_credential
    assert Settings(host="0.0.0.0", basic_auth_user="é", basic_auth_pass="ü").has_credential


@pytest.mark.parametrize(
    "half", [{"basic_auth_user": "u"}, {"basic_auth_pass": "p"}, {"label_studio_api_key": "token"}]
)
def test_half_a_pair_is_refused(half):
    with pytest.raises(InputError, match=r"AUTH|LABEL_STUDIO"):
        Settings(**half)


def test_secrets_are_not_shown():
    settings = Settings(webhook_secret="s3cret" * 3, label_studio_url="http://h", label_studio_api_key="t0ken")
    assert "s3cret" not in repr(settings)
    assert "t0ken" not in repr(settings)
    assert set(settings.secrets) == {"s3cret" * 3, "t0ken"}


def test_every_setting_is_documented_and_nothing_else():
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == set(VARIABLES)


def test_documented_defaults_are_the_defaults():
    text = PAGE.read_text()
    for variable, item in VARIABLES.items():
        default = re.search(rf"^\| `{variable}` \| ([^|]*) \|", text, re.MULTILINE)[1].strip()
        if item.default not in (None, ()):
            assert default == f"`{item.default}`", variable
        else:
            assert not default.startswith("`"), variable


def test_a_checkpoint_of_ones_own_leaves_the_registry_and_its_training_out(tmp_path):
    environment = {
        "CALICO_VERSIONS": str(tmp_path),
        "LABEL_STUDIO_URL": "http://h",
        "LABEL_STUDIO_API_KEY": "t",
        "CALICO_TRAIN_AFTER_GROUPS": "40",
        "CALICO_TRAIN_AFTER_HOURS": "24",
    }
    settings = Settings.from_environment(environment).with_checkpoint(tmp_path / "own")
    assert (settings.checkpoint, settings.versions) == (tmp_path / "own", None)
    assert (settings.train_after_groups, settings.train_after_hours) == (0, 0.0)


def test_images_are_no_larger_than_masks_may_be():
    with pytest.raises(InputError, match="from 1 to 50, which masks are limited to"):
        Settings.from_environment({"CALICO_MAX_IMAGE_MEGAPIXELS": "51"})
