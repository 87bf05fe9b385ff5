"""A Label Studio annotation -> `CoSegmentation`, and what an annotator did to a prediction.

A part's object is its image's `object` region, else what its label says (`chair:leg`), else `meta.text`, else a
problem. Regions of one name on one image are one `PartRegion`. Common and unique are computed from the names; a label
or choice that says otherwise is a hint, and the disagreement a problem. Relations between different names override
names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import combinations, islice
from typing import Any, NamedTuple

import numpy as np

from backend.codecs.controls import Label, LabelingConfig, names_of_label, role
from backend.codecs.labels import find_label
from backend.codecs.rows import DrawnRegion, Relation, Size, mask_of_value, read_rows, shape_of
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.images import MAX_PIXELS
from calico.masks import iou
from calico.values import MAX_GROUP_SIZE, CoSegmentation, NamedMask, Problem, RegionKey, normalize_name

UNNAMED_OBJECT = "object"
MAX_REGIONS = 1000  # of an annotation
MAX_MASK_PIXELS = 1_000_000_000  # of all its regions' masks together, a byte each
MAX_COMPARED = 500  # pairs of like regions that are looked at for one drawn twice
OVERLAP = 0.8  # two regions of one image with this IoU are likely one that was drawn or named twice


@dataclass(frozen=True, eq=False)
class DecodedAnnotation:
    """row_ids: the ids of the rows that each region was read from. problems: also in the co-segmentation.

    left_out: regions of the task's images that could not be read.
    """

    cosegmentation: CoSegmentation
    problems: tuple[Problem, ...]
    row_ids: Mapping[RegionKey, tuple[str, ...]]
    left_out: tuple[LeftOut, ...] = ()


class LeftOut(NamedTuple):
    """A region that could not be read, and what is known of it. is_object, name: None where nothing says it; says:
    "common" or "unique", as labelled."""

    id: str
    image: int
    is_object: bool | None
    name: str | None
    says: str | None


class Names(NamedTuple):
    """Normalised. part is None for a whole object, owner where unknown; says: "common" or "unique", as labelled."""

    owner: str | None
    part: str | None
    says: str | None


class _Named(NamedTuple):
    """A drawn region with what its label and text say. part is None for a whole object, owner where unknown."""

    drawn: DrawnRegion
    image: int
    owner: str | None
    part: str | None
    says: str | None  # "common" or "unique", as labelled
    mask: np.ndarray


def decode_annotation(
    annotation: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    config: LabelingConfig,
    sizes_hw: Sequence[Size | None] | None = None,
    *,
    task_data: Mapping[str, Any] | None = None,
) -> DecodedAnnotation:
    """Decode an annotation (or a prediction, or a bare list of rows).

    sizes_hw: (height, width) of each image of the group, None where its rows are to tell. task_data: brings dynamic
    labels. A region that cannot be read becomes a problem. `InputError` where nothing can: no rows, an unknown size.
    """
    rows = annotation.get("result") if isinstance(annotation, Mapping) else annotation
    content = read_rows(rows, config)  # type: ignore[arg-type]
    problems = [*(Problem("malformed_row", fault) for fault in content.faults), *content.remarks]
    place: dict[str, int] = {}
    for region in content.regions.values():
        image = config.image_of(region.to_name, region.item_index)
        if image is None:
            image_names = ", ".join(controls.image for controls in config.images)
            message = f"region {region.id}: no <Image> is named {region.to_name!r}, the config has {image_names}"
            problems.append(Problem("unknown_image", f"{message}; is it another project's?"))
        elif not 0 <= image < (MAX_GROUP_SIZE if sizes_hw is None else len(sizes_hw)):
            problems.append(Problem("unknown_image", f"region {region.id}: the task has no image {image + 1}"))
        else:
            place[region.id] = image
    sizes = _sizes(config, sizes_hw, content.regions, place)
    num_pixels = sum(sizes[image][0] * sizes[image][1] for image in place.values())
    if len(place) > MAX_REGIONS or num_pixels > MAX_MASK_PIXELS:
        raise InputError(
            f"{len(place)} regions with {num_pixels / 1e6:,.0f} megapixels of masks, expected up to {MAX_REGIONS} with "
            f"{MAX_MASK_PIXELS / 1e6:,.0f}; use smaller images, or fewer regions"
        )

    named: list[_Named] = []
    left_out: list[LeftOut] = []
    known_labels = cache(lambda image: config.known_labels(image, task_data))
    for key, image in place.items():
        region = content.regions[key]
        labels, has_text = known_labels(image), config.controls(image).text is not None
        try:
            named.append(_named(region, image, labels, has_text, sizes[image], problems))
        except InputError as error:
            problems.append(Problem("unreadable_region", f"region {key} of image {image + 1}: {error}", image))
            left_out.append(_left_out(region, image, labels, has_text))
    objects = _objects(named, problems)
    problems += _duplicates(named)

    masks: list[NamedMask] = []
    key_of: dict[str, RegionKey] = {}
    for item in named:
        masks.append(NamedMask(item.image, objects[item.image], item.part, item.mask))
        kind = "object" if item.part is None else "part"
        key_of[item.drawn.id] = RegionKey(item.image, kind, item.part or objects[item.image])
    relations = _relations(content.relations, key_of, config.relation, problems)
    coseg = co_segmentation(sizes, masks, relations=relations)
    for item in named:
        computed = coseg.by_key[key_of[item.drawn.id]].occurrence
        if item.says is not None and item.says != computed:
            where = f"region {item.drawn.id}: {item.part!r} of image {item.image + 1}"
            message = f"{where} is labelled {item.says}, the names of the group say {computed}"
            problems.append(Problem("occurrence_disagrees", message, item.image))
    coseg = CoSegmentation(coseg.sizes_hw, coseg.regions, coseg.answers, tuple(problems))
    row_ids: dict[RegionKey, tuple[str, ...]] = {}
    for row_id, region_key in key_of.items():
        row_ids[region_key] = (*row_ids.get(region_key, ()), row_id)
    return DecodedAnnotation(coseg, tuple(problems), row_ids, tuple(left_out))


def _is_size(size_hw: Size) -> bool:
    """Whether an image may have it: a row's claim is other people's text, and memory is taken by it."""
    return min(size_hw) >= 1 and size_hw[0] * size_hw[1] <= MAX_PIXELS


def _sizes(
    config: LabelingConfig,
    known_sizes: Sequence[Size | None] | None,
    regions: Mapping[str, DrawnRegion],
    place: Mapping[str, int],
) -> list[Size]:
    if known_sizes is None:
        known_sizes = [None] * (config.num_images or max(place.values(), default=-1) + 1)
    sizes: list[Size] = []
    for image, size in enumerate(known_sizes):
        own_sizes = (regions[key].size_hw for key, where in place.items() if where == image)
        size = size or next((t for t in own_sizes if t is not None), None)
        if size is None:
            raise InputError(f"image {image + 1}: no row tells its size; pass the (height, width) of the image itself")
        if not _is_size(size):
            raise InputError(
                f"image {image + 1}: its rows say {size} (height, width), the limit is {MAX_PIXELS} pixels"
            )
        sizes.append((int(size[0]), int(size[1])))
    return sizes


def _named(
    drawn: DrawnRegion, image: int, labels: Sequence[Label], has_text: bool, size_hw: Size, problems: list[Problem]
) -> _Named:
    """What a region is called, and its mask. `InputError` where it has no name or no area."""
    if len(drawn.labels) > 1:
        problems.append(Problem("several_labels", f"region {drawn.id}: labels {drawn.labels}, the first counts", image))
    said = read_names(drawn, labels, has_text=has_text)
    mask = drawn.mask(size_hw)
    if not mask.any():
        raise InputError("nothing of it is left on the image; draw it again or delete it")
    return _Named(drawn, image, said.owner, said.part, said.says, mask)


def _left_out(drawn: DrawnRegion, image: int, labels: Sequence[Label], has_text: bool) -> LeftOut:
    try:
        said = read_names(drawn, labels, has_text=has_text)
        return LeftOut(drawn.id, image, said.part is None, said.part or said.owner, said.says)
    except InputError:
        label = (find_label(drawn.labels[0], labels) or Label(drawn.labels[0])) if drawn.labels else None
        says = None if label is None else label.role
        is_object = None if says is None else says == "object"
        return LeftOut(drawn.id, image, is_object, None, says if says in ("common", "unique") else None)


def read_names(drawn: DrawnRegion, labels: Sequence[Label], *, has_text: bool = True) -> Names:
    """What a region's label, text and notes say. labels: the config's; has_text: so has it a text field for names.

    `InputError` where they name nothing.
    """
    value = drawn.labels[0] if drawn.labels else None
    label = None if value is None else find_label(value, labels) or Label(value)
    says = label.role if label is not None else None
    owner = drawn.notes[0] if drawn.notes else None
    part: str | None = drawn.text or (drawn.notes[1] if len(drawn.notes) > 1 else "")
    if says == "object":
        # Where no text field names an object, its note is where an annotator does.
        owner, part = drawn.text or owner or ("" if has_text else drawn.note), None
    elif says == "other":
        part = drawn.text
    elif label is not None and says is None:
        # The label itself is the name; the config's own entry knows hints and which labels are objects.
        labelled_owner, part = names_of_label(label, labels)
        if labelled_owner is None and owner is not None and part == normalize_name(owner):
            part = None  # a plain name that the notes give as the object's
        owner = labelled_owner or owner
    elif label is None and not part:
        raise InputError("it has neither a label nor a name; label it or delete it")
    if part is not None and not normalize_name(part):
        raise InputError(f"it is labelled {value!r} but has no name; type the part's name in its text field")
    if drawn.choices and part is not None:
        says = role(drawn.choices[0]) or says
    return Names(
        normalize_name(owner) or None if owner else None,
        None if part is None else normalize_name(part),
        says if says in ("common", "unique") else None,
    )


def _objects(named: Sequence[_Named], problems: list[Problem]) -> dict[int, str]:
    """The name of every image's object."""
    objects: dict[int, str] = {}
    for image in sorted({item.image for item in named}):
        regions = [item for item in named if item.image == image]
        objects_drawn = [item.owner for item in regions if item.part is None and item.owner]
        owners = [item.owner for item in regions if item.part is not None and item.owner]
        ranked = [name for name, _ in Counter(objects_drawn or owners).most_common()]
        if not ranked:
            message = f"image {image + 1}: nothing names its object; draw an `object` region and type its name"
            problems.append(Problem("no_object_name", message, image))
        elif len(ranked) > 1:
            message = (
                f"image {image + 1}: objects {', '.join(map(repr, ranked))} are named, one expected; {ranked[0]!r} kept"
            )
            problems.append(Problem("several_objects", message, image))
        objects[image] = ranked[0] if ranked else UNNAMED_OBJECT
    return objects


def _duplicates(named: Sequence[_Named]) -> Iterable[Problem]:
    """Regions of one name that lie on each other: pieces of one region do not, so one was likely drawn twice."""
    areas = [int(np.count_nonzero(item.mask)) for item in named]
    alike = (  # masks of other areas cannot cover each other
        (named[i], named[j])
        for i, j in combinations(range(len(named)), 2)
        if (named[i].image, named[i].part) == (named[j].image, named[j].part)
        and min(areas[i], areas[j]) >= OVERLAP * max(areas[i], areas[j])
    )
    for a, b in islice(alike, MAX_COMPARED):
        if (overlap := iou(a.mask, b.mask)) >= OVERLAP:
            pair = f"regions {a.drawn.id} and {b.drawn.id} are both {a.part or a.owner or UNNAMED_OBJECT!r}"
            message = f"image {a.image + 1}: {pair} and cover each other (IoU {overlap:.2f}); they count as one"
            yield Problem("duplicate_region", message, a.image)


def _relations(
    relations: Iterable[Relation], key_of: Mapping[str, RegionKey], meaning: str | None, problems: list[Problem]
) -> list[tuple[RegionKey, RegionKey]]:
    """The relations that say more than names do: between regions of different names."""
    pairs = []
    for relation in relations:
        if relation.labels and meaning not in relation.labels:
            continue  # of another meaning, for instance `is above`
        first, second = key_of.get(relation.from_id), key_of.get(relation.to_id)
        owner = f"relation {relation.from_id} -> {relation.to_id}"
        if first is None or second is None:
            problems.append(Problem("relation_without_region", f"{owner}: joins a region that is not there"))
        elif first.kind != second.kind:
            problems.append(
                Problem("relation_of_kinds", f"{owner}: joins an object with a part, which cannot correspond")
            )
        elif first.name != second.name:
            problems.append(
                Problem("relation_overrides_names", f"{owner}: {first.name!r} and {second.name!r} correspond")
            )
            pairs.append((first, second))
    return pairs


class Change(StrEnum):
    KEPT = "kept"
    EDITED = "edited"
    RELABELLED = "relabelled"
    DELETED = "deleted"
    ADDED = "added"


@dataclass(frozen=True)
class RegionChange:
    """What became of one region. EDITED is about its mask, and wins where its names changed too (`is_relabelled`).

    iou: of the predicted and the annotated mask; 0 where only one of them is there.
    """

    id: str
    change: Change
    iou: float
    is_relabelled: bool = False


def compare_with_prediction(
    prediction_rows: Sequence[Mapping[str, Any]],
    annotation_rows: Sequence[Mapping[str, Any]],
    config: LabelingConfig | None = None,
) -> tuple[RegionChange, ...]:
    """Every region of the prediction, then those that were added. Geometry decides; `origin` is not read.

    config: as `read_rows` takes it.
    """
    predicted, annotated = read_rows(prediction_rows, config).regions, read_rows(annotation_rows, config).regions
    changes = []
    for key, before in predicted.items():
        after = annotated.get(key)
        if after is None:
            changes.append(RegionChange(key, Change.DELETED, 0.0))
            continue
        iou = _iou(before, after)
        is_relabelled = _naming(before) != _naming(after)
        change = Change.EDITED if iou < 1 else Change.RELABELLED if is_relabelled else Change.KEPT
        changes.append(RegionChange(key, change, iou, is_relabelled))
    changes += [RegionChange(key, Change.ADDED, 0.0) for key in annotated if key not in predicted]
    return tuple(changes)


def _naming(region: DrawnRegion) -> tuple[Any, ...]:
    return region.labels, normalize_name(region.text), region.choices


def _iou(a: DrawnRegion, b: DrawnRegion) -> float:
    if (a.to_name, a.item_index or 0) != (b.to_name, b.item_index or 0) or a.value is None or b.value is None:
        return 1.0 if a.value is b.value else 0.0
    if shape_of(a.value) == shape_of(b.value):
        return 1.0
    size = a.size_hw or b.size_hw
    if size is None:  # percent shapes compare on any raster; a brush as one long row
        rle = a.value.get("rle") or b.value.get("rle")
        try:
            size = (1000, 1000) if rle is None else (1, int.from_bytes(bytes(rle[:4]), "big") // 4)
        except (TypeError, ValueError, KeyError):
            return 0.0
    if not _is_size(size):
        return 0.0
    try:
        first, second = mask_of_value(a.value, size), mask_of_value(b.value, size)
    except InputError:
        return 0.0  # a mask that cannot be read is another one; decoding the annotation reports it
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
