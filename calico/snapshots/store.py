"""A snapshot's folder: manifest.json, samples.jsonl, skipped.jsonl and images/; `writer` puts it there.

samples.jsonl has one group a line with its masks as COCO run lengths; skipped.jsonl says what was left out and why;
images/ holds each picture once, as PNG, named by its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calico.errors import InputError
from calico.images import load_image
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.splits import SPLITS
from calico.values import ImageGroup

SCHEMA_VERSION = 1
MANIFEST, SAMPLES, SKIPPED, IMAGES = "manifest.json", "samples.jsonl", "skipped.jsonl", "images"


class Snapshot:
    """A snapshot on disk, read a group at a time. `InputError` where it is none, or its files are not as written."""

    def __init__(self, folder: str | Path, *, check: bool = True) -> None:
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            version = self.manifest["schema_version"]
            expected = {SAMPLES: self.manifest["content_sha256"], SKIPPED: self.manifest["skipped_sha256"]}
        except FileNotFoundError:
            raise InputError(f"{self.folder}: no {MANIFEST} in it; make a snapshot with `calico feedback`") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.folder / MANIFEST}: not readable ({error!r}); make the snapshot anew") from None
        if version != SCHEMA_VERSION:
            raise InputError(f"{self.folder}: schema version {version}, expected {SCHEMA_VERSION}; make it anew")
        for name, digest in expected.items() if check else ():
            if not (self.folder / name).is_file() or (sha256 := sha256_of(self.folder / name)) != digest:
                got = f"{sha256[:12]}…" if (self.folder / name).is_file() else "no file"
                raise InputError(
                    f"{self.folder / name}: expected sha256 {digest[:12]}…, got {got}; it was changed or cut off: make "
                    "the snapshot anew"
                )

    @property
    def content_sha256(self) -> str:
        return str(self.manifest["content_sha256"])

    def records(self) -> Iterator[dict[str, Any]]:
        """Lines as parsed, masks not decoded."""
        return (record for _, record in self.placed_records())

    def placed_records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each with its place, by which `record_at` finds it again."""
        offset = 0
        with (self.folder / SAMPLES).open("rb") as file:
            for line in file:
                yield offset, json.loads(line)
                offset += len(line)

    def record_at(self, offset: int) -> dict[str, Any]:
        with (self.folder / SAMPLES).open("rb") as file:
            file.seek(offset)
            record: dict[str, Any] = json.loads(file.readline())
            return record

    def skipped(self) -> Iterator[dict[str, Any]]:
        with (self.folder / SKIPPED).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def groups(self, split: str | None = None) -> Iterator[AnnotatedGroup]:
        if split not in (None, *SPLITS):
            raise InputError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        for record in self.records():
            if split in (None, record["split"]):
                yield AnnotatedGroup.from_record(record)

    def load_images(self, group: AnnotatedGroup) -> ImageGroup:
        """The group's pictures, proved to be those that were annotated."""
        images = []
        for reference in group.images:
            if reference.digest is None:
                raise InputError(f"{self.folder}: made without images, so nothing can be trained on it")
            images.append(load_image(self.folder / IMAGES / f"{reference.digest}.png"))
        loaded = ImageGroup(tuple(images), tuple(image.source for image in group.images))
        for reference, digest in zip(group.images, loaded.digests, strict=True):
            if digest != reference.digest:
                path = self.folder / IMAGES / f"{reference.digest}.png"
                raise InputError(f"{path}: other pixels than annotated; make the snapshot anew")
        return loaded


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
