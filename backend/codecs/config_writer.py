"""Labeling configs (XML) that `read_config` understands: images side by side or a page each, names as labels.

By default the labels of all tools are the group's own names, which the task brings: `<Labels value="$parts">`, one row
of them per image, under it the image with its brush, its smart keypoint and its smart rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from xml.sax.saxutils import quoteattr

from backend.codecs.palette import COLORS, OBJECT_COLOR
from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE

RELATION = "same part"
NAMES = "vocabulary"  # the choices that keep a long fixed vocabulary
PARTS = "parts"  # the task's key of its group's names
MAX_LABELS = 12  # of a fixed vocabulary that are shown as labels
GEOMETRIES = {"brush": "Brush", "bitmask": "Bitmask", "polygon": "Polygon"}
NEEDS_NAME = "Every region needs a name"
_TEXT_COLORS = {"object": "#7f7f7f", "common part": "#009e73", "unique part": "#d55e00"}

Naming = Literal["group", "text"]


def write_config(
    num_images: int | None = None,
    *,
    layout: str = "A",
    labels: Sequence[str] | None = None,
    naming: Naming = "group",
    smart: bool = True,
    geometry: str = "brush",
    arrows: bool = False,
) -> str:
    """A labeling config as XML.

    num_images: the group size, layout A only. labels: names of a fixed vocabulary; beyond `MAX_LABELS` a task shows
    those of its group. naming: without a fixed vocabulary, "group" has the group's names as labels, "text" a text field
    for every region. smart: keypoint and rectangle tools that ask the backend, and a field that asks it by name.
    geometry: "brush", "bitmask" (smaller, for newer Label Studio) or "polygon". arrows: relations between parts that
    correspond.
    """
    if layout not in ("A", "B"):
        raise InputError(f"layout: expected A (fixed group size) or B (any size), got {layout!r}")
    if geometry not in GEOMETRIES:
        raise InputError(f"geometry: expected one of {', '.join(GEOMETRIES)}, got {geometry!r}")
    if naming not in ("group", "text"):
        raise InputError(f"naming: expected group or text, got {naming!r}")
    if layout == "A" and (num_images is None or not MIN_GROUP_SIZE <= num_images <= MAX_GROUP_SIZE):
        raise InputError(f"layout A shows {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, got {num_images}; use layout B")
    names = None if labels is None else _names(labels)
    suffixes = [str(i + 1) for i in range(num_images)] if layout == "A" and num_images else [""]
    children = _children(names, naming)
    lines = ["<View>"]
    if layout == "A":
        columns = len(suffixes) if len(suffixes) < 4 else 2 if len(suffixes) == 4 else 3
        lines.append(f'  <View style="display:grid;grid-template-columns:repeat({columns},1fr);gap:4px">')
        for suffix in suffixes:
            source = f'value="$image{suffix}"'
            lines += ["    <View>", *_cell(suffix, source, children, smart, geometry, "      "), "    </View>"]
        lines.append("  </View>")
    else:
        lines += _cell("", 'valueList="$images"', children, smart, geometry, "  ")
    for suffix in suffixes:
        lines.append(_name_tag(suffix, is_group=children == "", is_fixed=names is not None))
    if smart:
        lines.append(
            f'  <TextArea name="ask" toName="img{suffixes[0]}" smart="true" editable="true" rows="1" '
            'placeholder="find a part by its name, on every image"/>'
        )
    if names is not None and len(names) > MAX_LABELS:
        choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in names)
        hidden_choices = f'<Choices name="{NAMES}" toName="img{suffixes[0]}">{choices}</Choices>'
        lines.append(f'  <View style="display:none">{hidden_choices}</View>')
    if arrows:
        lines.append(f'  <Relations><Relation value="{RELATION}"/></Relations>')
    return "\n".join([*lines, "</View>", ""])


def _names(labels: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(" ".join(label.split()) for label in labels if label.strip()))
    if not names:
        raise InputError("labels: expected at least one name, got none")
    if any(name.startswith("$") for name in names):
        raise InputError("labels: a name cannot start with $, which Label Studio reads as a task's key")
    if "object" not in map(str.lower, names):
        names.insert(0, "object")  # where a whole object of a class that is not listed goes
    return names


def _children(names: Sequence[str] | None, naming: Naming) -> str:
    """The `<Label>` tags; "" where the task brings the labels. A part has one colour, whatever its object."""
    if (names is None and naming == "group") or (names is not None and len(names) > MAX_LABELS):
        return ""
    if names is None:
        colors = _TEXT_COLORS
    else:
        owners = {"object", *(name.rpartition(":")[0].strip().lower() for name in names)}
        named = [name for name in names if name.lower() not in owners]
        parts = list(dict.fromkeys(map(_part, named)))
        colors = {name: COLORS[parts.index(_part(name)) % len(COLORS)] for name in named}
        colors = {name: colors.get(name, OBJECT_COLOR) for name in names}
    return "".join(f'<Label value={quoteattr(name)} background="{color}"/>' for name, color in colors.items())


def _part(name: str) -> str:
    return name.rpartition(":")[2].strip().lower()


def _cell(suffix: str, source: str, children: str, smart: bool, geometry: str, indent: str) -> list[str]:
    """One image under its labels, with its tools."""
    image = f"img{suffix}"
    tool = GEOMETRIES[geometry]
    labels = f'<Labels name="part{suffix}" toName="{image}" showInline="true"'
    lines = [
        f"{labels}>{children}</Labels>" if children else f'{labels} value="${PARTS}"/>',
        f'<Image name="{image}" {source} zoom="true" zoomControl="true"/>',
        f'<{tool} name="{geometry}{suffix}" toName="{image}" smart="false"/>',
    ]
    if smart:
        lines.append(f'<KeyPoint name="keypoint{suffix}" toName="{image}" smart="true" smartOnly="true"/>')
        lines.append(f'<Rectangle name="rectangle{suffix}" toName="{image}" smart="true" smartOnly="true"/>')
    return [indent + line for line in lines]


def _name_tag(suffix: str, *, is_group: bool, is_fixed: bool) -> str:
    """What names a region that its label does not name; a fixed vocabulary that is shown says what a name cannot."""
    if is_fixed and not is_group:
        return (
            f'  <Choices name="occurrence{suffix}" toName="img{suffix}" perRegion="true" choice="single" '
            'showInline="true"><Choice value="common"/><Choice value="unique"/></Choices>'
        )
    visibility = 'displayMode="region-list"'
    if is_group:
        visibility = f'whenLabelValue="other part" visibleWhen="region-selected" whenTagName="part{suffix}"'
    return (
        f'  <TextArea name="name{suffix}" toName="img{suffix}" perRegion="true" editable="true" required="true" '
        f'requiredMessage="{NEEDS_NAME}" maxSubmissions="1" rows="1" placeholder="name" {visibility}/>'
    )
