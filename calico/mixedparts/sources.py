"""The annotation files of a build: `NAME[:SPLIT]=FILE[,KEY=PATH...]`, and the reader of each.

    paco:train=paco_lvis_v1_train.json
    partimagenet:val=val.json,objects=val_whole.json
    ade20k:test=ade20k_instance_val.json,maps=annotations_detectron2_part/validation,names=part_names.json

Without a split an image's split follows from a hash of its name, so that it stays when the data grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calico.errors import InputError
from calico.mixedparts.ade20k import read_ade20k, read_part_names
from calico.mixedparts.index import SPLITS
from calico.mixedparts.paco import read_paco
from calico.mixedparts.partimagenet import read_partimagenet
from calico.mixedparts.records import ObjectRecord, ReadReport, united
from calico.mixedparts.released import ReleasedSource
from calico.snapshots.splits import TEST, TRAIN, VALIDATION, Shares
from calico.snapshots.store import sha256_of

#: And the further files of each.
SOURCES: dict[str, tuple[str, ...]] = {"paco": (), "partimagenet": ("objects",), "ade20k": ("maps", "names")}
_DATASETS = {"paco": "paco_lvis", "partimagenet": "part_image_net", "ade20k": "ade20k_part234"}
_SPLIT_OF_SHARE = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


@dataclass(frozen=True)
class SourceFile:
    """One annotation file. split: None where each image's name decides. further: `SOURCES`' other paths, by key."""

    name: str
    split: str | None
    annotations: Path
    further: Mapping[str, Path]

    @property
    def title(self) -> str:
        return f"{self.name}:{self.split}" if self.split else self.name

    @property
    def dataset_name(self) -> str:
        """What the released records call the source."""
        return _DATASETS[self.name]

    def records(self, images: Path | None, report: ReadReport) -> Iterator[ObjectRecord]:
        """One per image and class. images: the folder of pictures; objects of those it lacks are counted, no error."""
        report.source = self.title
        common: dict[str, Any] = {"split": self.split or "train", "report": report, "images": images}
        if self.name == "paco":
            source_records = read_paco(self.annotations, **common)
        elif self.name == "partimagenet":
            source_records = read_partimagenet(self.annotations, objects=self.further.get("objects"), **common)
        else:
            names = read_part_names(self.further["names"])
            source_records = read_ade20k(self.annotations, self.further["maps"], names, **common)
        for record in united(source_records):
            yield record if self.split else replace(record, split=_hashed_split(record))

    def released(self, images: Path | None) -> ReleasedSource:
        """The files as the reader of the released records wants them."""
        if self.name == "partimagenet":
            return ReleasedSource(self.further.get("objects", self.annotations), parts=self.annotations, images=images)
        if self.name == "ade20k":
            names = read_part_names(self.further["names"])
            return ReleasedSource(self.annotations, part_maps=self.further["maps"], part_names=names, images=images)
        return ReleasedSource(self.annotations, images=images)

    def fingerprint(self) -> dict[str, str]:
        """Hashes of all that is read: of the content of files, of names and sizes in folders."""
        paths = {"annotations": self.annotations, **self.further}
        return {key: folder_digest(path) if path.is_dir() else sha256_of(path) for key, path in sorted(paths.items())}


def _hashed_split(record: ObjectRecord) -> str:
    return _SPLIT_OF_SHARE[Shares().split_of([f"{record.source}/{record.image_file}"])]


def parse_source(text: str) -> SourceFile:
    """Raises InputError where it is not of the form above, or names a file that is not there."""
    head, mark, rest = text.partition("=")
    name, _, split = head.partition(":")
    if not mark or name not in SOURCES:
        raise InputError(f"--source {text}: expected NAME=FILE with NAME one of {', '.join(SOURCES)}")
    if split and split not in SPLITS:
        raise InputError(f"--source {text}: the split is one of {', '.join(SPLITS)}, got {split!r}")
    annotations, *others = rest.split(",")
    further = {}
    for other in others:
        key, _, path = other.partition("=")
        if key not in SOURCES[name]:
            raise InputError(
                f"--source {text}: {name} takes {', '.join(SOURCES[name]) or 'no further files'}, not {key}="
            )
        further[key] = Path(path)
    if name == "ade20k" and set(further) != {"maps", "names"}:
        raise InputError(f"--source {text}: ade20k needs maps=DIR (part PNGs) and names=FILE (part names) as well")
    for file in (Path(annotations), *further.values()):
        if not file.exists():
            raise InputError(f"--source {text}: {file} is not there; check the path")
    if Path(annotations).is_dir():
        raise InputError(f"--source {text}: {annotations} is a folder; name the annotation file")
    return SourceFile(name, split or None, Path(annotations), further)


def image_folders(given: Sequence[str], sources: Sequence[str]) -> dict[str, Path]:
    """`--images DIR` and `--images NAME=DIR` -> source -> folder."""
    folders: dict[str, Path] = {}
    for text in given:
        name, mark, path = text.partition("=")
        named = bool(mark) and name in sources
        folder = Path(path if named else text)
        if not folder.is_dir():
            raise InputError(f"--images {text}: no such folder; give DIR or NAME=DIR, NAME one of {', '.join(sources)}")
        folders.update({name: folder} if named else {s: folder for s in sources if s not in folders})
    return folders


def folder_digest(folder: Path) -> str:
    """A hash of the names and sizes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()
