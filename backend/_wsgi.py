"""The backend for `label-studio-ml start ./backend` and for gunicorn: the same app, routes and limits as everywhere.

label-studio-ml start ./backend -p 9090
gunicorn --workers 1 --threads 32 --chdir backend _wsgi:app
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """Serves until interrupted. Exit code 2 for a wrong setting."""
    parser = argparse.ArgumentParser(prog="label-studio-ml start ./backend")
    parser.add_argument("-p", "--port", help="instead of CALICO_PORT")
    parser.add_argument("--host", help="instead of CALICO_HOST")
    parser.add_argument("--basic-auth-user", help="instead of CALICO_BASIC_AUTH_USER")
    parser.add_argument("--basic-auth-pass", help="instead of CALICO_BASIC_AUTH_PASS")
    for name, value in vars(parser.parse_args(argv)).items():
        if value is not None:
            os.environ[f"CALICO_{name.upper()}"] = value
    _find_clone()
    from backend.__main__ import main as serve_backend

    return serve_backend()


def __getattr__(name: str) -> Any:
    """`app`, made when a WSGI server asks for it and not at import."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _app()


@cache
def _app() -> Any:
    _find_clone()
    from backend.__main__ import started
    from backend.settings import Settings

    return started(Settings.from_environment())


def _find_clone() -> None:
    """This folder stands first on the path, and its names would hide others (`http`); the clone belongs there."""
    folder = Path(__file__).resolve().parent
    sys.path[:] = [str(folder.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != folder)]


if __name__ == "__main__":
    sys.exit(main())
