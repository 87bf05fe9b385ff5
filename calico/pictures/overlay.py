"""A co-segmentation drawn over its pictures: one colour per correspondence, common and unique told apart at a glance.

Common parts are filled and have a solid outline, unique parts are hatched with a dashed one, whole objects are an
outline only, so that their parts stay visible. Every region carries its name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from calico.errors import InputError
from calico.masks import dilate, resize_mask, tight_box_xyxy
from calico.pictures.contours import contours, smoothed
from calico.pictures.name_plates import Colour, draw_labels
from calico.values import CoSegmentation, Occurrence

#: Apart from each other in hue and lightness, readable on photographs; neighbours in the list differ most.
PALETTE: tuple[Colour, ...] = (
    (230, 57, 70), (42, 157, 244), (255, 183, 3), (46, 196, 120), (171, 71, 222), (255, 122, 26),
    (0, 190, 196), (240, 98, 164), (141, 194, 31), (92, 107, 232), (178, 122, 72), (120, 144, 156),
)  # fmt: skip
MIN_SIDE, MAX_SIDE = 512, 2048
FILL, HATCH_DARK, HATCH_LIGHT = 0.45, 0.6, 0.14


def colours_of(*cosegmentations: CoSegmentation) -> dict[str, Colour]:
    """A colour per correspondence id, equal on all images of the group and whatever the order of its regions.

    Several: truth and prediction of one group, say, so that a name has one colour in both.

    Parts come first, so that they are the ones that differ most; beyond the palette the colours return darker.
    """
    ids = sorted(
        {(region.kind != "part", region.correspondence_id) for coseg in cosegmentations for region in coseg.regions}
    )
    colours = {}
    for number, (_, identifier) in enumerate(ids):
        shade = 0.7 ** (number // len(PALETTE))
        red, green, blue = PALETTE[number % len(PALETTE)]
        colours[identifier] = (round(red * shade), round(green * shade), round(blue * shade))
    return colours


def draw_overlay(
    image: np.ndarray, cosegmentation: CoSegmentation, image_index: int, colours: dict[str, Colour] | None = None
) -> np.ndarray:
    """HxWx3 uint8 -> H'xW'x3 uint8 with the regions of that image drawn on it. colours: else `colours_of` it.

    Small pictures are enlarged until the shorter side is 512, large ones reduced until the longer is 2048. Raises
    InputError where the picture is not the one that was segmented.
    """
    height, width = image.shape[:2]
    if not 0 <= image_index < len(cosegmentation.sizes_hw):
        raise InputError(f"image {image_index + 1} of a group of {len(cosegmentation.sizes_hw)}")
    if (height, width) != cosegmentation.sizes_hw[image_index]:
        expected = cosegmentation.sizes_hw[image_index]
        raise InputError(f"image {image_index + 1}: expected {expected} (height, width), got {(height, width)}")
    scale = min(max(1.0, MIN_SIDE / min(height, width)), MAX_SIDE / max(height, width))
    size_hw = max(1, round(height * scale)), max(1, round(width * scale))
    line = max(2, round(min(size_hw) / 200))
    colours = colours or colours_of(cosegmentation)
    regions = [region for region in cosegmentation.regions if region.image == image_index]
    # Large below small; objects last, as a line covers little.
    regions.sort(key=lambda region: (region.kind == "object", -np.count_nonzero(region.mask), region.name))
    masks = [resize_mask(region.mask, size_hw) for region in regions]

    canvas = np.array(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.LANCZOS), dtype=np.float32)
    hatching = _hatching(size_hw, 3 * line)
    for region, mask in zip(regions, masks, strict=True):
        if region.kind == "part" and (box := tight_box_xyxy(mask)):
            window = np.s_[box[1] : box[3], box[0] : box[2]]
            alpha = FILL if region.occurrence is Occurrence.COMMON else hatching[window]
            _blend(canvas[window], alpha * mask[window], colours[region.correspondence_id])
    for region, mask in zip(regions, masks, strict=True):
        # An object's line runs around those of its parts, not over them.
        outlined = mask if region.kind == "part" else dilate(mask, 2 * line)
        for contour in contours(outlined):
            points = smoothed(contour, round(2 * scale) + 3)
            _stroke(canvas, points, line, region.occurrence is Occurrence.UNIQUE, colours[region.correspondence_id])

    drawn = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    draw_labels(drawn, [(region, mask) for region, mask in zip(regions, masks, strict=True) if mask.any()], colours)
    return np.asarray(drawn)


def strip_of_overlays(
    images: Sequence[np.ndarray],
    cosegmentation: CoSegmentation,
    height: int = 320,
    colours: dict[str, Colour] | None = None,
) -> bytes:
    """A JPEG of all images of a group side by side, so high, each with its regions. images: HxWx3 uint8."""
    colours = colours or colours_of(cosegmentation)
    pictures = []
    for number, image in enumerate(images):
        picture = Image.fromarray(draw_overlay(image, cosegmentation, number, colours))
        width = max(1, round(picture.width * height / picture.height))
        pictures.append(picture.resize((width, height), Image.Resampling.BILINEAR))
    gap = height // 40
    strip = Image.new("RGB", (sum(picture.width + gap for picture in pictures) - gap, height), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + gap
    data = io.BytesIO()
    strip.save(data, "JPEG", quality=85)
    return data.getvalue()


def _blend(canvas: np.ndarray, alpha: np.ndarray, colour: Colour) -> None:
    """canvas: HxWx3 float32, painted on in place. alpha: HxW, 0 to 1."""
    canvas += np.asarray(alpha, np.float32)[..., None] * (np.asarray(colour, np.float32) - canvas)


def _hatching(size_hw: tuple[int, int], stripe: int) -> np.ndarray:
    """HxW float32 of diagonal stripes, `stripe` pixels along x."""
    y, x = np.ogrid[: size_hw[0], : size_hw[1]]
    return np.where((x + y) // stripe % 2 == 0, HATCH_DARK, HATCH_LIGHT).astype(np.float32)


def _stroke(canvas: np.ndarray, line: np.ndarray, thickness: int, dashed: bool, colour: Colour) -> None:
    """A closed line (K x 2) with a dark rim, drawn at twice the size so that its edges come out smooth."""
    margin = thickness + 3
    x0, y0 = np.maximum(line.min(axis=0).astype(int) - margin, 0)
    x1, y1 = line.max(axis=0).astype(int) + margin + 1
    window = canvas[y0:y1, x0:x1]
    height, width = window.shape[:2]
    points = [(float(x), float(y)) for x, y in 2 * (line - (x0, y0))]
    points += points[:2]
    period = 7 * max(thickness, 3) if dashed else len(points)
    for extra, opacity, paint in ((2, 0.55, (0, 0, 0)), (0, 1.0, colour)):
        paper = Image.new("L", (2 * width, 2 * height))
        pen = ImageDraw.Draw(paper)
        for start in range(0, len(points) - 1, period):
            end = start + (period * 3 // 5 if dashed else period)
            pen.line(points[start : end + 1], fill=255, width=2 * (thickness + extra), joint="curve")
        _blend(window, np.asarray(paper.reduce(2), dtype=np.float32) * (opacity / 255), paint)
