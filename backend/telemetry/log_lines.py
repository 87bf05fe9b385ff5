"""Other people's text as it may stand in a log, an answer or a page: one line, of bounded length."""

from __future__ import annotations

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
