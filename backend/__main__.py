"""The backend, one process under waitress: several would each hold the model, and none would know of the others.

python -m backend
"""

from __future__ import annotations

import logging
import sys

from backend.app import create_app, start_reconcile
from backend.security import Redact
from backend.settings import Settings
from calico.errors import CalicoError


def main() -> int:
    """Serves until interrupted. Exit code 2 for a wrong setting, 1 where the port is taken."""
    try:
        settings = Settings.from_environment()
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
        for handler in logging.getLogger().handlers:
            handler.addFilter(Redact(settings.secrets))
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, signed ones too
        app = create_app(settings)
    except CalicoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from waitress import create_server

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
        print(
            f"error: CALICO_PORT={settings.port}: cannot listen there ({error.strerror}); choose another port",
            file=sys.stderr,
        )
        return 1
    logging.getLogger("calico.backend").info(
        "listening on http://%s:%d, loading the model", settings.host, settings.port
    )
    start_reconcile(app.extensions["calico"])
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
