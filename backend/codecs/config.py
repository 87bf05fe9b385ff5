"""Labeling configs (XML) for image groups: layouts A, B and C are read, A and B written; `controls` explains them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from backend.codecs.controls import ImageControls, Label, LabelingConfig, lookup
from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, normalize_name

__all__ = ["ImageControls", "Label", "LabelingConfig", "read_config", "task_images", "write_config"]

MAX_XML_CHARS = 1_000_000
RELATION = "same part"
_REGION_TAGS = ("BrushLabels", "PolygonLabels", "Brush", "Polygon")  # by preference
_COLORS = {"object": "#7f7f7f", "common part": "#2ca02c", "unique part": "#d62728"}
_PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")


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
        raise InputError(
            f"labeling config: not well-formed XML ({error}); repair it in the project's settings"
        ) from error

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
        raise InputError(f"labeling config: {len(images)} <Image> tags with a valueList or Repeater; keep one of both")
    relations = [tag.get("value", "") for tag in root.iter("Relation")]
    relation = next((value for value in relations if normalize_name(value) == RELATION), None)
    if relation is None and len(relations) < 2 and root.find(".//Relations") is not None:
        relation = relations[0] if relations else RELATION
    return LabelingConfig(
        layout=layout,
        images=tuple(_image_controls(root, image) for image in images),
        relation=relation,
        index_flag="" if repeater is None else repeater.get("indexFlag", "{{idx}}"),
    )


def _image_controls(root: ET.Element, image: ET.Element) -> ImageControls:
    name = image.get("name", "")
    source = (image.get("valueList") or image.get("value") or "").strip()
    if not source.startswith("$") or len(source) < 2:
        raise InputError(
            f'labeling config: <Image name="{name}"> has value {source!r}, expected "$key" of the task\'s data'
        )
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
        raise InputError(
            f'labeling config: <{labels_tag.tag} name="{labels_tag.get("name")}"> has no <Label>; add some'
        )
    text, choices = first("TextArea", perRegion="true"), first("Choices", perRegion="true")
    keypoint, rectangle = (
        first("KeyPointLabels", "KeyPoint", smart="true"),
        first("RectangleLabels", "Rectangle", smart="true"),
    )
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


def task_images(config: LabelingConfig, task_data: Mapping[str, Any]) -> list[str]:
    """The addresses of a task's images, in the order of the config. `InputError` where one is missing."""
    if config.layout == "A":
        addresses = [lookup(controls.source, task_data) for controls in config.images]
    else:
        key, _, field = config.images[0].source.partition(f"[{config.index_flag}]" if config.index_flag else "\0")
        addresses = lookup(key, task_data)
        if not isinstance(addresses, list):
            raise InputError(f"task key {key!r}: expected a list of image addresses, got {type(addresses).__name__}")
        if field:
            addresses = [lookup("$" + field.lstrip("."), item) for item in addresses]
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
    for suffix in [str(i + 1) for i in range(num_images)] if layout == "A" and num_images else [""]:
        if labels is None:
            lines.append(
                f'  <TextArea name="name{suffix}" toName="img{suffix}" perRegion="true" editable="true" '
                'required="false" maxSubmissions="1" rows="1" placeholder="name" displayMode="region-list"/>'
            )
        else:
            lines.append(
                f'  <Choices name="occurrence{suffix}" toName="img{suffix}" perRegion="true" choice="single" '
                'showInline="true"><Choice value="common"/><Choice value="unique"/></Choices>'
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
        colors = [
            _COLORS["object"] if v.lower() == "object" else _PALETTE[i % len(_PALETTE)] for i, v in enumerate(values)
        ]
    return "".join(f'<Label value={quoteattr(v)} background="{c}"/>' for v, c in zip(values, colors, strict=True))


def _control_tags(image: str, suffix: str, children: str, smart: bool, geometry: str, indent: str) -> list[str]:
    tag = {"brush": "BrushLabels", "polygon": "PolygonLabels"}[geometry]
    tools = [(tag, f"{geometry}{suffix}", "")]
    if smart:
        tools.append(("KeyPointLabels", f"keypoint{suffix}", ' smart="true" smartOnly="true"'))
        tools.append(("RectangleLabels", f"rectangle{suffix}", ' smart="true" smartOnly="true"'))
    return [f'{indent}<{t} name="{n}" toName="{image}"{extra}>{children}</{t}>' for t, n, extra in tools]
