"""Other people's text as it may stand in a log, an answer or a page: one line, of bounded length."""

from __future__ import annotations

import traceback

from calico.errors import CalicoError

MAX_LINE = 1000  # characters of a log message
MAX_REASON = 500  # characters of an error's text


def one_line(text: str, limit: int = MAX_REASON) -> str:
    """What would begin a line, move a cursor, turn the direction of writing or is half a character is written as its
    code; what is too long is cut."""
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else _code(char) for char in cut)
    return cut if len(cut) <= limit else cut[: limit - 1] + "…"


def _code(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def describe(error: BaseException) -> str:
    """One line for logs and `/jobs`. Our own errors speak for themselves; of others, what, where, and little else."""
    text = " ".join(str(error).split())
    if isinstance(error, CalicoError):
        return one_line(text)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return one_line(f"internal error {type(error).__name__}{where}: {text[:200]}")
