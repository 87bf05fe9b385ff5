"""What several tests share: skips that can be forbidden, and the programs that some tests need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def require(name: str, available: bool, reason: str) -> None:
    """Skips the test where `name` (host, browser, postgres) is not available; fails it if CALICO_REQUIRE names it."""
    if available:
        return
    if name in os.environ.get("CALICO_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"CALICO_REQUIRE names {name}, but {reason}", pytrace=False)
    pytest.skip(reason)


def label_studio_executable() -> Path:
    """The `label-studio` of CALICO_LABEL_STUDIO, else of the demo's own environment; skips where there is none."""
    chosen = os.environ.get("CALICO_LABEL_STUDIO")
    executable = Path(chosen) if chosen else ROOT / ".demo" / "label-studio-venv" / "bin" / "label-studio"
    require("host", executable.exists(), f"{executable} is missing: `calico demo --install` makes it")
    return executable


def chromium_executables() -> tuple[str, str]:
    """Chromium and its driver; skips where one is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    require(
        "browser",
        bool(browser and driver),
        "chromium or chromedriver is missing (on Debian: apt install chromium chromium-driver)",
    )
    return str(browser), str(driver)
