"""What every verb shares: the parser's look, `--json FILE`, progress, logging, exit codes and one-line errors.

A verb is a file `scripts/VERB.py` whose docstring holds one line of description and the run line, and which ends in

    def build_parser() -> argparse.ArgumentParser: ...      # from `_cli.parser(__doc__)`
    def handle(args: argparse.Namespace) -> dict | None: ... # the report that `--json FILE` writes

    def main(argv: list[str] | None = None) -> int:
        return _cli.run(build_parser(), handle, argv)

    if __name__ == "__main__":
        raise SystemExit(main())

Exit codes: 0 done, 1 failed, 2 bad input (options, files, a checkpoint), 130 interrupted. Report and progress go to
stderr through `logging` and `progress`; what a verb prints to stdout is its result.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from calico.errors import CalicoError, CheckpointError, InputError
from calico.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")
Report = Mapping[str, Any] | None

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Failed(CalicoError):
    """The verb ran and its answer is no. The report is still written; the exit code is 1."""

    def __init__(self, message: str, report: Report = None) -> None:
        super().__init__(message)
        self.report = report


def parser(doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """A verb's parser from its module docstring: first line, run line, notes. Adds `--json FILE` and `-v`.

    The options of sub-commands come after the sub-command: give `_cli.parser(doc)` the sub-parsers, and each of them
    `parents=[_cli.shared_options()]`, with `shared=False` here.
    """
    shared = options.pop("shared", True)
    lines = (doc or "").strip().splitlines()
    run_line = next((line.split() for line in lines if line.strip().startswith("calico ")), ["calico"])
    return argparse.ArgumentParser(
        prog=" ".join(run_line[:2]),
        description=lines[0] if lines else None,
        epilog="\n".join(lines[1:]).strip("\n") or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared_options()] if shared else [],
        **options,
    )


def shared_options() -> argparse.ArgumentParser:
    """The options that every verb has, as an argparse parent."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--json", metavar="FILE", type=Path, help="write the report to FILE as JSON")
    parent.add_argument("-v", "--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parent


def run(parser: argparse.ArgumentParser, handle: Callable[[argparse.Namespace], Report], argv: list[str] | None) -> int:
    """Parse, call `handle`, write its report where `--json` says so, and give the exit code.

    `args.command` is the command line as typed, for reports that name what made them.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its own line
        return int(stop.code or 0)
    args.command = shlex.join([*parser.prog.split(), *argv])
    start_logging(verbose=args.verbose)
    target: Path | None = args.json

    def call() -> None:
        if target is not None and target.is_dir():
            raise InputError(f"--json {target}: expected a file, got a folder")
        refuse_not_finite(args)
        try:
            report = handle(args)
        except Failed as failure:
            if target is not None and failure.report is not None:
                write_json(target, failure.report)
            raise
        if target is not None and is_main_process():
            write_json(target, report or {})

    return guard(call, verbose=args.verbose)


def refuse_not_finite(args: argparse.Namespace) -> None:
    """Raises InputError for an option that is nan or inf, which no comparison with a limit would notice."""
    for name, value in vars(args).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"--{name.replace('_', '-')}: expected a number, got {number}")


def is_main_process() -> bool:
    """Of several that `accelerate launch` started, the one that reports."""
    return os.environ.get("RANK", "0") == "0"


def guard(call: Callable[[], object], *, verbose: bool = False) -> int:
    """Run `call`; an exception becomes one line on stderr (`verbose`: its traceback too) and an exit code."""
    try:
        call()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `calico ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if verbose:
            logging.getLogger(__name__).exception("traceback")
        kind = "" if isinstance(error, CalicoError) else f"{type(error).__name__}: "
        hint = "" if verbose or isinstance(error, CalicoError) else " (-v shows where)"
        print(f"error: {kind}{' '.join(str(error).split())}{hint}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, InputError | CheckpointError) else FAILED
    return DONE


def write_json(path: Path, report: Any) -> None:
    """Write JSON to `path` at once: a reader sees the old file or the whole new one. NaN is refused: use None."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):  # numpy scalars and arrays
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")

    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False, default=plain) + "\n"
    write_text(Path(path), text)


@cache
def console() -> Console:
    """The one stderr console, so that log lines and progress bars do not write over each other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def start_logging(*, verbose: bool = False) -> None:
    """Log to stderr: INFO of our own packages (`verbose`: DEBUG), WARNING of all others."""
    from rich.logging import RichHandler

    handler: logging.Handler
    if console().is_terminal:
        handler = RichHandler(console=console(), show_path=False, show_level=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("calico", "backend", "scripts"):
        level = logging.INFO if is_main_process() else logging.WARNING
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else level)


def progress() -> Progress:
    """A progress display (a context manager) on stderr; drawn once at the end where stderr is no terminal.

    Columns: description, bar, done/total, elapsed, remaining. `task.fields["note"]` is shown at the end.
    """
    from rich import progress as bars

    class Note(bars.TextColumn):
        def render(self, task: bars.Task) -> Any:
            task.fields.setdefault("note", "")
            return super().render(task)

    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        Note("{task.fields[note]}"),
        console=console(),
        disable=not is_main_process(),
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar."""
    with progress() as bar:
        yield from bar.track(items, total=total, description=description)
