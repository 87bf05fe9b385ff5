"""A folder of annotated photographs as the team that corrects: groups to label, and groups that nobody ever labels.

FOLDER holds annotations.json (COCO in PACO's form, docs/coco.md) and images/. Pictures of one photograph, which the key
`source_photo` of their image rows tells, stay on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calico.coco.dataset import CocoObject, Findings, read_coco
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.images import load_image
from calico.training.base_data import Item
from calico.values import CoSegmentation, ImageGroup, NamedMask

ANNOTATIONS, IMAGES = "annotations.json", "images"
HELD_OUT_SHARE = 0.3
HELD_OUT_SEED = 6_011  # the same photographs are held out from every seed


@dataclass(frozen=True, eq=False)
class PhotoGroup:
    """order: its place in its pool. keys: of each image, one for all pictures of a photograph. Read when asked for."""

    id: str
    order: int
    objects: tuple[CocoObject, ...]
    folder: Path
    is_unseen: bool = True

    @property
    def group(self) -> ImageGroup:
        names = tuple(item.image.file_name for item in self.objects)
        return ImageGroup(tuple(load_image(self.folder / IMAGES / name) for name in names), names)

    @property
    def truth(self) -> CoSegmentation:
        masks = [
            NamedMask(image, item.object_name, part, mask)
            for image, item in enumerate(self.objects)
            for part, mask in item.masks(Findings()).items()
        ]
        return co_segmentation([item.image.size_hw for item in self.objects], masks)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(item.image.file_name for item in self.objects)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(hashlib.sha256(_photo(item).encode()).hexdigest() for item in self.objects)


class PhotoPool:
    """Pairs of photographs that show an object of one name, each picture in one pair at most."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        file = read_coco(self.folder / ANNOTATIONS)
        largest: dict[object, CocoObject] = {}
        for item in file.objects:
            before = largest.get(item.image.id)
            if before is None or len(item.rows) > len(before.rows):
                largest[item.image.id] = item
        self.objects = tuple(largest.values())
        missing = [o.image.file_name for o in self.objects if not (self.folder / IMAGES / o.image.file_name).is_file()]
        if missing or len(self.objects) < 4:
            what = f"{missing[0]} is not in {IMAGES}/" if missing else f"{len(self.objects)} annotated pictures"
            raise InputError(f"{folder}: {what}, expected {ANNOTATIONS} and {IMAGES}/ with four pictures or more")
        photos = sorted({_photo(item) for item in self.objects})
        order = np.random.default_rng(HELD_OUT_SEED).permutation(len(photos)).tolist()
        self._held = {photos[k] for k in order[: max(2, round(HELD_OUT_SHARE * len(photos)))]}
        parts = {part for item in self.objects for part, _ in item.rows if part is not None}
        self.part_names = tuple(sorted(parts))

    def labelled(self, seed: int, count: int | None = None) -> list[PhotoGroup]:
        """At most so many of the groups that can be labelled (None: all), in this seed's order."""
        items = [item for item in self.objects if _photo(item) not in self._held]
        return self._paired(items, seed, f"photos-{seed}")[:count]

    def held_out(self, count: int) -> Iterator[Item]:
        """At most so many groups, always the same ones first."""
        items = [item for item in self.objects if _photo(item) in self._held]
        for group in self._paired(items, HELD_OUT_SEED, "held-out-photos")[:count]:
            yield group.id, group.group, group.truth

    def _paired(self, objects: Sequence[CocoObject], seed: int, prefix: str) -> list[PhotoGroup]:
        """The pictures of two photographs are paired one by one, so that few groups hang together."""
        rng = np.random.default_rng([seed, 0xF0])
        by_name: dict[str, dict[str, list[CocoObject]]] = {}
        for item in objects:
            by_name.setdefault(item.object_name, {}).setdefault(_photo(item), []).append(item)
        pairs: list[tuple[CocoObject, CocoObject]] = []
        for photos in by_name.values():
            order = [list(photos.values())[k] for k in rng.permutation(len(photos)).tolist()]
            order.sort(key=len)  # stable: the seed's order among those of as many pictures
            for first, second in zip(order[::2], order[1::2], strict=False):
                pairs += zip(first, second, strict=False)
        shuffled = [pairs[k] for k in rng.permutation(len(pairs)).tolist()]
        return [PhotoGroup(f"{prefix}-{k}", k, pair, self.folder) for k, pair in enumerate(shuffled)]


def _photo(item: CocoObject) -> str:
    return str(item.image.row.get("source_photo") or item.image.file_name)
