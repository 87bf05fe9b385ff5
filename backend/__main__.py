"""The backend under waitress.

python -m backend
"""

from __future__ import annotations

import sys

from flask import Flask

from backend.http.app import create_app
from backend.http.server import serve
from backend.services import start_watch
from backend.settings import Settings
from backend.telemetry.log_lines import one_line
from backend.telemetry.logs import configure_logging
from backend.telemetry.memory import bound_arenas
from calico.errors import CalicoError


def started(settings: Settings) -> Flask:
    """The app, with all that runs beside requests. Raises InputError for settings that cannot work."""
    configure_logging(settings)
    bound_arenas()
    app = create_app(settings)
    services = app.extensions["calico"]
    if services.reconciler is not None:
        services.reconciler.start()
    start_watch(services)
    return app


def main() -> int:
    """Serves until interrupted. Exit code 2 for a wrong setting, 1 where the port is taken."""
    try:
        settings = Settings.from_environment()
        app = started(settings)
    except CalicoError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    try:
        return serve(app, settings)
    finally:
        app.extensions["calico"].inbox.close()


if __name__ == "__main__":
    sys.exit(main())
