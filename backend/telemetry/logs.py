"""The log: one line a message, and no secret in it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from backend.settings import Settings
from backend.telemetry.log_lines import MAX_LINE, one_line

OURS = ("calico", "backend")  # loggers whose level is that of the settings


def configure_logging(settings: Settings) -> None:
    """To standard error, one line a message, the configured secrets blanked. The level is that of our own loggers;
    others tell warnings and errors at most."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    root, level = logging.getLogger(), logging.getLevelNamesMapping()[settings.log_level]
    root.setLevel(max(level, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for handler in root.handlers:
        handler.addFilter(Redact(settings.secrets))


def blanked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if len(secret) >= 6:  # shorter ones occur in ordinary words
            text = text.replace(secret, "***")
    return text


class Redact(logging.Filter):
    """Blanks the configured secrets in whatever is logged (the second line of defence, after not logging them) and
    makes one line of it. What other libraries tell below a warning does not pass: httpcore would tell whole addresses,
    signed ones too, and cookies."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a library's own mistake must not show its arguments
            message = str(record.msg)
        record.msg, record.args = one_line(blanked(message, self._secrets), MAX_LINE), ()
        record.exc_info = record.exc_text = record.stack_info = (
            None  # a traceback shows values; describe() shows the place
        )
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OURS
