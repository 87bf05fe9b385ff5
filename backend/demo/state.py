"""What other programs need to know of a running demo, and the settings of a verb that is run beside it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.settings import Settings
from calico.errors import InputError

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[2] / ".demo"
STATE = "state.json"


@dataclass
class State:
    """backend_url: as registered, with the secret in its path."""

    url: str
    user: str
    password: str
    token: str
    backend_url: str
    project_ids: list[int] = field(default_factory=list)


def read_state(folder: Path = FOLDER) -> State | None:
    """Of the demo that runs below the folder; None where none does."""
    try:
        return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / STATE}: not readable ({error}); `make demo-stop`, then `make demo`") from None


def verb_settings(environment: Mapping[str, str] | None = None, folder: Path = FOLDER) -> Settings:
    """The environment's settings; where it names no Label Studio and a demo runs, that demo's host and registry."""
    settings = Settings.from_environment(environment)
    variables = os.environ if environment is None else environment
    if settings.label_studio_url or variables.get("LABEL_STUDIO_API_KEY"):
        return settings
    state = read_state(folder)
    if state is None:
        return settings
    log.info("LABEL_STUDIO_URL is not set: using the demo at %s", state.url)
    return replace(
        settings,
        label_studio_url=state.url,
        label_studio_api_key=state.token,
        versions=settings.versions or folder / "registry",
    )
