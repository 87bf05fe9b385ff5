"""Running an app under waitress, one process: several would each hold the model, and none know of the others."""

from __future__ import annotations

import logging
import signal
import sys

from flask import Flask

from backend.http.listener import listen
from backend.settings import Settings


def serve(app: Flask, settings: Settings) -> int:
    """Until interrupted. Returns the exit code: 1 where the port is taken."""
    try:
        server = listen(app, settings)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        print(f"error: CALICO_PORT: cannot listen on {where} ({error.strerror}); choose another port", file=sys.stderr)
        return 1
    log = logging.getLogger("calico.backend")
    log.info("listening on http://%s:%d while the model loads", settings.host, settings.port)
    path = "/k/<CALICO_WEBHOOK_SECRET>/" if settings.webhook_secret else "/"
    log.info("the dashboard: http://%s:%d%s", settings.host, settings.port, path)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as process 1 of a container nothing would end it
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0
