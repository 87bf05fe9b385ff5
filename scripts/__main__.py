"""`calico VERB ...`, `python -m scripts VERB ...` and `python -m scripts.VERB ...` are the same thing.

Without a verb: all verbs, one line each, read from the files without importing them.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from scripts import _cli


def verbs() -> dict[str, str]:
    """Verb -> first line of its docstring, in alphabetical order."""
    lines = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8-sig"), str(path))) or ""
        lines[path.stem] = doc.partition("\n")[0]
    return lines


def usage() -> str:
    lines = verbs()
    width = max(map(len, lines), default=0)
    listed = "\n".join(f"  {verb:<{width}}  {line}" for verb, line in lines.items())
    return f"usage: calico VERB ...\n\n{listed}\n\n`calico VERB --help` says more about one."


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in {"-h", "--help"}:
        print(usage())
        return _cli.DONE
    verb, *rest = argv
    lines = verbs()
    if verb not in lines:
        near = difflib.get_close_matches(verb, lines, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "`calico` lists them"
        print(f"error: there is no verb {verb!r}; {remedy}", file=sys.stderr)
        return _cli.BAD_INPUT
    code = _cli.DONE

    def call() -> None:
        nonlocal code
        code = importlib.import_module(f"scripts.{verb}").main(rest)

    return _cli.guard(call, verbose="-v" in rest or "--verbose" in rest) or code


def entry() -> NoReturn:
    """The command `calico`. After ctrl-C the process ends at once: threads that still compute cannot be unwound."""
    code = main()
    if code == _cli.INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    entry()
