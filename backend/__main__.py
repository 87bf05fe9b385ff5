"""The backend under waitress.

python -m backend
"""

from __future__ import annotations

import sys

from backend.http.app import create_app
from backend.http.server import serve
from backend.services import start_watch
from backend.settings import Settings
from backend.telemetry.logs import configure_logging
from calico.errors import CalicoError


def main() -> int:
    """Serves until interrupted. Exit code 2 for a wrong setting, 1 where the port is taken."""
    try:
        settings = Settings.from_environment()
        configure_logging(settings)
        app = create_app(settings)
    except CalicoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    services = app.extensions["calico"]
    if services.reconciler is not None:
        services.reconciler.start()
    start_watch(services)
    try:
        return serve(app, settings)
    finally:
        services.inbox.close()


if __name__ == "__main__":
    sys.exit(main())
