"""Labeling configs (XML) for image groups: read A, B and C, write A and B.

Layout A: k `<Image value="$imageI">` tags side by side. B: one `<Image valueList="$images">`, a page per image.
C: `<Repeater on="$images">`, whose control names carry the image's index.
Open vocabulary: labels say object, common or unique and a per-region `<TextArea>` holds the name. Fixed vocabulary: the
labels are the names (`part`, `object part` or `object:part`) and per-region `<Choices>` say common or unique.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, normalize_name

MAX_XML_CHARS = 1_000_000
RELATION = "same part"
_REGION_TAGS = ("BrushLabels", "PolygonLabels", "Brush", "Polygon")  # by preference
_ROLES = {"object": "object", "whole object": "object", "common": "common", "common part": "common"}
_ROLES |= {"unique": "unique", "unique part": "unique", "part": "part"}
_COLORS = {"object": "#7f7f7f", "common part": "#2ca02c", "unique part": "#d62728"}
_PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#393b79")


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
    names: every named tag, for checks.
    """

    layout: Literal["A", "B", "C"]
    images: tuple[ImageControls, ...]
    relation: str | None
    names: frozenset[str]
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
                raise InputError(f"the config shows {len(self.images)} images, got image {image + 1}; use a config for that many")
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
        brought = _lookup(controls.labels_key, task_data)
        if not isinstance(brought, list):
            raise InputError(f"task key {controls.labels_key!r}: expected a list of labels, got {type(brought).__name__}")
        values = [item.get("value") if isinstance(item, dict) else item for item in brought]
        return controls.labels + tuple(Label(value) for value in values if isinstance(value, str) and value)

    def candidates(self, task_data: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Fixed vocabulary: the normalised object and part names that decoding may choose from. Open: none."""
        if self.vocabulary == "open":
            return ()
        names: dict[str, None] = {}
        for image in range(len(self.images)):
            labels = self.known_labels(image, task_data)
            for label in labels:
                names.update((name, None) for name in names_of_label(label, labels) if name)
        return tuple(names)


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


def read_config(xml: str) -> LabelingConfig:
    """Read a labeling config. `InputError` where it cannot hold a group's masks."""
    if not isinstance(xml, str) or not xml.strip():
        raise InputError("labeling config: expected XML, got nothing; save one in the project's settings")
    if len(xml) > MAX_XML_CHARS:
        raise InputError(f"labeling config: {len(xml)} characters, the limit is {MAX_XML_CHARS}; use dynamic labels")
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", xml, re.IGNORECASE):
        raise InputError("labeling config: a DOCTYPE or ENTITY declaration is refused; remove it")
    try:
        root = ET.fromstring(xml)
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"labeling config: not well-formed XML ({error}); repair it in the project's settings") from error

    images = [tag for tag in root.iter("Image") if tag.get("name")]
    if not images:
        raise InputError('labeling config: no <Image name="..."> found; start from labeling_config/pair.xml')
    repeater = next((tag for tag in root.iter("Repeater") if any(image in images for image in tag.iter("Image"))), None)
    layout: Literal["A", "B", "C"] = "A"
    if repeater is not None:
        layout = "C"
    elif any(image.get("valueList") for image in images):
        layout = "B"
    if layout != "A" and len(images) > 1:
        raise InputError(
            f"labeling config: {len(images)} <Image> tags beside a valueList or Repeater; keep one, or one tag per image"
        )
    names = frozenset(tag.get("name", "") for tag in root.iter() if tag.get("name"))
    relations = [tag.get("value", "") for tag in root.iter("Relation")]
    relation = next((value for value in relations if normalize_name(value) == RELATION), None)
    if relation is None and len(relations) < 2 and root.find(".//Relations") is not None:
        relation = relations[0] if relations else RELATION
    return LabelingConfig(
        layout=layout,
        images=tuple(_image_controls(root, image) for image in images),
        relation=relation,
        names=names,
        index_flag="" if repeater is None else repeater.get("indexFlag", "{{idx}}"),
    )


def _image_controls(root: ET.Element, image: ET.Element) -> ImageControls:
    name = image.get("name", "")
    source = (image.get("valueList") or image.get("value") or "").strip()
    if not source.startswith("$") or len(source) < 2:
        raise InputError(f'labeling config: <Image name="{name}"> has value {source!r}, expected "$key" of the task\'s data')
    tags = [tag for tag in root.iter() if name in (tag.get("toName") or "").split(",") and tag.get("name")]

    def first(*kinds: str, **attributes: str) -> ET.Element | None:
        matching = (t for k in kinds for t in tags if t.tag == k and all(t.get(a) == v for a, v in attributes.items()))
        return next(matching, None)

    region = first(*_REGION_TAGS)
    if region is None:
        raise InputError(
            f'labeling config: no brush or polygon draws on <Image name="{name}">; add <BrushLabels toName="{name}"> '
            "or <PolygonLabels>"
        )
    labels_tag = region if region.tag.endswith("Labels") else first("Labels")
    if labels_tag is None:
        raise InputError(f'labeling config: <{region.tag} toName="{name}"> has no <Labels>; use <{region.tag}Labels>')
    labels = tuple(
        Label(
            value=(tag.get("alias") or tag.get("value") or "").strip(),
            synonyms=tuple(s.strip() for s in tag.get("predicted_values", "").split(",") if s.strip()),
            hint=normalize_name(tag.get("hint", "")),
        )
        for tag in labels_tag.iter("Label")
        if tag.get("alias") or tag.get("value")
    )
    labels_key = labels_tag.get("value") if (labels_tag.get("value") or "").startswith("$") else None
    if not labels and labels_key is None:
        raise InputError(f'labeling config: <{labels_tag.tag} name="{labels_tag.get("name")}"> has no <Label>; add some')
    text, choices = first("TextArea", perRegion="true"), first("Choices", perRegion="true")
    keypoint, rectangle = first("KeyPointLabels", "KeyPoint", smart="true"), first("RectangleLabels", "Rectangle", smart="true")
    return ImageControls(
        image=name,
        source=source,
        region=region.get("name", ""),
        region_tag=region.tag,
        labels_name=labels_tag.get("name", ""),
        labels=labels,
        labels_key=labels_key,
        text=None if text is None else text.get("name"),
        choices=None if choices is None else choices.get("name"),
        choice_values=()
        if choices is None
        else tuple(tag.get("alias") or tag.get("value") or "" for tag in choices.iter("Choice")),
        smart_keypoint=None if keypoint is None else keypoint.get("name"),
        smart_rectangle=None if rectangle is None else rectangle.get("name"),
    )


def _lookup(expression: str, data: Mapping[str, Any]) -> Any:
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


def task_images(config: LabelingConfig, task_data: Mapping[str, Any]) -> list[str]:
    """The addresses of a task's images, in the order of the config. `InputError` where one is missing."""
    if config.layout == "A":
        addresses = [_lookup(controls.source, task_data) for controls in config.images]
    else:
        key, _, field = config.images[0].source.partition(f"[{config.index_flag}]" if config.index_flag else "\0")
        addresses = _lookup(key, task_data)
        if not isinstance(addresses, list):
            raise InputError(f"task key {key!r}: expected a list of image addresses, got {type(addresses).__name__}")
        if field:
            addresses = [_lookup("$" + field.lstrip("."), item) for item in addresses]
    for i, address in enumerate(addresses):
        if not isinstance(address, str) or not address.strip():
            raise InputError(f"image {i + 1} of the task: expected an address, got {address!r}; repair the task's data")
    return addresses


def write_config(
    num_images: int | None = None,
    *,
    layout: str = "A",
    labels: Sequence[str] | None = None,
    smart: bool = False,
    geometry: str = "brush",
) -> str:
    """A labeling config as XML that `read_config` understands.

    num_images: the group size, layout A only. labels: names of a fixed vocabulary; None is open vocabulary.
    smart: add keypoint and rectangle tools that ask the backend. geometry: "brush" or "polygon".
    """
    if layout not in ("A", "B"):
        raise InputError(f"layout: expected A (fixed group size) or B (any size), got {layout!r}")
    if geometry not in ("brush", "polygon"):
        raise InputError(f"geometry: expected brush or polygon, got {geometry!r}")
    if layout == "A" and (num_images is None or not MIN_GROUP_SIZE <= num_images <= MAX_GROUP_SIZE):
        raise InputError(f"layout A shows {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, got {num_images}; use layout B")
    children = _label_tags(labels)
    lines = ["<View>"]
    if layout == "A":
        assert num_images is not None
        lines.append(f'  <View style="display:grid;grid-template-columns:repeat({min(num_images, 3)},1fr);gap:8px">')
        for i in range(1, num_images + 1):
            lines.append(f'    <View><Header value="image {i}"/>')
            lines.append(f'      <Image name="img{i}" value="$image{i}" zoom="true" zoomControl="true"/>')
            lines += _control_tags(f"img{i}", str(i), children, smart, geometry, "      ")
            lines.append("    </View>")
        lines.append("  </View>")
    else:
        lines.append('  <Image name="img" valueList="$images" zoom="true" zoomControl="true"/>')
        lines += _control_tags("img", "", children, smart, geometry, "  ")
    for i in range(1, num_images + 1) if layout == "A" and num_images else ("",):
        if labels is None:
            lines.append(
                f'  <TextArea name="name{i}" toName="img{i}" perRegion="true" editable="true" required="false" '
                'maxSubmissions="1" rows="1" placeholder="name" displayMode="region-list"/>'
            )
        else:
            lines.append(
                f'  <Choices name="occurrence{i}" toName="img{i}" perRegion="true" choice="single" showInline="true">'
                '<Choice value="common"/><Choice value="unique"/></Choices>'
            )
    lines += [f'  <Relations><Relation value="{RELATION}"/></Relations>', "</View>", ""]
    return "\n".join(lines)


def _label_tags(labels: Sequence[str] | None) -> str:
    if labels is None:
        values, colors = list(_COLORS), list(_COLORS.values())
    else:
        values = list(dict.fromkeys(" ".join(label.split()) for label in labels if label.strip()))
        if not values:
            raise InputError("labels: expected at least one name, got none")
        if any(value.startswith("$") for value in values):
            raise InputError("labels: a name cannot start with $, which Label Studio reads as a task's key")
        if "object" not in map(str.lower, values):
            values.insert(0, "object")  # where a whole object of a class that is not listed goes
        colors = [_COLORS["object"] if v.lower() == "object" else _PALETTE[i % len(_PALETTE)] for i, v in enumerate(values)]
    return "".join(f'<Label value={quoteattr(v)} background="{c}"/>' for v, c in zip(values, colors, strict=True))


def _control_tags(image: str, suffix: str, children: str, smart: bool, geometry: str, indent: str) -> list[str]:
    tag = {"brush": "BrushLabels", "polygon": "PolygonLabels"}[geometry]
    tools = [(tag, f"{geometry}{suffix}", "")]
    if smart:
        tools.append(("KeyPointLabels", f"keypoint{suffix}", ' smart="true" smartOnly="true"'))
        tools.append(("RectangleLabels", f"rectangle{suffix}", ' smart="true" smartOnly="true"'))
    return [f'{indent}<{t} name="{n}" toName="{image}"{extra}>{children}</{t}>' for t, n, extra in tools]
