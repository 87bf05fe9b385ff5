"""Running an app under waitress, one process: several would each hold the model, and none know of the others."""

from __future__ import annotations

import logging
import signal
import sys

from flask import Flask
from waitress import create_server

from backend.http.security import Redact
from backend.settings import Settings


def configure_logging(settings: Settings) -> None:
    """To standard error, the configured secrets blanked."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Redact(settings.secrets))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, signed ones too


def serve(app: Flask, settings: Settings) -> int:
    """Until interrupted. Returns the exit code: 1 where the port is taken."""
    try:
        server = create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            max_request_body_size=settings.max_request_mb * 1_000_000,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        print(f"error: CALICO_PORT: cannot listen on {where} ({error.strerror}); choose another port", file=sys.stderr)
        return 1
    log = logging.getLogger("calico.backend")
    log.info("listening on http://%s:%d while the model loads", settings.host, settings.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as process 1 of a container nothing would end it
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0
