"""Labeling configs (XML) for image groups, read in layouts A, B and C; `controls` explains them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from backend.codecs.config_writer import NAMES, RELATION, write_config
from backend.codecs.controls import ImageControls, Label, LabelingConfig, RegionControl, at_most_labels, lookup, role
from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, normalize_name

__all__ = ["ImageControls", "Label", "LabelingConfig", "read_config", "task_images", "write_config"]

MAX_XML_CHARS = 1_000_000
MAX_CONTROLS = 500  # tags about one image
# By preference, where a label is in several.
_REGION_TAGS = (
    *("BrushLabels", "BitmaskLabels", "PolygonLabels", "VectorLabels"),
    *("Brush", "Bitmask", "Polygon", "Vector"),
)
_SHAPE_TAGS = ("RectangleLabels", "EllipseLabels", "Rectangle", "Ellipse")


def read_config(xml: str) -> LabelingConfig:
    """Read a labeling config. `InputError` where it cannot hold a group's masks."""
    if not isinstance(xml, str) or not xml.strip():
        raise InputError("labeling config: expected XML, got nothing; save one in the project's settings")
    xml = xml.lstrip("\ufeff")
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
    if len(images) > MAX_GROUP_SIZE:  # before anything is looked up for each of them
        raise InputError(f"labeling config: {len(images)} <Image> tags, expected up to {MAX_GROUP_SIZE}; remove some")
    repeater = _repeater_of_images(root)
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
        names=_names(root),
    )


def _names(root: ET.Element) -> tuple[Label, ...]:
    """A long fixed vocabulary, which `write_config` keeps in choices that are not shown."""
    kept = next((tag for tag in root.iter("Choices") if tag.get("name") == NAMES), None)
    values = () if kept is None else _choice_values(kept)
    return tuple(Label(value.strip()) for value in values if value.strip())


def _image_controls(root: ET.Element, image: ET.Element) -> ImageControls:
    name = image.get("name", "")
    source = (image.get("valueList") or image.get("value") or "").strip()
    if not source.startswith("$") or len(source) < 2:
        raise InputError(
            f'labeling config: <Image name="{name}"> has value {source!r}, expected "$key" of the task\'s data'
        )
    tags = [
        tag
        for tag in root.iter()
        if name in re.split(r"[\s,]+", tag.get("toName") or "") and tag.get("name") and tag.tag != "Relations"
    ]
    if len(tags) > MAX_CONTROLS:
        raise InputError(f'labeling config: {len(tags)} tags about <Image name="{name}">, the limit is {MAX_CONTROLS}')
    prompts = [tag for tag in tags if _is_prompt(tag)]
    drawing = [tag for kind in _REGION_TAGS for tag in tags if tag.tag == kind]
    if not drawing:
        raise InputError(
            f'labeling config: no brush or polygon draws on <Image name="{name}">; add <BrushLabels toName="{name}"> '
            "or <PolygonLabels>"
        )
    labels_tag = next((tag for tag in tags if tag.tag == "Labels"), None)
    shapes = [tag for tag in tags if tag.tag in _SHAPE_TAGS and tag not in prompts]
    regions = [control for tag in drawing if (control := _region_control(tag, labels_tag)) is not None]
    if not regions:
        tag = drawing[0]
        raise InputError(f'labeling config: <{tag.tag} toName="{name}"> has no <Labels>; use <{tag.tag}Labels>')
    if not any(control.labels or control.labels_key for control in regions):
        tag = drawing[0] if drawing[0].tag.endswith("Labels") else labels_tag or drawing[0]
        raise InputError(f'labeling config: <{tag.tag} name="{tag.get("name")}"> has no <Label>; add some')
    per_region = [tag for tag in tags if tag.get("perRegion", "").lower() == "true"]
    occurrence = next((tag for tag in per_region if tag.tag == "Choices" and _says_occurrence(tag)), None)
    text = best_name_control([tag for tag in per_region if tag.tag == "TextArea"])
    choices = [tag for tag in per_region if tag.tag in ("Choices", "Taxonomy") and tag is not occurrence]
    name_choices = None if text is not None else best_name_control(choices)
    used = {*(c.name for c in regions), *(c.labels_name for c in regions), *(tag.get("name") for tag in prompts)}
    used |= {tag.get("name") for tag in (occurrence, text, name_choices, *shapes) if tag is not None}

    question = next((tag for tag in root.iter("TextArea") if _asks(tag)), None)

    def first_smart(kind: str) -> str | None:
        smart = (tag for tag in prompts if tag.tag.startswith(kind) and tag.get("smart", "").lower() == "true")
        return next((tag.get("name") for tag in smart), None)

    return ImageControls(
        image=name,
        source=source,
        regions=tuple(regions),
        shapes=tuple(c for tag in shapes if (c := _region_control(tag, labels_tag, is_bare=True)) is not None),
        text=None if text is None else text.get("name"),
        choices=None if occurrence is None else occurrence.get("name"),
        choice_values=() if occurrence is None else _choice_values(occurrence),
        name_choices=None if name_choices is None else name_choices.get("name"),
        name_values=() if name_choices is None or name_choices.tag != "Choices" else _choice_values(name_choices),
        smart_keypoint=first_smart("KeyPoint"),
        smart_rectangle=first_smart("Rectangle"),
        question=None if question is None else question.get("name"),
        prompts=tuple(tag.get("name", "") for tag in prompts),
        others=tuple(tag.get("name", "") for tag in tags if tag.get("name") not in used),
        prompt_labels=tuple((tag.get("name", ""), _labels(tag)) for tag in prompts),
    )


def _repeater_of_images(root: ET.Element) -> ET.Element | None:
    """The first `<Repeater>` with a named `<Image>` in it, in one walk, however deep they lie in each other."""
    stack: list[tuple[ET.Element, ET.Element | None]] = [(root, None)]
    while stack:
        tag, outermost = stack.pop()
        if tag.tag == "Image" and tag.get("name") and outermost is not None:
            return outermost
        outermost = outermost if outermost is not None else tag if tag.tag == "Repeater" else None
        stack += [(inner, outermost) for inner in reversed(tag)]
    return None


def _asks(text_area: ET.Element) -> bool:
    """Whether the words typed into it go to the backend."""
    return text_area.get("smart", "").lower() == "true" and text_area.get("perRegion", "").lower() != "true"


def _is_prompt(tag: ET.Element) -> bool:
    """A key point draws no area; a box or ellipse that is smart asks the backend for one."""
    if tag.tag.startswith("KeyPoint"):
        return True
    return tag.tag in _SHAPE_TAGS and "true" in (tag.get("smart", "").lower(), tag.get("smartOnly", "").lower())


def _region_control(tag: ET.Element, labels_tag: ET.Element | None, *, is_bare: bool = False) -> RegionControl | None:
    """is_bare: a tag without labels will do."""
    labelling = tag if tag.tag.endswith("Labels") else labels_tag
    if labelling is None:
        return RegionControl(tag.get("name", ""), tag.tag, "") if is_bare else None
    key = labelling.get("value") if (labelling.get("value") or "").startswith("$") else None
    return RegionControl(tag.get("name", ""), tag.tag, labelling.get("name", ""), _labels(labelling), key)


def _labels(tag: ET.Element) -> tuple[Label, ...]:
    return at_most_labels(
        Label(
            value=value,
            synonyms=tuple(s.strip() for s in label.get("predicted_values", "").split(",") if s.strip()),
            hint=normalize_name(label.get("hint", "")),
            caption=text if (text := (label.get("value") or "").strip()) != value else "",
        )
        for label in tag.iter("Label")
        if (value := (label.get("alias") or label.get("value") or "").strip())
    )


def _choice_values(tag: ET.Element) -> tuple[str, ...]:
    return tuple(choice.get("alias") or choice.get("value") or "" for choice in tag.iter("Choice"))


def _says_occurrence(tag: ET.Element) -> bool:
    return any(role(value) in ("common", "unique") for value in _choice_values(tag))


_NAME_WORDS = frozenset(
    ["name", "names", "part", "parts", "label", "labels", "title", "class", "category", "object", "noun", "term"]
)
_OTHER_WORDS = frozenset(
    [
        *("comment", "comments", "note", "notes", "remark", "remarks", "description", "describe", "caption", "reason"),
        *("why", "question", "feedback", "issue", "issues", "quality", "review", "status", "difficulty", "confidence"),
        *("certainty", "visibility", "occlusion", "occluded", "truncated", "severity", "rating", "flag", "flags"),
        *("check", "todo", "translation", "transcription", "ocr", "state"),
    ]
)


def best_name_control(tags: Sequence[ET.Element]) -> ET.Element | None:
    """Which of several per-region tags holds the name of a region: by what it is called and looks like, not by place.

    None where each of them is called something else: a comment, a quality.
    """

    def score(tag: ET.Element) -> int:
        words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", tag.get("name", "")).lower()))
        hints = set(re.findall(r"[a-z]+", f"{tag.get('placeholder', '')} {tag.get('hint', '')}".lower()))
        points = 8 * bool(words & _NAME_WORDS) - 16 * bool(words & _OTHER_WORDS)
        points += 4 * bool(hints & _NAME_WORDS) - 8 * bool(hints & _OTHER_WORDS)
        return points + (tag.get("maxSubmissions") == "1") + (tag.get("rows") == "1")

    best = max(tags, key=score, default=None)  # the first of equals
    return best if best is not None and score(best) >= 0 else None


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
    return [address.strip() for address in addresses]
