"""Pixels to learn from: of corrected images, each with the name that an annotator gave it, balanced over the names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from calico.language.words import mirrored_name
from calico.part_memory.context import coarse
from calico.part_memory.pyramid import WHOLE_SCALE, PyramidFeatures
from calico.values import AnnotatedImage

MAX_NAMES = 120  # heads stay small; the rarest go
VIEWS = ((False, 1.0), (True, 1.0), (False, WHOLE_SCALE))  # mirrored, scale
ROWS_PER_VIEW = 300

Reader = Callable[[np.ndarray, float], PyramidFeatures]  # image, scale of the look


class TaughtName(NamedTuple):
    """A part of an object, or with part None what of the object belongs to no named part. Normalised."""

    object: str
    part: str | None

    def __str__(self) -> str:
        return self.object if self.part is None else f"{self.object}: {self.part}"


class Lesson(NamedTuple):
    """One corrected image. group: the number of what it must not be torn from when heads are measured."""

    image: AnnotatedImage
    group: int


class ImageRows(NamedTuple):
    """Pixels of one lesson. rows: N x D float16. values: N int64, of its part map. is_mirrored: N bool. places: N x 2
    float16 (down, across) from 0 to 1 of the view that they are of. look: the image as it is, as `coarse` leaves it.
    whole: C float32, the image as `Presence` reads it."""

    rows: Tensor
    values: Tensor
    is_mirrored: Tensor
    places: Tensor
    look: PyramidFeatures
    whole: Tensor

    @property
    def num_bytes(self) -> int:
        return self.look.num_bytes + sum(own.numel() * own.element_size() for own in (*self[:4], self.whole))


class Pixels(NamedTuple):
    """rows: M x D float16, features. codes: M int64, 0 = nothing of these, k + 1 = the k-th name. group: M int64, -1
    for images that show nothing taught. shares: K + 1 float32, of the lessons' area, what has each code. of_image: M
    int64, which of the looks. places, is_mirrored: as `ImageRows` has them. looks, wholes (I x C float32): of the
    lessons, then of the rest."""

    rows: Tensor
    codes: Tensor
    group: Tensor
    shares: Tensor
    of_image: Tensor
    places: Tensor
    is_mirrored: Tensor
    looks: tuple[PyramidFeatures, ...]
    wholes: Tensor


def taught_names(lessons: Iterable[Lesson]) -> tuple[TaughtName, ...]:
    """Every object's own, then its parts, by name; of more than `MAX_NAMES` the most frequent."""
    counts: Counter[TaughtName] = Counter()
    for lesson in lessons:
        name = lesson.image.object_name
        if name:
            counts[TaughtName(name, None)] += 1
            counts.update(TaughtName(name, part) for part in lesson.image.part_names)
    kept = sorted(counts, key=lambda name: (-counts[name], str(name)))[:MAX_NAMES]
    objects = {name.object for name in kept}
    kept += [TaughtName(name, None) for name in sorted(objects) if TaughtName(name, None) not in kept]
    return tuple(sorted(kept, key=lambda name: (name.object, name.part or "")))


def codes_of(item: AnnotatedImage, names: Sequence[TaughtName]) -> np.ndarray:
    """int64, the code of each value of its part map. A part that is not among the names counts as the object itself."""
    place = {name: k + 1 for k, name in enumerate(names)}
    own = place.get(TaughtName(item.object_name, None), 0)
    return np.array(
        [0, own, *(place.get(TaughtName(item.object_name, part), own) for part in item.part_names)], np.int64
    )


def code_map(item: AnnotatedImage, names: Sequence[TaughtName]) -> np.ndarray:
    """HxW int64 codes at the image's own size."""
    codes: np.ndarray = codes_of(item, names)[item.part_map]
    return codes


def read_rows(item: AnnotatedImage, reader: Reader) -> ImageRows:
    """Of an image as it is, mirrored, and at half the size; the same each time."""
    rng = np.random.default_rng(
        np.random.SeedSequence([*item.part_map[:: max(1, len(item.part_map) // 8)].ravel()[:64]])
    )
    rows, values, mirrored, places = [], [], [], []
    look: PyramidFeatures | None = None
    for is_mirrored, scale in VIEWS:
        flip = slice(None, None, -1 if is_mirrored else 1)
        part_map = item.part_map[:, flip]
        chosen = balanced(part_map, ROWS_PER_VIEW, rng)
        features = reader(np.ascontiguousarray(item.image[:, flip]), scale)
        places.append(places_of(chosen, part_map.shape))
        rows.append(features.at(places[-1]).half())
        look = look or coarse(features).half()
        whole = features.mean  # of the last of the views, which is the smallest
        values.append(torch.from_numpy(part_map.ravel()[chosen].astype(np.int64)))
        mirrored.append(torch.full((len(chosen),), is_mirrored))
    assert look is not None  # the first of the views
    return ImageRows(torch.cat(rows), torch.cat(values), torch.cat(mirrored), torch.cat(places).half(), look, whole)


def read_pixels(
    lessons: Sequence[Lesson],
    names: Sequence[TaughtName],
    read: Callable[[AnnotatedImage], ImageRows],
    negatives: Iterable[np.ndarray] = (),
    on_image: Callable[[float], None] = lambda share: None,
    *,
    max_pixels: int,
) -> Pixels:
    """read: `read_rows`, or what keeps what it gave. negatives: HxWx3 uint8 images without taught things.
    max_pixels: of the lessons together; of more, each image has fewer.

    on_image: is told what share of the lessons has been read.
    """
    every = max(1, -(-len(lessons) * len(VIEWS) * ROWS_PER_VIEW // max_pixels))
    swapped = mirrored_codes(names)
    chosen: list[tuple[Tensor, ...]] = []
    looks: list[PyramidFeatures] = []
    wholes: list[Tensor] = []
    shares = np.zeros(len(names) + 1)
    for done, lesson in enumerate(lessons, start=1):
        table = codes_of(lesson.image, names)
        area = np.bincount(lesson.image.part_map.ravel(), minlength=len(table))
        np.add.at(shares, table, area / area.sum())
        views = read(lesson.image)
        view_codes = table[views.values.numpy()]
        view_codes = np.where(views.is_mirrored.numpy(), swapped[view_codes], view_codes)
        # What a mirror would call by a name that nobody taught is left out.
        kept = torch.from_numpy(np.flatnonzero(view_codes >= 0)[::every])
        chosen.append(_rows_of(views, kept, torch.from_numpy(view_codes), lesson.group, len(looks)))
        looks.append(views.look)
        wholes.append(views.whole)
        on_image(done / len(lessons))
    for image in negatives:
        views = read(AnnotatedImage(image, "", (), np.zeros(image.shape[:2], np.uint8)))
        kept = torch.arange(0, len(views.rows), every)
        chosen.append(_rows_of(views, kept, torch.zeros_like(views.values), -1, len(looks)))
        looks.append(views.look)
        wholes.append(views.whole)
    total = torch.from_numpy(shares / shares.sum()).float()
    rows, codes, group, of_image, places, is_mirrored = (torch.cat(column) for column in zip(*chosen, strict=True))
    return Pixels(rows, codes, group, total, of_image, places, is_mirrored, tuple(looks), torch.stack(wholes))


def _rows_of(views: ImageRows, kept: Tensor, codes: Tensor, group: int, image: int) -> tuple[Tensor, ...]:
    """rows, codes, group, of_image, places and is_mirrored of `Pixels`."""
    groups, images = (torch.full((len(kept),), number) for number in (group, image))
    return views.rows[kept], codes[kept], groups, images, views.places[kept], views.is_mirrored[kept]


def mirrored_codes(names: Sequence[TaughtName]) -> np.ndarray:
    """For each code that of its mirror image, "left door" for "right door"; -1 where that was not taught."""
    place = {name: k + 1 for k, name in enumerate(names)}
    mirrored = (
        TaughtName(mirrored_name(name.object), None if name.part is None else mirrored_name(name.part))
        for name in names
    )
    swapped = [place.get(name, -1) for name in mirrored]
    return np.array([0, *swapped], np.int64)


def balanced(codes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of about `count` pixels, as many of each code as it has and its share allows."""
    flat = codes.ravel()
    present = np.unique(flat)
    each = max(1, count // len(present))
    chosen = []
    for code in present:
        where = np.flatnonzero(flat == code)
        chosen.append(where if len(where) <= each else rng.choice(where, each, replace=False))
    return np.concatenate(chosen)


def places_of(indices: np.ndarray, size_hw: tuple[int, ...]) -> Tensor:
    down, across = np.divmod(indices, size_hw[1])
    return torch.from_numpy(np.stack([(down + 0.5) / size_hw[0], (across + 0.5) / size_hw[1]], 1).astype(np.float32))
