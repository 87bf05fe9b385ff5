"""What a labeling config says: its layout, the tags of every image, and what its labels mean.

Layout A: k `<Image value="$imageI">` tags side by side. B: one `<Image valueList="$images">`, a page per image.
C: `<Repeater on="$images">`, whose control names carry the image's index.
Names are told in one of three ways. *Group*: the labels are the group's own names, brought by the task as `$parts` (see
`backend.codecs.parts`), and a per-region `<TextArea>` names what has the label `other part`. *Open*: labels say object,
common or unique and the `<TextArea>` holds every name. *Fixed*: the labels are the names (`part`, `object part` or
`object:part`) and per-region `<Choices>` say common or unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import Any, Literal, TypeVar

from calico.errors import InputError
from calico.values import normalize_name

T = TypeVar("T")

MAX_LABELS = 5000  # of one control
_ROLES = {"object": "object", "whole object": "object", "common": "common", "common part": "common"}
_ROLES |= {"unique": "unique", "unique part": "unique", "part": "part", "other part": "other"}
PART_SUFFIX = " (part)"  # of the label of a part that is called like an object of its group


@dataclass(frozen=True)
class Label:
    """One label. value: what stands in results, its alias where it has one. shown: what the editor shows, if other.

    synonyms: its `predicted_values`. hint: shown on hover; `object` and `part` say what a label of this name is.
    """

    value: str
    synonyms: tuple[str, ...] = ()
    hint: str = ""
    caption: str = ""

    @property
    def role(self) -> str | None:
        """As the function `role`, of what stands in results or else of what the editor shows."""
        return role(self.value) or (role(self.caption) if self.caption else None)


class Labels(tuple[Label, ...]):
    """Labels with what is looked up in them, made once: a config may have thousands."""

    @classmethod
    def of(cls, labels: Iterable[Label]) -> Labels:
        return labels if isinstance(labels, cls) else cls(labels)

    @cached_property
    def names(self) -> frozenset[str]:
        """The normalised names of all."""
        return frozenset(map(_label_name, self))

    @cached_property
    def owners(self) -> frozenset[str]:
        """What stands before a space or a colon in any name: a label called so is an object with parts."""
        return frozenset(name[:end] for name in self.names for end in _ends(name, ": "))

    @cached_property
    def by_role(self) -> dict[str | None, Label]:
        """The first label of each role."""
        return {label.role: label for label in reversed(self)}

    @cached_property
    def named(self) -> Labels:
        """Those that name something."""
        return Labels(label for label in self if label.role is None)

    @cached_property
    def objects(self) -> Labels:
        """Of `named` those that say a whole object."""
        return Labels(label for label in self.named if names_of_label(label, self)[1] is None)

    @cached_property
    def parts(self) -> Labels:
        """Of `named` the others."""
        return Labels(label for label in self.named if names_of_label(label, self)[1] is not None)

    @cached_property
    def by_text(self) -> tuple[dict[str, Label], dict[str, Label]]:
        """Labels by their exact texts and by folded ones: values before shown texts before synonyms, the first of
        equals."""
        exact: dict[str, Label] = {}
        folded: dict[str, Label] = {}
        for texts in (lambda label: (label.value,), lambda label: (label.caption,), lambda label: label.synonyms):
            for label in self:
                for text in filter(None, texts(label)):
                    exact.setdefault(text, label)
                    folded.setdefault(folded_name(text), label)
        return exact, folded


def folded_name(name: str) -> str:
    """A name as labels are compared: normalised, `_` a space, no spaces around a colon."""
    return ":".join(piece.strip() for piece in normalize_name(name.replace("_", " ")).split(":"))


@dataclass(frozen=True)
class RegionControl:
    """A tag that draws regions of an image. labels_name: the tag that labels them, `name` itself for `...Labels` tags.

    labels_key: the task's key of dynamic labels.
    """

    name: str
    tag: str
    labels_name: str
    labels: tuple[Label, ...] = ()
    labels_key: str | None = None

    @property
    def geometry(self) -> str:
        """`brush`, `bitmask`, `polygon`, `vector`: what predictions can be written as. `rectangle`, `ellipse`: read."""
        return self.tag.removesuffix("Labels").lower()


class Use(StrEnum):
    """What the rows of a control say of a region."""

    REGION = "region"  # its shape or label
    NAME = "name"
    OCCURRENCE = "occurrence"
    PROMPT = "prompt"  # a click or box that asks the backend, and is no region
    OTHER = "other"  # comments, quality, whatever else is asked


@dataclass(frozen=True)
class ImageControls:
    """The tags of one image (of every image in layouts B and C), by name; None where the config has no such tag.

    source: the `$` expression of its address. regions: what draws masks, in the order in which a label is looked for.
    shapes: tags of boxes and ellipses, which are read only. text, choices: per-region `<TextArea>` of names and
    `<Choices>` of common or unique. name_choices: per-region `<Choices>` or `<Taxonomy>` of names, where no text is;
    name_values: what can be chosen there, of `<Choices>`.
    smart_keypoint, smart_rectangle: tools that ask the backend. question: the `<TextArea>` of the whole task whose
    words ask it for a part. others: tags that say nothing that is read.
    """

    image: str
    source: str
    regions: tuple[RegionControl, ...]
    shapes: tuple[RegionControl, ...] = ()
    text: str | None = None
    choices: str | None = None
    choice_values: tuple[str, ...] = ()
    name_choices: str | None = None
    name_values: tuple[str, ...] = ()
    smart_keypoint: str | None = None
    smart_rectangle: str | None = None
    question: str | None = None
    prompts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    prompt_labels: tuple[tuple[str, tuple[Label, ...]], ...] = ()

    @property
    def region(self) -> str:
        """The name of the first tag that draws."""
        return self.regions[0].name

    @property
    def labels_name(self) -> str:
        return self.regions[0].labels_name

    @property
    def geometry(self) -> str:
        return self.regions[0].geometry

    @property
    def labels(self) -> tuple[Label, ...]:
        """Of all tags that draw masks."""
        return tuple({label.value: label for control in self.regions for label in control.labels}.values())

    @property
    def labels_keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(control.labels_key for control in self.regions if control.labels_key))

    def use_of(self, control: str) -> Use | None:
        """What rows of the control of that name are for; None where the config has none of that name."""
        if control in self.prompts:
            return Use.PROMPT
        if any(control in (drawing.name, drawing.labels_name) for drawing in (*self.regions, *self.shapes)):
            return Use.REGION
        if control in (self.text, self.name_choices):
            return Use.NAME
        if control == self.choices:
            return Use.OCCURRENCE
        return Use.OTHER if control in self.others else None

    def renamed(self, index_flag: str, image: int) -> ImageControls:
        """With an image's index for the flag of a `<Repeater>` in every name."""

        def name(text: str) -> str:
            return text.replace(index_flag, str(image))

        def drawing(control: RegionControl) -> RegionControl:
            return replace(control, name=name(control.name), labels_name=name(control.labels_name))

        names: dict[str, Any] = {}
        fields = ("image", "source", "text", "choices", "name_choices", "smart_keypoint", "smart_rectangle", "question")
        for field in fields:
            value = getattr(self, field)
            names[field] = value and name(value)
        return replace(
            self,
            **names,
            regions=tuple(map(drawing, self.regions)),
            shapes=tuple(map(drawing, self.shapes)),
            prompts=tuple(map(name, self.prompts)),
            others=tuple(map(name, self.others)),
            prompt_labels=tuple((name(control), labels) for control, labels in self.prompt_labels),
        )


@dataclass(frozen=True)
class LabelingConfig:
    """What a backend needs to know of a project's labeling config.

    images: one per `<Image>` in A; one in B; one in C with `index_flag` standing for the index in its names.
    relation: the value of the relation that says correspondence, None without `<Relations>`.
    names: a fixed vocabulary that is too long to be shown as labels; the task brings those of its group.
    """

    layout: Literal["A", "B", "C"]
    images: tuple[ImageControls, ...]
    relation: str | None
    index_flag: str = ""
    names: tuple[Label, ...] = ()

    @property
    def num_images(self) -> int | None:
        """The size of every group in layout A; None where the task decides."""
        return len(self.images) if self.layout == "A" else None

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple({label.value: label for controls in self.images for label in controls.labels}.values())

    @cached_property
    def vocabulary(self) -> Literal["open", "fixed", "group"]:
        if any(controls.labels_keys for controls in self.images):
            return "group" if all(controls.text for controls in self.images) else "fixed"
        return "open" if {label.role for label in self.labels} & {"common", "unique", "part"} else "fixed"

    def controls(self, image: int) -> ImageControls:
        """The tags of image number `image` (0-based)."""
        if self.layout == "A":
            if image >= len(self.images):
                raise InputError(
                    f"the config shows {len(self.images)} images, got image {image + 1}; use a config for that many"
                )
            return self.images[image]
        controls = self.images[0]
        return controls if self.layout == "B" else controls.renamed(self.index_flag, image)

    def image_of(self, to_name: str, item_index: int | None = None) -> int | None:
        """The 0-based image that a result row is about; None if its `to_name` is not of this config."""
        if self.layout == "B":
            return (item_index or 0) if to_name == self.images[0].image else None
        if self.layout == "A":
            return next((i for i, controls in enumerate(self.images) if controls.image == to_name), None)
        before, _, after = self.images[0].image.partition(self.index_flag)
        match = re.fullmatch(re.escape(before) + r"([0-9]{1,9})" + re.escape(after), to_name)
        return int(match[1]) if match else None

    def known_labels(self, image: int, task_data: Mapping[str, Any] | None = None) -> Labels:
        """The labels of what draws on an image, those that the task brings (`value="$parts"`) included."""
        controls = self.controls(image)
        if not controls.labels_keys or task_data is None:
            return self._labels[image if self.layout == "A" else 0]
        labels = {label.value: label for control in controls.regions for label in self.labels_of(control, task_data)}
        return Labels(labels.values())

    @cached_property
    def _labels(self) -> tuple[Labels, ...]:
        return tuple(Labels(controls.labels) for controls in self.images)

    def labels_of(self, control: RegionControl, task_data: Mapping[str, Any] | None = None) -> tuple[Label, ...]:
        """The labels of one tag that draws, as above."""
        if control.labels_key is None or task_data is None:
            return control.labels
        brought = lookup(control.labels_key, task_data)
        if not isinstance(brought, list):
            raise InputError(
                f"task key {control.labels_key!r}: expected a list of labels, got {type(brought).__name__}"
            )
        labels = map(_brought, brought)
        return control.labels + at_most_labels(label for label in labels if label is not None)

    def candidates(self, task_data: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Fixed vocabulary: the normalised object and part names that decoding may choose from. Others: none.

        Where no label says an object, "object" is the one name for all of them.
        """
        if self.vocabulary != "fixed" and not self.names:
            return ()
        index = Labels.of(self.names)
        owners_and_parts: list[tuple[str | None, str | None]] = [names_of_label(label, index) for label in index]
        for image in range(0 if self.names else len(self.images)):
            labels = self.known_labels(image, task_data)
            owners_and_parts += [names_of_label(label, labels) for label in labels]
        objects = [owner for owner, _ in owners_and_parts if owner] or ["object"]
        return tuple(dict.fromkeys([*objects, *(part for _, part in owners_and_parts if part)]))


def at_most_labels(labels: Iterable[T]) -> tuple[T, ...]:
    """Raises InputError where there are more than anybody chooses from: names are compared with each of them."""
    first_labels = tuple(islice(labels, MAX_LABELS + 1))
    if len(first_labels) > MAX_LABELS:
        raise InputError(f"labeling config: more than {MAX_LABELS:,} labels in one control; use fewer")
    return first_labels


def _brought(item: Any) -> Label | None:
    """A dynamic label: its name alone, or what the attributes of a `<Label>` say."""
    if isinstance(item, str):
        return Label(item) if item else None
    if not isinstance(item, Mapping) or not isinstance(item.get("value"), str) or not item["value"]:
        return None
    hint = item.get("hint")
    return Label(item["value"], hint=normalize_name(hint) if isinstance(hint, str) else "")


def role(label: str) -> str | None:
    """`object`, `common`, `unique`, `part` or `other` for a label that says what a region is, None for a name."""
    return _ROLES.get(normalize_name(label.replace("_", " ")))


def names_of_label(label: Label, labels: Sequence[Label]) -> tuple[str | None, str | None]:
    """(object name, part name) that a label of a fixed vocabulary says; part None is a whole object.

    `chair:leg` says both; so does `chair leg` where `chair` is a label too. A label is an object where another starts
    with it or its hint is `object`; any other is a part of an object that it does not name. Label `object` names none.
    """
    name = _label_name(label)
    if role(name) == "object":
        return None, None
    if label.hint == "part" and ":" not in name:
        return None, name.removesuffix(PART_SUFFIX)
    index = Labels.of(labels)
    if ":" in name:
        owner, part = (piece.strip() for piece in name.split(":", 1))
        return owner or None, part or None
    if label.hint == "object" or name in index.owners:
        return name, None
    for end in sorted(_ends(name, " "), reverse=True):
        if name[:end] in index.names and ":" not in name[:end]:
            return name[:end], name[end + 1 :]
    return None, name


def _label_name(label: Label) -> str:
    return normalize_name(label.value.replace("_", " "))


def _ends(name: str, marks: str) -> list[int]:
    return [place for place, character in enumerate(name) if character in marks and place]


def lookup(expression: str, data: Mapping[str, Any]) -> Any:
    """The value of `$key`, `$key.field` or `$key[0].field` in a task's data."""
    if not isinstance(data, Mapping):
        raise InputError(f"task data: expected an object, got {type(data).__name__}")
    if expression[1:] in data:
        return data[expression[1:]]
    value: Any = data
    for step in re.findall(r"[^.\[\]]+", expression[1:]):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            keys = ", ".join(sorted(map(str, data))) or "none"
            raise InputError(f"task data has no {expression!r} (its keys: {keys}); import it with that key") from None
    return value
