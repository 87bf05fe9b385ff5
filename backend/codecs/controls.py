"""What a labeling config says: its layout, the tags of every image, and what its labels mean.

Layout A: k `<Image value="$imageI">` tags side by side. B: one `<Image valueList="$images">`, a page per image.
C: `<Repeater on="$images">`, whose control names carry the image's index.
Open vocabulary: labels say object, common or unique and a per-region `<TextArea>` holds the name. Fixed vocabulary: the
labels are the names (`part`, `object part` or `object:part`) and per-region `<Choices>` say common or unique.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from calico.errors import InputError
from calico.values import normalize_name

_ROLES = {"object": "object", "whole object": "object", "common": "common", "common part": "common"}
_ROLES |= {"unique": "unique", "unique part": "unique", "part": "part"}


@dataclass(frozen=True)
class Label:
    """One label. value: what stands in results. synonyms: its `predicted_values`. hint: shown on hover."""

    value: str
    synonyms: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class ImageControls:
    """The tags of one image (of every image in layouts B and C), by name; None where the config has no such tag.

    source: the `$` expression of its address. region, region_tag: what draws it, a brush before a polygon.
    labels_name: the tag that labels it, equal to `region` for BrushLabels and PolygonLabels.
    labels_key: the task's key of dynamic labels. text, choices: per-region `<TextArea>` and `<Choices>`.
    """

    image: str
    source: str
    region: str
    region_tag: str
    labels_name: str
    labels: tuple[Label, ...] = ()
    labels_key: str | None = None
    text: str | None = None
    choices: str | None = None
    choice_values: tuple[str, ...] = ()
    smart_keypoint: str | None = None
    smart_rectangle: str | None = None

    @property
    def geometry(self) -> Literal["brush", "polygon"]:
        return "brush" if self.region_tag.startswith("Brush") else "polygon"


@dataclass(frozen=True)
class LabelingConfig:
    """What a backend needs to know of a project's labeling config.

    images: one per `<Image>` in A; one in B; one in C with `index_flag` standing for the index in its names.
    relation: the value of the relation that says correspondence, None without `<Relations>`.
    """

    layout: Literal["A", "B", "C"]
    images: tuple[ImageControls, ...]
    relation: str | None
    index_flag: str = ""

    @property
    def num_images(self) -> int | None:
        """The size of every group in layout A; None where the task decides."""
        return len(self.images) if self.layout == "A" else None

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple({label.value: label for controls in self.images for label in controls.labels}.values())

    @cached_property
    def vocabulary(self) -> Literal["open", "fixed"]:
        if any(controls.labels_key for controls in self.images):
            return "fixed"
        return "open" if {role(label.value) for label in self.labels} & {"common", "unique", "part"} else "fixed"

    def controls(self, image: int) -> ImageControls:
        """The tags of image number `image` (0-based)."""
        if self.layout == "A":
            if image >= len(self.images):
                raise InputError(
                    f"the config shows {len(self.images)} images, got image {image + 1}; use a config for that many"
                )
            return self.images[image]
        controls = self.images[0]
        if self.layout == "B":
            return controls
        fields = ("image", "source", "region", "labels_name", "text", "choices", "smart_keypoint", "smart_rectangle")
        named = {field: getattr(controls, field) for field in fields}
        return replace(controls, **{k: v and v.replace(self.index_flag, str(image)) for k, v in named.items()})

    def image_of(self, to_name: str, item_index: int | None = None) -> int | None:
        """The 0-based image that a result row is about; None if its `to_name` is not of this config."""
        if self.layout == "B":
            return (item_index or 0) if to_name == self.images[0].image else None
        if self.layout == "A":
            return next((i for i, controls in enumerate(self.images) if controls.image == to_name), None)
        before, _, after = self.images[0].image.partition(self.index_flag)
        found = re.fullmatch(re.escape(before) + r"(\d+)" + re.escape(after), to_name)
        return int(found[1]) if found else None

    def known_labels(self, image: int, task_data: Mapping[str, Any] | None = None) -> tuple[Label, ...]:
        """The labels of an image's control, those that the task brings (`value="$parts"`) included."""
        controls = self.controls(image)
        if controls.labels_key is None or task_data is None:
            return controls.labels
        brought = lookup(controls.labels_key, task_data)
        if not isinstance(brought, list):
            raise InputError(
                f"task key {controls.labels_key!r}: expected a list of labels, got {type(brought).__name__}"
            )
        values = [item.get("value") if isinstance(item, dict) else item for item in brought]
        return controls.labels + tuple(Label(value) for value in values if isinstance(value, str) and value)

    def candidates(self, task_data: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Fixed vocabulary: the normalised object and part names that decoding may choose from. Open: none.

        Where no label says an object, "object" is the one name for all of them.
        """
        if self.vocabulary == "open":
            return ()
        said = []
        for image in range(len(self.images)):
            labels = self.known_labels(image, task_data)
            said += [names_of_label(label, labels) for label in labels]
        objects = [owner for owner, _ in said if owner] or ["object"]
        return tuple(dict.fromkeys([*objects, *(part for _, part in said if part)]))


def role(label: str) -> str | None:
    """`object`, `common`, `unique` or `part` for a label that says what a region is, None for one that names it."""
    return _ROLES.get(normalize_name(label.replace("_", " ")))


def names_of_label(label: Label, labels: Sequence[Label]) -> tuple[str | None, str | None]:
    """(object name, part name) that a label of a fixed vocabulary says; part None is a whole object.

    `chair:leg` says both; so does `chair leg` where `chair` is a label too. A label is an object where another starts
    with it or its hint is `object`; any other is a part of an object that it does not name. Label `object` names none.
    """
    name = normalize_name(label.value.replace("_", " "))
    if role(name) == "object":
        return None, None
    others = {normalize_name(other.value.replace("_", " ")) for other in labels} - {name}
    if ":" in name:
        owner, part = (piece.strip() for piece in name.split(":", 1))
        return owner or None, part or None
    if label.hint == "object" or any(other.startswith((name + ":", name + " ")) for other in others):
        return name, None
    owners = [other for other in others if ":" not in other and name.startswith(other + " ")]
    if owners:
        owner = max(owners, key=len)
        return owner, name[len(owner) + 1 :]
    return None, name


def lookup(expression: str, data: Mapping[str, Any]) -> Any:
    """The value of `$key`, `$key.field` or `$key[0].field` in a task's data."""
    if not isinstance(data, Mapping):
        raise InputError(f"task data: expected an object, got {type(data).__name__}")
    if expression[1:] in data:
        return data[expression[1:]]
    found: Any = data
    for step in re.findall(r"[^.\[\]]+", expression[1:]):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, TypeError, ValueError):
            known = ", ".join(sorted(map(str, data))) or "none"
            raise InputError(f"task data has no {expression!r} (its keys: {known}); import it with that key") from None
    return found
