"""The labeling configs that earlier releases wrote: their projects and annotations are still read."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE

RELATION = "same part"
_COLORS = {"object": "#7f7f7f", "common part": "#2ca02c", "unique part": "#d62728"}
_PALETTE = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
_GEOMETRIES = {"brush": "BrushLabels", "bitmask": "BitmaskLabels", "polygon": "PolygonLabels"}


def write_old_config(
    num_images: int | None = None,
    *,
    layout: str = "A",
    labels: Sequence[str] | None = None,
    smart: bool = False,
    geometry: str = "brush",
) -> str:
    """A labeling config as XML that `read_config` understands.

    num_images: the group size, layout A only. labels: names of a fixed vocabulary; None is open vocabulary.
    smart: add keypoint and rectangle tools that ask the backend. geometry: "brush", "bitmask" (smaller, for newer
    Label Studio) or "polygon".
    """
    if layout not in ("A", "B"):
        raise InputError(f"layout: expected A (fixed group size) or B (any size), got {layout!r}")
    if geometry not in _GEOMETRIES:
        raise InputError(f"geometry: expected one of {', '.join(_GEOMETRIES)}, got {geometry!r}")
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
    tag = _GEOMETRIES[geometry]
    tools = [(tag, f"{geometry}{suffix}", "")]
    if smart:
        tools.append(("KeyPointLabels", f"keypoint{suffix}", ' smart="true" smartOnly="true"'))
        tools.append(("RectangleLabels", f"rectangle{suffix}", ' smart="true" smartOnly="true"'))
    return [f'{indent}<{t} name="{n}" toName="{image}"{extra}>{children}</{t}>' for t, n, extra in tools]
