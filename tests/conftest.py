"""What several tests share: skips that can be forbidden, and the programs that some tests need."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postgres_server import PostgresServer

    from backend.demo.label_studio import Account, LabelStudioHost

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("abuse") and not is_required("abuse"):
            item.add_marker(pytest.mark.skip(reason="long; CALICO_REQUIRE=abuse runs it"))


@pytest.fixture(scope="module", autouse=True)
def _keep_imports() -> None:
    """What is there when a module's tests begin stays: no collection of garbage looks at it again (0.3 s each, with
    torch and transformers)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server without tables; skips where its programs or the extra `postgres` are missing."""
    from postgres_server import PostgresServer, find_programs

    programs = find_programs()
    require("postgres", programs is not None, "initdb is missing (on Debian: apt install postgresql)")
    require("postgres", find_spec("psycopg") is not None, "psycopg is missing: pip install -e '.[postgres]'")
    assert programs is not None
    with PostgresServer(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'inbox.db'}"
    return str(request.getfixturevalue("postgres").new_database())


def _label_studio_executable() -> Path:
    """Of CALICO_LABEL_STUDIO or of the demo's environment, which is made first where CI requires it."""
    from backend.demo.label_studio import is_installed

    chosen = os.environ.get("CALICO_LABEL_STUDIO")
    venv = ROOT / ".demo" / "label-studio-venv"
    executable = Path(chosen).absolute() if chosen else venv / "bin" / "label-studio"
    if is_required("host") and not chosen and not is_installed(venv):
        subprocess.run([sys.executable, "-m", "scripts.demo", "--install"], cwd=ROOT, check=True)
    require("host", executable.is_file(), f"{executable} is missing: `calico demo --install` makes it")
    return executable


def _account() -> Account:
    from backend.demo.label_studio import Account

    return Account("tests@localhost.com", "password of the tests", "0123456789" * 4)


@pytest.fixture(scope="session")
def empty_data(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The data folder of a new Label Studio: half a minute to make, so it is kept in pytest's cache. Copy it."""
    from backend.demo.label_studio import LABEL_STUDIO_VERSION, LabelStudioHost

    executable = _label_studio_executable()
    assert request.config.cache is not None
    empty = request.config.cache.mkdir(f"label-studio-{LABEL_STUDIO_VERSION}") / "data"
    if not empty.exists():
        data = tmp_path_factory.mktemp("label-studio-empty") / "data"
        with LabelStudioHost(data, executable, account=_account(), port=18080):
            pass
        shutil.move(data, empty)
    return empty


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory, empty_data: Path) -> Iterator[LabelStudioHost]:
    """A Label Studio without projects, running."""
    from backend.demo.label_studio import LabelStudioHost

    data = tmp_path_factory.mktemp("label-studio") / "data"
    shutil.copytree(empty_data, data)
    with LabelStudioHost(data, _label_studio_executable(), account=_account(), port=18080) as host:
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
