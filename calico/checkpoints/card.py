"""What a checkpoint's model card (README.md in its folder) says that it knows."""

from __future__ import annotations

import re
from pathlib import Path

from calico.checkpoints.fingerprint import EMBEDDED

_KNOWS = re.compile(r"\bIt knows [^.]+\.")
_KNOWS_NOT = re.compile(r"\*\*(It does not know [^.*]+\.)\*\*")


def knows(folder: Path | None) -> str:
    """Its sentences "It knows ..." and, in bold, "It does not know ...", on one line; empty where it has none.

    folder: None is the embedded checkpoint.
    """
    try:
        text = ((EMBEDDED if folder is None else folder) / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    matches = [match[0] for match in [_KNOWS.search(text)] if match] + _KNOWS_NOT.findall(text)[:1]
    return " ".join(" ".join(matches).split())[:500]
