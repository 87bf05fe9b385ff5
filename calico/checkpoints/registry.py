"""A folder of versions. `versions/ID/` never changes once it is there; `current.json` says which one serves.

An id is the preset and the hash of a version's files: equal content is one version. What is written appears by one
rename, whole or not at all. `current.json` also holds the history: who became champion, by which evidence, or by force.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calico.checkpoints.gate import Decision, Verdict
from calico.errors import InputError
from calico.files import sync, write_text

POINTER, VERSIONS, CARD = "current.json", "versions", "version.json"
KINDS = ("adapter", "checkpoint")
_TAKEN = (".json", ".md", ".png", ".safetensors", ".txt")  # none of which may hold code


@dataclass(frozen=True)
class Version:
    """version.json beside a version's files.

    Attributes:
        id: of its own.
        kind: checkpoint or adapter.
        preset: of the model.
        files: name -> sha256.
        parent: what it was finetuned from.
        snapshot: its content_sha256.
        metrics: JSON-ready, as the finetune measured them.
        command: what made it.
        created_at: ISO 8601, UTC.
    """

    id: str
    kind: str
    preset: str
    files: Mapping[str, str]
    parent: str | None = None
    snapshot: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    created_at: str = ""


@dataclass(frozen=True)
class Event:
    """A change of champion. action: publish, force or rollback. before: the champion until then, None at first."""

    action: str
    version: str
    before: str | None
    at: str
    reason: str
    decision: Mapping[str, Any] | None = None


class Refused(InputError):
    """The gate does not let a version through."""


class Registry:
    """Safe to share between processes: readers need no lock, writers take one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    # -- reading ------------------------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        root = self.folder / VERSIONS
        return sorted(path.name for path in root.iterdir() if (path / CARD).is_file()) if root.is_dir() else []

    def versions(self) -> list[Version]:
        """Oldest first."""
        return sorted((self.get(name) for name in self.ids()), key=lambda version: (version.created_at, version.id))

    def get(self, name: str) -> Version:
        """By id, or a beginning of it that only one has. Raises InputError."""
        ids = self.ids()
        matches = [name] if name in ids else [item for item in ids if name and item.startswith(name)]
        if len(matches) != 1:
            state = f"{len(matches)} versions start with it" if matches else f"it has: {', '.join(ids) or 'none'}"
            raise InputError(f"{self.folder}: no one version {name!r}; {state}")
        card = self.folder / VERSIONS / matches[0] / CARD
        try:
            return Version(**json.loads(card.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{card}: not readable ({error}); add the version again") from None

    def path_of(self, version: Version | str) -> Path:
        return self.folder / VERSIONS / (version if isinstance(version, str) else version.id)

    def verify(self, version: Version) -> None:
        """InputError where a file is missing, changed, or not of the version."""
        root = self.path_of(version)
        digests = {name: digest for name, digest in _digests(root).items() if name != CARD}
        for name in sorted(digests.keys() | version.files.keys()):
            if digests.get(name) != version.files.get(name):
                state = "missing" if name not in digests else "not of it" if name not in version.files else "changed"
                raise InputError(f"{root / name}: {state}, so this is not {version.id} any more; add the version again")

    def history(self) -> list[Event]:
        """Oldest first. Raises InputError where the pointer file is damaged."""
        pointer = self.folder / POINTER
        try:
            return [Event(**item) for item in json.loads(pointer.read_text(encoding="utf-8"))["history"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{pointer}: not readable ({error!r}); restore it or remove it to start anew") from None

    def current(self) -> str | None:
        """The champion's id; None before the first publish, when the embedded checkpoint serves."""
        history = self.history()
        return (history[-1].version or None) if history else None

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(
        self,
        source: str | Path,
        *,
        kind: str,
        preset: str,
        parent: str | None = None,
        snapshot: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        command: str = "",
        created_at: datetime | None = None,
    ) -> Version:
        """Copies a folder of files into the registry. What is there already stays as it is and is returned.

        Names that begin with a dot, such as those of unfinished writes, are left out.
        """
        source = Path(source)
        if kind not in KINDS:
            raise InputError(f"kind: expected {' or '.join(KINDS)}, got {kind!r}")
        if not preset or not set(preset) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._"):
            raise InputError(f"preset: expected lower-case letters, digits, - . and _, got {preset!r}")
        files = _digests(source, with_hidden=False) if source.is_dir() else {}
        files.pop(CARD, None)
        if not any(name.endswith(".safetensors") for name in files):
            raise InputError(f"{source}: no .safetensors file in it; name the folder that the training wrote")
        if unsafe := sorted(name for name in files if Path(name).suffix.lower() not in _TAKEN):
            raise InputError(
                f"{source / unsafe[0]}: may hold code and is not taken; remove it: a version holds {', '.join(_TAKEN)} "
                "files only"
            )
        content = json.dumps([kind, preset, parent, sorted(files.items())])
        name = f"{preset}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        target = self.path_of(name)
        with self._locked():
            if (target / CARD).is_file():
                version = self.get(name)
                self.verify(version)
                return version
            for leftover in self.folder.glob(".incoming-*"):  # of a process that was killed: the lock is ours
                shutil.rmtree(leftover)
            at = (created_at or datetime.now(UTC)).isoformat(timespec="seconds")
            version = Version(name, kind, preset, files, parent, snapshot, dict(metrics or {}), command, at)
            incoming = self.folder / f".incoming-{name}"
            for file in files:
                (incoming / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, incoming / file)
                sync(incoming / file)
            if _digests(incoming) != files:
                raise InputError(f"{source}: its files change while they are copied; wait until the training is done")
            write_text(incoming / CARD, json.dumps(asdict(version), indent=2, ensure_ascii=False) + "\n")
            target.parent.mkdir(exist_ok=True)
            incoming.rename(target)
            sync(target.parent)
        return version

    def publish(self, name: str, *, decision: Decision | None = None, force_reason: str | None = None) -> Event:
        """Makes a version the champion: by the gate's decision, or by force with a reason, which is recorded.

        Raises Refused where the gate said no or compared with another champion, InputError where files do not fit.
        """
        if force_reason is not None and not force_reason.strip():
            raise InputError("--force needs --reason TEXT, which is recorded")
        with self._locked():
            version, before = self.get(name), self.current()
            self.verify(version)
            if before == version.id:
                raise InputError(f"{version.id} is the current version already")
            if force_reason is None:
                if decision is None:
                    raise Refused(f"{version.id}: no scores to decide by; evaluate it, or --force with --reason TEXT")
                if decision.verdict is not Verdict.PUBLISH:
                    raise Refused(f"{version.id}: {decision.reason}")
                # Of the embedded checkpoint this knows only that it is none of the versions.
                is_other = decision.champion in self.ids() if before is None else decision.champion != before
                if is_other:
                    now = before or "the embedded checkpoint"
                    raise Refused(
                        f"{version.id} was compared with {decision.champion}, but {now} serves now; compare again"
                    )
            reason = force_reason if force_reason is not None else decision.reason if decision else ""
            comparison = None if decision is None else decision.as_json()
            return self._append(
                Event("publish" if force_reason is None else "force", version.id, before, _now(), reason, comparison)
            )

    def rollback(self, to: str | None = None, *, reason: str = "") -> Event:
        """Back to the champion before this one, or to `to`, a version that was champion once."""
        with self._locked():
            line = self._line_of_champions()
            if not line:
                raise InputError(f"{self.folder}: the embedded checkpoint serves; there is nothing to roll back")
            current = line[-1]
            if to is None:
                target = line[-2] if len(line) > 1 else ""
            else:
                target = self.get(to).id
                if target == current:
                    raise InputError(f"{target} is the current version already")
                if target not in {event.version for event in self.history()}:
                    raise InputError(f"{target} was never published; use `calico versions publish`")
            if target:
                self.verify(self.get(target))
            return self._append(Event("rollback", target, current, _now(), reason))

    def _line_of_champions(self) -> list[str]:
        """Who leads to the champion, itself last, what was rolled back left out: two rollbacks go two steps back."""
        line: list[str] = []
        for event in self.history():
            if event.action == "rollback" and event.version in (*line, ""):
                while line and line[-1] != event.version:  # a version may be there twice: back to the later one
                    line.pop()
            else:
                line.append(event.version)
        return line

    def _append(self, event: Event) -> Event:
        history = [asdict(item) for item in (*self.history(), event)]
        pointer = {"current": event.version or None, "history": history}
        write_text(self.folder / POINTER, json.dumps(pointer, indent=2, ensure_ascii=False) + "\n")
        return event

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _digests(folder: Path, *, with_hidden: bool = True) -> dict[str, str]:
    """Relative name -> sha256 of every file. with_hidden: also where a part of the name begins with a dot."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not with_hidden and any(part.startswith(".") for part in name.parts):
            continue
        if path.is_symlink():
            raise InputError(f"{path}: is a link; a version holds its own files")
        if path.is_file():
            with path.open("rb") as file:
                digests[name.as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
