"""What `label-studio-ml start ./backend` runs; host and port as there, the rest from the environment (docs/running.md).

label-studio-ml start ./backend -p 9090
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


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

    # This folder stands first on the path, and its file names would hide other packages'; the clone belongs there.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from backend.http.server import serve
    from backend.settings import Settings
    from backend.telemetry.logs import configure_logging
    from calico.errors import CalicoError

    try:
        settings = Settings.from_environment()
        configure_logging(settings)
        from label_studio_ml.api import init_app

        from backend.http.security import guard
        from backend.model import CalicoBackend, services
        from backend.services import start_watch

        app = init_app(CalicoBackend)
        guard(app, settings)
        start_watch(services())  # which starts loading
    except CalicoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return serve(app, settings)


if __name__ == "__main__":
    sys.exit(main())
