"""Writing snapshots, whole or not at all, and taking people's data out of them again.

Equal input gives equal bytes: no dates, no paths, a fixed order.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from calico.errors import InputError
from calico.files import put_in_place, recover, write_text, written_whole
from calico.images import load_image
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.splits import SPLITS, Shares, Splitter
from calico.snapshots.store import IMAGES, MANIFEST, SAMPLES, SCHEMA_VERSION, SKIPPED, Snapshot, sha256_of

BRIDGE = "joins_splits"


class SnapshotWriter:
    """Gathers groups beside the folder, in FOLDER.partial, and puts the snapshot in its place at the end.

    A context manager; one at a time. What was gathered before a kill is there again up to the last `checkpoint`, if
    `run` (anything that tells one run from another) is the same. A snapshot that is replaced keeps its splits and its
    purges; those of `previous` are kept too, where the folder's own do not say otherwise. memory: a few hundred bytes a
    group.
    """

    def __init__(
        self, folder: str | Path, *, shares: Shares | None = None, previous: str | Path | None = None, run: Any = None
    ) -> None:
        self.folder = Path(folder)
        self._partial = self.folder.with_name(self.folder.name + ".partial")
        self._shares = shares or Shares()
        recover(self.folder)
        if self.folder.exists() and not (self.folder / MANIFEST).is_file() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder}: is no snapshot and not empty; name another folder")
        before = [] if previous is None else [Path(previous)]
        if (self.folder / MANIFEST).is_file():  # last: its own splits come before those of another
            before = [*(folder for folder in before if folder.resolve() != self.folder.resolve()), self.folder]
        self._before = [_to_keep(folder) for folder in before]
        self._purged = _united(snapshot.manifest["purged"] for snapshot in self._before)
        self._run = json.loads(json.dumps([run, self._purged]))  # what was gathered before a purge may hold the purged

    def __enter__(self) -> SnapshotWriter:
        (self._partial / IMAGES).mkdir(parents=True, exist_ok=True)
        self._lock = (self._partial / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(f"{self.folder}: another process is writing this snapshot; wait for it") from None
        state = self._saved_state()
        self.position: Any = state["position"]
        self._index: list[tuple[int, str, int]] = []  # order, id, offset
        self._seen: set[str] = set()
        self._groups = _open_at(self._partial / SAMPLES, state["num_bytes"])
        self._skips = _open_at(self._partial / SKIPPED, state["num_skip_bytes"])
        self.num_skipped: Counter[str] = Counter(state["num_skipped"])
        self.num_problems: Counter[str] = Counter(state["num_problems"])
        with (self._partial / SAMPLES).open("rb") as file:
            offset = 0
            for line in file:
                record = json.loads(line)
                self._note(record["order"], record["id"], offset)
                offset += len(line)
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._groups, self._skips, self._lock):
            file.close()

    def _saved_state(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {
            "position": None,
            "num_bytes": 0,
            "num_skip_bytes": 0,
            "num_skipped": {},
            "num_problems": {},
        }
        try:
            state = json.loads((self._partial / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return fresh
        return state if state["run"] == self._run else fresh

    def checkpoint(self, position: Any) -> None:
        """What was added so far survives a kill; `position` (JSON-ready) is given back to the next run of this kind."""
        for file in (self._groups, self._skips):
            file.flush()
            os.fsync(file.fileno())
        state = {
            "run": self._run,
            "position": position,
            "num_bytes": self._groups.tell(),
            "num_skip_bytes": self._skips.tell(),
            "num_skipped": self.num_skipped,
            "num_problems": self.num_problems,
        }
        write_text(self._partial / "state.json", json.dumps(state))

    @property
    def num_groups(self) -> int:
        return len(self._index)

    def is_purged(self, *, task: Any, annotator: str) -> bool:
        """Whether an earlier purge took out this task or annotator: what comes again is to be left out."""
        return task in self._purged["tasks"] or annotator in self._purged["annotators"]

    def add(self, group: AnnotatedGroup, images: Iterable[np.ndarray] = (), *, problems: Iterable[str] = ()) -> None:
        """images: HxWx3 uint8 RGB, one per digest. problems: codes of what is doubtful, for the counts."""
        if group.id in self._seen:
            self.skip(group.provenance["task"], "twice", f"group {group.id} was there before; the first one counts")
            return
        with_digest = [reference.digest for reference in group.images if reference.digest]
        for digest, image in zip(with_digest, images, strict=True):
            self._keep_image(digest, image)
        line = group.to_line().encode() + b"\n"
        self._note(group.order, group.id, self._groups.tell())
        self._groups.write(line)
        self.num_problems.update(problems)

    def skip(self, task: Any, code: str, message: str, *, annotation: Any = None) -> None:
        """Something that does not go into the snapshot, counted by code and explained."""
        row = {"task": task, "annotation": annotation, "code": code, "message": message}
        self._skips.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        self.num_skipped[code] += 1

    def _note(self, order: int, group_id: str, offset: int) -> None:
        self._index.append((order, group_id, offset))
        self._seen.add(group_id)

    def _keep_image(self, digest: str, image: np.ndarray) -> None:
        path = self._partial / IMAGES / f"{digest}.png"
        if path.exists():
            return
        for snapshot in self._before:
            before = snapshot.folder / IMAGES / path.name
            if _shows(before, image):
                _link(before, path)
                return
        with written_whole(path, is_durable=False) as temporary:
            Image.fromarray(image).save(temporary, "PNG", compress_level=1)

    def discard(self) -> None:
        """Forget what was gathered."""
        shutil.rmtree(self._partial)

    def finish(self) -> Snapshot:
        """Splits the groups, in their order, and puts the snapshot in place of what was there."""
        self._groups.flush()
        splitter = Splitter(self._shares, chain.from_iterable(map(_settled, self._before)))

        def records() -> Iterator[dict[str, Any]]:
            with (self._partial / SAMPLES).open("rb") as file:
                for _, _, offset in sorted(self._index):
                    file.seek(offset)
                    record = json.loads(file.readline())
                    split = splitter.add(AnnotatedGroup.from_record({**record, "regions": []}).keys)
                    if split is None:
                        message = "its images are in groups of different splits; relabel those, or leave it out"
                        self.skip(record["provenance"]["task"], BRIDGE, message)
                        continue
                    yield {**record, "split": split}

        ready = self.folder.with_name(self.folder.name + ".ready")
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir(parents=True)
        summary = _Summary(self._shares, self._purged)
        _write_samples(ready, records(), summary, self._partial / IMAGES)
        self._skips.flush()
        lines = sorted((self._partial / SKIPPED).read_bytes().splitlines(keepends=True))
        (ready / SKIPPED).write_bytes(b"".join(lines))
        _put_in_place(ready, self.folder, summary, dict(self.num_skipped), dict(self.num_problems))
        shutil.rmtree(self._partial)
        return Snapshot(self.folder)


def _to_keep(folder: Path) -> Snapshot:
    try:
        return Snapshot(folder)
    except InputError as error:
        remedy = f"restore {folder}, or remove it and decide its splits and purges anew"
        raise InputError(f"{error}; its splits and purges are to be kept, so {remedy}") from None


def _united(purges: Iterable[Mapping[str, Iterable[Any]]]) -> dict[str, list[Any]]:
    each = list(purges)
    return {
        "annotators": sorted({who for purged in each for who in purged["annotators"]}),
        "tasks": sorted({task for purged in each for task in purged["tasks"]}, key=str),
    }


def _settled(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for record in snapshot.records():
        for key in AnnotatedGroup.from_record({**record, "regions": []}).keys:
            yield key, record["split"]


def purge(folder: str | Path, *, annotators: Iterable[str] = (), tasks: Iterable[Any] = ()) -> int:
    """Removes what these annotators (hashes) and tasks gave, with pictures nothing else needs; how many groups.

    The splits of the rest stay, and later snapshots in this folder leave the same out.
    """
    recover(Path(folder))
    old = Snapshot(folder)
    gone_annotators, gone_tasks = set(annotators), set(tasks)
    purged = _united([old.manifest["purged"], {"annotators": gone_annotators, "tasks": gone_tasks}])

    def is_kept(record: Mapping[str, Any]) -> bool:
        source = record["provenance"]
        return source["annotator"] not in gone_annotators and source["task"] not in gone_tasks

    shutil.rmtree(old.folder.with_name(old.folder.name + ".partial"), ignore_errors=True)  # may hold the same
    ready = old.folder.with_name(old.folder.name + ".ready")
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    summary = _Summary(Shares(**old.manifest["shares"]), purged)
    _write_samples(ready, (record for record in old.records() if is_kept(record)), summary, old.folder / IMAGES)
    skipped = [row for row in old.skipped() if row["task"] not in gone_tasks]
    with (ready / SKIPPED).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in skipped)
    num_before = int(old.manifest["num_groups"])
    num_skipped = dict(Counter(row["code"] for row in skipped))
    _put_in_place(ready, old.folder, summary, num_skipped, old.manifest["problems"])
    return num_before - summary.num_groups


class _Summary:
    """What the manifest says of the groups."""

    def __init__(self, shares: Shares, purged: Mapping[str, Any]) -> None:
        self.shares, self.purged = shares, purged
        self.num_groups = self.num_accepted = 0
        self.splits: Counter[str] = Counter(dict.fromkeys(SPLITS, 0))
        self.objects: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        self.num_groups += 1
        self.num_accepted += bool(record["provenance"]["accepted_as_is"])
        self.splits[record["split"]] += 1
        self.objects.update({region["object"] for region in record["regions"]})
        self.parts.update({region["part"] for region in record["regions"] if region["part"] is not None})


def _write_samples(ready: Path, records: Iterable[Mapping[str, Any]], summary: _Summary, images: Path) -> None:
    (ready / IMAGES).mkdir()
    with (ready / SAMPLES).open("w", encoding="utf-8") as file:
        for record in records:
            text = json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))
            file.write(text + "\n")
            summary.add(record)
            for image in record["images"]:
                target = ready / IMAGES / f"{image['sha256']}.png"
                if image["sha256"] and not target.exists():
                    _link(images / target.name, target)


def _put_in_place(
    ready: Path, folder: Path, summary: _Summary, num_skipped: Mapping[str, int], num_problems: Mapping[str, int]
) -> None:
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "content_sha256": sha256_of(ready / SAMPLES),
        "skipped_sha256": sha256_of(ready / SKIPPED),
        "num_groups": summary.num_groups,
        "splits": dict(summary.splits),
        "shares": {"validation": summary.shares.validation, "test": summary.shares.test},
        "accepted_as_is": summary.num_accepted,
        "groups_by_object": dict(summary.objects),
        "groups_by_part": dict(summary.parts),
        "skipped": dict(num_skipped),
        "problems": dict(num_problems),
        "purged": dict(summary.purged),
    }
    write_text(ready / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
    put_in_place(ready, folder, synced=(SAMPLES, SKIPPED))


def _open_at(path: Path, num_bytes: int) -> IO[bytes]:
    """For appending after the first `num_bytes`; the rest, written after the last checkpoint, is cut off."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(num_bytes)
    file.seek(num_bytes)
    return file


def _shows(path: Path, image: np.ndarray) -> bool:
    """Whether a picture is there and undamaged: a snapshot that is made anew must not take over what was spoilt."""
    try:
        return path.is_file() and np.array_equal(load_image(path), image)
    except InputError:
        return False


def _link(source: Path, target: Path) -> None:
    """One file in two places, never written to again; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
