"""The command line: exit codes, one-line errors, `--json`, and that every verb is what `calico` says it is."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from calico.errors import CalicoError, CheckpointError, InputError
from scripts import __main__, _cli

ROOT = Path(__file__).parents[1]
DOC = "Cut things.\n\n    calico cut THING [--hard]\n\nMore about cutting."


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def handle(args: argparse.Namespace) -> None:
        raise error

    return handle


def verb_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(DOC)
    parser.add_argument("thing")
    return parser


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("cut.jpg: not an image"), 2, "error: cut.jpg: not an image"),
        (CheckpointError("weights: missing key"), 2, "error: weights: missing key"),
        (CalicoError("no room"), 1, "error: no room"),
        (_cli.Failed("2 of 3 checks"), 1, "error: 2 of 3 checks"),
        (ValueError("two\nlines"), 1, "error: ValueError: two lines (-v shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli.run(verb_parser(), raising(error), ["x"]) == code
    assert capsys.readouterr().err == line + "\n"


def test_verbose_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(verb_parser(), raising(ValueError("deep")), ["x", "-v"]) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: ValueError: deep\n")


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["x", "--no-such"], 2), (["--help"], 0)])
def test_argparse_keeps_its_exit_codes(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(verb_parser(), lambda args: None, argv) == code
    shown = "".join(capsys.readouterr())
    assert "usage: calico cut" in shown


def test_help_tells_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    _cli.run(verb_parser(), lambda args: None, ["--help"])
    out = capsys.readouterr().out
    assert all(line in out for line in DOC.splitlines())


def test_json_writes_the_report_with_the_command_that_made_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.json"

    def handle(args: argparse.Namespace) -> dict[str, object]:
        return {"command": args.command, "iou": np.float32(0.5), "n": np.arange(2), "path": Path("a")}

    assert _cli.run(verb_parser(), handle, ["a b", "--json", str(target)]) == 0
    assert json.loads(target.read_text()) == {
        "command": f"calico cut 'a b' --json {target}",
        "iou": 0.5,
        "n": [0, 1],
        "path": "a",
    }
    assert os.listdir(target.parent) == ["report.json"]


def test_json_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.run(verb_parser(), raising(AssertionError("ran")), ["x", "--json", str(tmp_path)]) == 2
    assert "expected a file" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--minutes", "nan"], ["--shares", "0.5", "inf"]])
def test_no_number_is_endless_or_none(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = _cli.parser("One.\n\n    calico one")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--shares", type=float, nargs="+")
    assert _cli.run(parser, lambda args: None, argv) == _cli.BAD_INPUT
    assert capsys.readouterr().err == f"error: {argv[0]}: expected a number, got {argv[-1]}\n"
    assert _cli.run(parser, lambda args: None, [argv[0], "0.5"]) == _cli.DONE


def test_a_failed_verb_still_reports(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    failed = raising(_cli.Failed("no", {"ok": False}))
    assert _cli.run(verb_parser(), failed, ["x", "--json", str(target)]) == 1
    assert json.loads(target.read_text()) == {"ok": False}


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}])
def test_write_json_leaves_the_old_file_when_it_fails(tmp_path: Path, bad: object) -> None:
    target = tmp_path / "report.json"
    _cli.write_json(target, {"old": True})
    with pytest.raises((ValueError, TypeError)):
        _cli.write_json(target, bad)
    assert json.loads(target.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["report.json"]


def test_track_yields_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(_cli.track(iter("abc"), "counting", total=3)) == ["a", "b", "c"]


def test_an_unknown_verb_is_named_with_a_near_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(__main__, "verbs", lambda: {"train": "Train."})
    assert __main__.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: there is no verb 'trian'; did you mean 'train'?\n"


def test_without_a_verb_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([]) == 0
    out = capsys.readouterr().out
    assert __main__.verbs()
    assert all(f"  {verb} " in out and line in out for verb, line in __main__.verbs().items())


@pytest.mark.parametrize("verb", sorted(__main__.verbs()))
def test_every_verb_keeps_the_pattern(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "scripts" / f"{verb}.py"
    source = path.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    first, *rest = doc.splitlines()
    assert first.endswith("."), f"{path.name}: the docstring opens with one sentence"
    assert any(line.strip().startswith(f"calico {verb}") for line in rest), f"{path.name}: no run line"
    assert 'if __name__ == "__main__":' in source
    assert importlib.import_module(f"scripts.{verb}").main(["--help"]) == 0
    assert f"usage: calico {verb}" in capsys.readouterr().out


def test_the_three_ways_to_run_are_one() -> None:
    verb = sorted(__main__.verbs())[0]
    outputs = {
        subprocess.run(
            [sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for command in (["scripts", verb], [f"scripts.{verb}"])
    }
    assert len(outputs) == 1
