"""What several tests share: skips that can be forbidden, and the programs that some tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from backend.host import LabelStudioHost

ROOT = Path(__file__).resolve().parent.parent


def is_required(name: str) -> bool:
    return name in os.environ.get("CALICO_REQUIRE", "").replace(",", " ").split()


def require(name: str, available: bool, reason: str) -> None:
    """Skips the test where `name` (host, browser, postgres) is not available; fails it if CALICO_REQUIRE names it."""
    if available:
        return
    if is_required(name):
        pytest.fail(f"CALICO_REQUIRE names {name}, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LabelStudioHost]:
    """A new one, of CALICO_LABEL_STUDIO or of the demo's environment, which is made first where CI requires it.

    Its empty database takes half a minute to make: it is made once and kept in pytest's cache.
    """
    from backend.host import LABEL_STUDIO_VERSION, Account, LabelStudioHost, is_installed

    chosen = os.environ.get("CALICO_LABEL_STUDIO")
    venv = ROOT / ".demo" / "label-studio-venv"
    executable = Path(chosen) if chosen else venv / "bin" / "label-studio"
    if is_required("host") and not chosen and not is_installed(venv):
        subprocess.run([sys.executable, "-m", "scripts.demo", "--install"], cwd=ROOT, check=True)
    require("host", executable.is_file(), f"{executable} is missing: `calico demo --install` makes it")
    account = Account("tests@localhost.com", "password of the tests", "0123456789" * 4)
    assert request.config.cache is not None
    empty = request.config.cache.mkdir(f"label-studio-{LABEL_STUDIO_VERSION}") / "data"
    if not empty.exists():
        data = tmp_path_factory.mktemp("label-studio-empty") / "data"
        with LabelStudioHost(data, executable, account=account, port=18080):
            pass
        shutil.move(data, empty)
    data = tmp_path_factory.mktemp("label-studio") / "data"
    shutil.copytree(empty, data)
    with LabelStudioHost(data, executable, account=account, port=18080) as host:
        yield host


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
