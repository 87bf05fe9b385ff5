"""Annotation files -> an index: objects are read and checked, then groups are chosen from them.

The folder appears whole or not at all. Reading is the long part: it is done again only where an annotation file, the
folder of pictures or a rule about objects changed, and a killed build goes on with the objects it had read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from calico.errors import InputError
from calico.files import locked, put_in_place, recover, write_text
from calico.mixedparts.classes import Overrides, comparable_pairs
from calico.mixedparts.groups import Chosen, GroupRules, Pool, balanced, choose_samples, load_pools
from calico.mixedparts.index import MANIFEST, SCHEMA_VERSION, SPLITS, SUB_TASKS, read_manifest
from calico.mixedparts.reading import read_objects, visible
from calico.mixedparts.records import ObjectRecord, ReadReport
from calico.mixedparts.released_index import write_released
from calico.mixedparts.sources import SourceFile, folder_digest
from calico.mixedparts.writer import OBJECT_FILES, Bucket, SampleWriter, link_objects, write_manifest
from calico.snapshots.store import sha256_of

OnProgress = Callable[[str, int, int | None], None]  # stage, done, total


@dataclass(frozen=True)
class BuildSettings:
    """num_samples: of each split, over all sources and sub-tasks. held_out_sizes: images of a group in val and test.

    min_part_pixels: a part with fewer visible pixels is not shown.
    """

    seed: int = 0
    num_samples: Mapping[str, int] = field(default_factory=lambda: {"train": 60_000, "val": 1_000, "test": 1_000})
    rules: GroupRules = field(default_factory=GroupRules)
    held_out_sizes: tuple[int, ...] = (2,)
    min_part_pixels: int = 1


def build_index(
    out: Path,
    files: Sequence[SourceFile],
    images: Mapping[str, Path],
    settings: BuildSettings,
    overrides: Mapping[str, Overrides] | None = None,
    on_progress: OnProgress = lambda stage, done, total: None,
    released: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Build or renew the index `out`; its manifest, with `renewed` (false: everything was as before).

    images: source -> folder of pictures; sources without one are taken as if every picture were there. released: split
    -> file of the released records, whose pairs are then taken instead of groups chosen here. Raises InputError where
    there is nothing to build from, or `out` is something else.
    """
    sources = sorted({file.name for file in files})
    overrides = dict(overrides or {})
    if unknown := set(overrides) - set(sources):
        raise InputError(f"overrides: no source {', '.join(sorted(unknown))}; there is {', '.join(sources)}")
    recover(out)
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is no index and not empty; name another folder")
    before = read_manifest(out) if (out / MANIFEST).is_file() else {}
    partial = out.with_name(out.name + ".partial")
    ready = partial / "ready"
    ready.mkdir(parents=True, exist_ok=True)
    with locked(partial / "lock"):
        on_progress("looking at what there is", 0, None)
        inputs = _plain(
            {
                "version": SCHEMA_VERSION,
                "files": {file.title: file.fingerprint() for file in files},
                "images": {source: folder_digest(root) for source, root in sorted(images.items())},
                "min_part_pixels": settings.min_part_pixels,
                "released": {split: sha256_of(path) for split, path in sorted((released or {}).items())},
            }
        )
        roots = {source: str(root.resolve()) for source, root in sorted(images.items())}
        options = _plain({"settings": asdict(settings), "overrides": {k: _listed(v) for k, v in overrides.items()}})
        if before.get("inputs") == inputs and before.get("asked") == options and before["images"] == roots:
            shutil.rmtree(partial)
            return before | {"renewed": False}
        shortfalls: list[dict[str, Any]] = []
        if released:
            read, ranges = _released(partial, released, files, images, settings, on_progress)
        else:
            read = _objects(out, before, partial, inputs, files, images, settings, on_progress)
            ranges, shortfalls = _samples(ready, read, settings, overrides, on_progress)
        about = {
            **read,
            "inputs": inputs,
            "asked": options,
            "images": roots,
            "ranges": ranges,
            "shortfalls": shortfalls,
        }
        write_manifest(ready, about)
        put_in_place(ready, out, synced=(*OBJECT_FILES, "samples.npy", MANIFEST))
    shutil.rmtree(partial)
    return read_manifest(out) | {"renewed": True}


def _released(
    partial: Path,
    released: Mapping[str, Path],
    files: Sequence[SourceFile],
    images: Mapping[str, Path],
    settings: BuildSettings,
    on_progress: OnProgress,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    ready = partial / "ready"
    shutil.rmtree(ready)
    ready.mkdir()
    (partial / "objects.json").unlink(missing_ok=True)

    def shown(record: ObjectRecord, report: ReadReport) -> tuple[ObjectRecord, int] | None:
        return visible(record, settings.min_part_pixels, report)

    return write_released(ready, released, files, images, shown, on_progress)


def _objects(
    out: Path,
    before: Mapping[str, Any],
    partial: Path,
    inputs: Mapping[str, Any],
    files: Sequence[SourceFile],
    images: Mapping[str, Path],
    settings: BuildSettings,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """The objects' files in `partial/ready`: as they were, or read anew; what the manifest says of them."""
    keys = ("sources", "classes", "parts", "reading")
    ready, state = partial / "ready", partial / "objects.json"
    if state.is_file():
        saved_state = json.loads(state.read_text(encoding="utf-8"))
        if saved_state["inputs"] == inputs:
            return {key: saved_state[key] for key in keys}
    shutil.rmtree(ready)
    ready.mkdir()
    state.unlink(missing_ok=True)
    if before.get("inputs") == inputs:
        link_objects(out, ready)
        return {key: before[key] for key in keys}
    manifest = read_objects(ready, files, images, settings.min_part_pixels, on_progress)
    write_text(state, json.dumps({"inputs": inputs, **manifest}))
    return manifest


def _samples(
    ready: Path,
    read: Mapping[str, Any],
    settings: BuildSettings,
    overrides: Mapping[str, Overrides],
    on_progress: OnProgress,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`samples.npy`; the manifest's ranges, and what could not be filled."""
    sources = read["sources"]
    pools = load_pools(ready, sources, read["classes"], read["parts"])
    pairs = {source: comparable_pairs(_parts_of(pools, source), overrides.get(source)) for source in sources}
    shortfalls = []
    with SampleWriter(ready, sources) as writer:
        for split in SPLITS:
            held_out = split != "train"
            rules = replace(settings.rules, sizes=settings.held_out_sizes) if held_out else settings.rules
            chosen: dict[Bucket, Chosen] = {}
            for bucket, number in _quotas(split, pools, settings.num_samples.get(split, 0)).items():
                on_progress(f"groups of {split}", len(chosen), None)
                pool = pools[split, bucket.source]
                rng = Random(_seed(settings.seed, *bucket))
                chosen[bucket] = choose_samples(pool, bucket.sub_task, number, pairs[bucket.source], rules, rng)
            for bucket, choice in (balanced(chosen) if held_out else chosen).items():
                writer.add(bucket, choice.objects, choice.says_none)
                if len(choice.objects) < choice.quota:
                    could = len(chosen[bucket].objects)
                    row = {"wanted": choice.quota, "possible": could, "kept": len(choice.objects)}
                    shortfalls.append({**bucket._asdict(), **row})
    return writer.ranges, shortfalls


def _quotas(split: str, pools: Mapping[tuple[str, str], Pool], number: int) -> dict[Bucket, int]:
    """How many samples of each kind: equal shares in val and test; in train by the sources' numbers of images."""
    images = {source: len(pool.classes_on) for (where, source), pool in sorted(pools.items()) if where == split}
    weights = images if split == "train" else dict.fromkeys(images, 1)
    total = sum(weights.values()) * len(SUB_TASKS)
    return {
        Bucket(split, source, sub_task): round(number * weight / total)
        for source, weight in weights.items()
        for sub_task in SUB_TASKS
    }


def _parts_of(pools: Mapping[tuple[str, str], Pool], source: str) -> dict[str, frozenset[str]]:
    """Class -> part names seen on any of its objects, in all splits."""
    parts_of: dict[str, set[str]] = {}
    for (_, where), pool in pools.items():
        for member in pool.members if where == source else ():
            parts_of.setdefault(member.class_name, set()).update(member.parts)
    return {name: frozenset(parts) for name, parts in parts_of.items()}


def _seed(*key: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big")


def _listed(overrides: Overrides) -> dict[str, Any]:
    return {
        "ignore_parts": sorted(overrides.ignore_parts),
        "exclude": sorted(overrides.exclude),
        "only": None if overrides.only is None else sorted(overrides.only),
    }


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that it can be compared with a manifest's."""
    return json.loads(json.dumps(value))
