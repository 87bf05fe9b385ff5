"""The nouns of this project: a group of images goes in, a co-segmentation of named part regions comes out.

No torch here. Every outside format (Label Studio, COCO, training sample) is one codec to and from `CoSegmentation`.
Image indices are 0-based here; `(IMAGE1)` in a question or an answer is index 0.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from calico.errors import InputError

MIN_GROUP_SIZE = 2
MAX_GROUP_SIZE = 8


class SubTask(StrEnum):
    """The three questions of part-focused co-segmentation (paper, section 3)."""

    COMMON_OBJECT = "common_object"
    COMMON_PARTS = "common_parts"
    UNIQUE_PARTS = "unique_parts"


class Occurrence(StrEnum):
    """COMMON: two or more images of the group show it. UNIQUE: exactly one does."""

    COMMON = "common"
    UNIQUE = "unique"


class RegionKey(NamedTuple):
    """What names a region within one group: at most one region has each key."""

    image: int
    kind: str  # "object" or "part"
    name: str  # normalised


@dataclass(frozen=True)
class Problem:
    """Something that went wrong without stopping the work: a code to count by, a message to read."""

    code: str
    message: str
    image: int | None = None


def normalize_name(name: str) -> str:
    """What a name is, whoever typed it: `" The  Wheel "` -> `"wheel"`.

    One Unicode form (NFKC: composed accents, no ligatures, plain spaces), without characters that do not show (zero
    width, soft hyphen, byte order mark, variation selectors, control), lower case, white space folded, leading articles
    stripped. Normalising twice changes nothing: `"the A pillar"` is `"pillar"` at once.
    """
    if not name.isascii() or not name.isprintable():
        name = _shown_characters(unicodedata.normalize("NFKC", _shown_characters(name)).lower())
        name = unicodedata.normalize("NFKC", name)  # lower case may part what was composed
    words = name.lower().split()
    while len(words) > 1 and words[0] in {"a", "an", "the"}:
        words = words[1:]
    return " ".join(words)


def whole_number(value: Any) -> int | None:
    """The whole number that a file means, however it is spelled: `48`, `48.0`, `"48"`, `" 48.0 "`; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40 or not re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text):
            return None
        return int(text.partition(".")[0])
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _shown_characters(text: str) -> str:
    return "".join(
        character
        for character in text
        if character.isspace()
        or (unicodedata.category(character) not in ("Cf", "Cc") and not "\ufe00" <= character <= "\ufe0f")
    )


def check_mask(mask: np.ndarray, owner: str) -> None:
    """Raises InputError for what is no bool HxW mask; owner: whose it is, for the message."""
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_:
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"{owner}: expected a bool HxW mask, got {got}; convert it with `mask > 0`")


def image_digest(image: np.ndarray) -> str:
    """A hash of an image's content: HxWx3 uint8, its size and its pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)  # as it lies: a copy costs more than the hash
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageGroup:
    """Two to eight images that are looked at together.

    images: each HxWx3 uint8 RGB, upright (EXIF orientation already applied); sizes may differ.
    names: one label per image for messages and reports, usually its path.
    """

    images: tuple[np.ndarray, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "names", tuple(self.names) or tuple(f"image {i + 1}" for i in range(len(self.images))))
        if not MIN_GROUP_SIZE <= len(self.images) <= MAX_GROUP_SIZE:
            raise InputError(
                f"a group has {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, got {len(self.images)}; "
                + ("add images" if len(self.images) < MIN_GROUP_SIZE else "split it into smaller groups")
            )
        if len(self.names) != len(self.images):
            raise InputError(f"expected one name per image, got {len(self.names)} names for {len(self.images)} images")
        for name, image in zip(self.names, self.images, strict=True):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise InputError(f"{name}: expected a HxWx3 uint8 RGB image, got {image.dtype} {image.shape}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sizes_hw(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each image in pixels."""
        return tuple((image.shape[0], image.shape[1]) for image in self.images)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """`image_digest` of each, for caches."""
        return tuple(image_digest(image) for image in self.images)


@dataclass(frozen=True, eq=False)
class PartRegion:
    """One named mask on one image.

    image: index in the group. object_name, part_name: normalised; part_name None means the whole object.
    mask: HxW bool at the image's own size. occurrence: common or unique in this group.
    correspondence: sorted indices of the images that show it (its own included).
    correspondence_id: equal for regions that correspond, distinct otherwise, within one group.
    score: the estimate of this region's IoU with the truth, 0 to 1 (1.0 for human annotation).
    is_taught: whether a part memory saw it, which learnt its name from a team's corrections.
    certainty: the chance that it is called right, 0 to 1, where that is known apart from the score.
    """

    image: int
    object_name: str
    part_name: str | None
    mask: np.ndarray
    occurrence: Occurrence
    correspondence: tuple[int, ...]
    correspondence_id: str
    score: float = 1.0
    is_taught: bool = False
    certainty: float | None = None

    def __post_init__(self) -> None:
        owner = f"region {self.part_name or self.object_name!r} of image {self.image + 1}"
        check_mask(self.mask, owner)
        if self.image < 0:
            raise InputError(f"{owner}: the image index starts at 0, got {self.image}")
        if not self.object_name or (self.part_name is not None and not self.part_name):
            raise InputError(f"{owner}: a region needs a name; use None as the part name of a whole object")
        for name in (self.object_name, self.part_name):
            if name is not None and name != normalize_name(name):
                raise InputError(f"{owner}: name {name!r} is not normalised, expected {normalize_name(name)!r}")
        if not 0.0 <= self.score <= 1.0:
            raise InputError(f"{owner}: score is from 0 to 1, got {self.score}")
        if self.image not in self.correspondence or list(self.correspondence) != sorted(set(self.correspondence)):
            raise InputError(
                f"{owner}: correspondence lists the images that show it, ascending, its own included; "
                f"got {self.correspondence}"
            )
        if (self.occurrence is Occurrence.COMMON) != (len(self.correspondence) > 1):
            raise InputError(f"{owner}: {self.occurrence} does not fit correspondence {self.correspondence}")

    @property
    def kind(self) -> str:
        """`object` or `part`."""
        return "object" if self.part_name is None else "part"

    @property
    def name(self) -> str:
        """The part's name, or the object's for a whole object."""
        return self.object_name if self.part_name is None else self.part_name

    @property
    def key(self) -> RegionKey:
        return RegionKey(self.image, self.kind, self.name)

    @property
    def named(self) -> NamedMask:
        """What it is without the rest of its group."""
        return NamedMask(
            self.image, self.object_name, self.part_name, self.mask, self.score, self.is_taught, self.certainty
        )


class NamedMask(NamedTuple):
    """A mask with its names, before occurrence and correspondence are known."""

    image: int
    object_name: str
    part_name: str | None
    mask: np.ndarray  # HxW bool at the image's own size
    score: float = 1.0
    is_taught: bool = False
    certainty: float | None = None


@dataclass(frozen=True, eq=False)
class CoSegmentation:
    """What is known of one group: its regions, the raw answers, and the problems met on the way.

    sizes_hw: (height, width) of each image. regions: ordered, at most one per `RegionKey`.
    answers: raw text per sub-task (empty for human annotation). `calico.correspondence.co_segmentation` makes one of
    masks and their names.
    """

    sizes_hw: tuple[tuple[int, int], ...]
    regions: tuple[PartRegion, ...] = ()
    answers: Mapping[SubTask, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes_hw", tuple((int(h), int(w)) for h, w in self.sizes_hw))
        object.__setattr__(self, "regions", tuple(self.regions))
        object.__setattr__(self, "problems", tuple(self.problems))
        seen: set[RegionKey] = set()
        objects: dict[int, str] = {}
        for region in self.regions:
            if region.correspondence[-1] >= len(self.sizes_hw):
                raise InputError(
                    f"region {region.name!r} names image {region.correspondence[-1] + 1} of {len(self.sizes_hw)}"
                )
            if region.mask.shape != self.sizes_hw[region.image]:
                raise InputError(
                    f"region {region.name!r}: mask is {region.mask.shape}, image {region.image + 1} is "
                    f"{self.sizes_hw[region.image]} (height, width); bring the mask to the image's own size"
                )
            if region.key in seen:
                raise InputError(f"two regions named {region.name!r} on image {region.image + 1}; unite their masks")
            seen.add(region.key)
            if objects.setdefault(region.image, region.object_name) != region.object_name:
                raise InputError(
                    f"image {region.image + 1} has two objects, {objects[region.image]!r} and {region.object_name!r}; "
                    "every image of a group has one"
                )

    @property
    def by_key(self) -> dict[RegionKey, PartRegion]:
        return {region.key: region for region in self.regions}

    def restricted_to(self, sub_task: SubTask) -> CoSegmentation:
        """What a right answer to one question holds (paper, section 3).

        Common object: the object regions shown by two or more images. Common and unique parts: every image's object,
        then the parts of that occurrence.
        """
        if sub_task is SubTask.COMMON_OBJECT:
            keep = [r for r in self.regions if r.kind == "object" and r.occurrence is Occurrence.COMMON]
        else:
            occurrence = Occurrence.COMMON if sub_task is SubTask.COMMON_PARTS else Occurrence.UNIQUE
            keep = [r for r in self.regions if r.kind == "object" or r.occurrence is occurrence]
        return CoSegmentation(self.sizes_hw, tuple(keep), self.answers, self.problems)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image with the truth about its object: what group samplers draw from (drawings and real part data alike).

    image: HxWx3 uint8 RGB. object_name, part_names: normalised, part names distinct.
    part_map: HxW uint8, 0 = not the object, 1 = object but no named part, k + 2 = part_names[k]; visible pixels only.
    difficulty: `clean`, `clutter`, `occluded` or `outline` for drawings, the source's name for photographs.
    """

    image: np.ndarray
    object_name: str
    part_names: tuple[str, ...]
    part_map: np.ndarray
    difficulty: str = "clean"
    source: str = ""

    def __post_init__(self) -> None:
        if self.part_map.shape != self.image.shape[:2] or self.part_map.dtype != np.uint8:
            raise InputError(
                f"{self.source}: expected a uint8 part map of {self.image.shape[:2]}, "
                f"got {self.part_map.dtype} {self.part_map.shape}"
            )
        if int(self.part_map.max(initial=0)) > len(self.part_names) + 1:
            raise InputError(
                f"{self.source}: part map names part {int(self.part_map.max()) - 2} of {len(self.part_names)}"
            )

    def masks(self, image: int) -> list[NamedMask]:
        """The object's mask and each part's, as regions of image number `image` of a group."""
        masks = [NamedMask(image, self.object_name, None, self.part_map > 0)]
        masks += [
            NamedMask(image, self.object_name, name, self.part_map == k + 2) for k, name in enumerate(self.part_names)
        ]
        return [item for item in masks if item.mask.any()]


@dataclass(frozen=True)
class Question:
    """What is asked of a group. candidates: names the answer should choose from; empty means free naming."""

    sub_task: SubTask
    text: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """One training or evaluation sample. provenance: where it comes from, as JSON-ready values."""

    group: ImageGroup
    question: Question
    target: CoSegmentation
    provenance: Mapping[str, Any] = field(default_factory=dict)
