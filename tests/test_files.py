"""One way to write a file: at once, or not at all."""

from __future__ import annotations

import os
import re
import stat
from itertools import chain
from pathlib import Path

import pytest

from calico.files import write_text, written_whole

ROOT = Path(__file__).parents[1]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("is_private", "mode"), [(False, 0o644), (True, 0o600)])
def test_a_file_is_replaced_at_once_with_its_mode(tmp_path: Path, is_private: bool, mode: int) -> None:
    path = tmp_path / "new" / "state.json"
    write_text(path, "first", is_private=is_private)
    path.chmod(0o666)
    write_text(path, "second", is_private=is_private)
    assert (path.read_text(), mode_of(path), os.listdir(path.parent)) == ("second", mode, ["state.json"])


def test_a_private_file_is_private_while_it_is_written(tmp_path: Path) -> None:
    with written_whole(tmp_path / "state.json", is_private=True) as temporary:
        temporary.write_text("secret")
        assert mode_of(temporary.parent) == 0o700
    assert mode_of(tmp_path / "state.json") == 0o600


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), written_whole(path) as temporary:
        raise OSError(f"disk full, {temporary.write_text('half')} characters written")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["table.csv"])


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a.json", []
    monkeypatch.setattr("calico.files.sync", lambda what: synced.append((what.name, path.exists())))
    write_text(path, "x")
    assert synced == [("a.json", False), (tmp_path.name, True)]
    with written_whole(path, is_durable=False) as temporary:
        temporary.write_text("y")
    assert len(synced) == 2


def test_nobody_has_a_way_of_their_own() -> None:
    """But for two whose names are written by several at once: the disk cache, and a corpus's shards."""
    own = re.compile(r"os\.replace\(|mkstemp\(|\b(?:fresh|temporary|partial)\.(?:replace|rename)\(")
    files = chain.from_iterable((ROOT / name).rglob("*.py") for name in ("calico", "backend", "scripts", "benchmarks"))
    assert {path.name for path in files if own.search(path.read_text())} == {"files.py", "disk_cache.py", "output.py"}
