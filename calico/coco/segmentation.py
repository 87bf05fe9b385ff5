"""The `segmentation` of a COCO annotation: polygons, compressed and uncompressed run lengths.

Polygons are filled as pycocotools fills them, (x, y) in pixels from the upper left corner of the upper left pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from calico.errors import InputError
from calico.masks import compressed_rle, decode_rle, iou, tight_box_xyxy, union_rle
from calico.pictures.contours import contours, simplified

MAX_OUTLINE_PX = 5_000_000  # pycocotools walks along every side in fifths of a pixel
MIN_IOU = 0.98  # of a simplified outline with its mask; a coarser one is not written


class DecodedSegmentation(NamedTuple):
    """mask: HxW bool. num_short: polygons of fewer than 3 points, which enclose nothing and were left out."""

    mask: np.ndarray
    num_short: int


class CompressedSegmentation(NamedTuple):
    """rle: compressed run lengths, JSON-ready. num_short: as above."""

    rle: dict[str, Any]
    num_short: int


def decode_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> DecodedSegmentation:
    """Any form in which COCO files hold a mask -> HxW bool at `size_hw`, the size that the image's row states.

    A list of polygons is their union. Raises InputError where nothing can be read: no polygon of three points, numbers
    that are none, run lengths that are damaged or of another size.
    """
    rle, num_short = compress_segmentation(segmentation, size_hw)
    return DecodedSegmentation(decode_rle(rle), num_short)


def compress_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> CompressedSegmentation:
    """As `decode_segmentation`, to run lengths: many times as fast, as no mask is drawn."""
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size", list(size_hw))  # some writers leave it out
        return CompressedSegmentation(compressed_rle({**segmentation, "size": size}, size_hw=size_hw), 0)
    if not isinstance(segmentation, list) or not segmentation:
        got = "an empty list" if segmentation == [] else type(segmentation).__name__
        raise InputError(f"segmentation: expected polygons or an RLE, got {got}; annotate it with a mask")
    if not any(isinstance(item, (list, Mapping)) for item in segmentation):
        segmentation = [segmentation]  # one polygon without its outer list
    rles = []
    for item in segmentation:
        if isinstance(item, Mapping):
            rles.append(compress_segmentation(item, size_hw).rle)
            continue
        points = _points(item, size_hw)
        if len(points) >= 3:
            rles.append(_filled(points, size_hw))
    if not rles:
        raise InputError("segmentation: its polygons have fewer than 3 points each; draw it again")
    return CompressedSegmentation(union_rle(rles), len(segmentation) - len(rles))


def _points(numbers: Any, size_hw: tuple[int, int]) -> np.ndarray:
    try:
        flat = np.array(numbers, np.float64).ravel()  # [[x, y], ...] too
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("segmentation: a polygon holds something else than numbers; export it again") from error
    # pycocotools walks along every edge pixel by pixel: far points would cost memory without bound.
    limit = 1000 + 4 * max(size_hw)
    if flat.size % 2 or not (np.abs(flat) <= limit).all():
        raise InputError(
            f"segmentation: a polygon of {flat.size} numbers, expected pairs within {limit} pixels; export it again"
        )
    points = flat.reshape(-1, 2)
    length = np.abs(np.diff(points, axis=0, append=points[:1])).max(1, initial=0).sum()
    if length > MAX_OUTLINE_PX:
        raise InputError(f"segmentation: an outline of {length:,.0f} px, at most {MAX_OUTLINE_PX:,}; draw it again")
    return points


def encode_polygons(mask: np.ndarray, tolerance_px: float = 0.0) -> tuple[list[list[float]], float]:
    """HxW bool -> (COCO polygons, their IoU with the mask as pycocotools fills them).

    One polygon per 4-connected piece. A hole is joined to its outline by a seam that is walked there and back, which
    keeps it open. Outlines are simplified (Douglas-Peucker) by at most `tolerance_px`, less where a piece would keep
    less than `MIN_IOU` of itself; 0 is exact.
    """
    polygons: list[list[float]] = []
    filled = np.zeros_like(mask)
    for outer, holes in _pieces(mask):
        left, top = outer.min(0).astype(int)
        right, bottom = outer.max(0).astype(int)
        shape, size_hw = np.array((left, top), np.float64), (int(bottom - top), int(right - left))
        lines = [line - shape for line in (outer, *holes)]
        exact = _fill(_joined([_corners(line) for line in lines]), size_hw)
        tolerance = tolerance_px
        while True:
            points = _joined([simplified(_corners(line), tolerance) for line in lines])
            area = _fill(points, size_hw)
            if tolerance <= 0 or iou(area, exact) >= MIN_IOU:
                break
            tolerance = tolerance / 2 if tolerance > 0.3 else 0.0
        polygons.append((points + shape).ravel().tolist())
        filled[top:bottom, left:right] |= area
    return polygons, iou(filled, mask)


def _fill(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    return decode_rle(_filled(points, size_hw))


def _filled(points: np.ndarray, size_hw: tuple[int, int]) -> dict[str, Any]:
    rle = coco_mask.frPyObjects([points.ravel().tolist()], *size_hw)[0]
    return {"size": list(size_hw), "counts": rle["counts"].decode("ascii")}


def _pieces(mask: np.ndarray) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """(outline, outlines of its holes) of every 4-connected piece."""
    box = tight_box_xyxy(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    lines = [line.astype(np.float64) + (x0, y0) for line in contours(mask[y0:y1, x0:x1])]
    outers = sorted((line for line in lines if _area(line) > 0), key=_area)
    pieces: list[tuple[np.ndarray, list[np.ndarray]]] = [(line, []) for line in outers]
    for hole in lines:
        if _area(hole) > 0:
            continue
        # The mask lies right of every edge: step from the middle of the first edge half a pixel to that side.
        ahead = hole[1] - hole[0]
        pixel = (hole[0] + hole[1]) / 2 + (-ahead[1] / 2, ahead[0] / 2)
        owner = next(holes for outer, holes in pieces if _holds(outer, pixel))  # the smallest that does
        owner.append(hole)
    return sorted(pieces, key=lambda piece: (piece[0][0, 1], piece[0][0, 0]))


def _area(line: np.ndarray) -> float:
    x, y = line.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _holds(line: np.ndarray, point_xy: np.ndarray) -> bool:
    """Whether a closed line of unit steps goes around a pixel's centre."""
    x, y = line.T
    middle = (y + np.roll(y, -1)) / 2  # of a vertical step; a horizontal one has a whole number here
    return bool(np.count_nonzero((middle == point_xy[1]) & (x == np.roll(x, -1)) & (x > point_xy[0])) % 2)


def _corners(line: np.ndarray) -> np.ndarray:
    ahead, behind = np.roll(line, -1, 0) - line, line - np.roll(line, 1, 0)
    return line[(ahead != behind).any(1)]


def _joined(lines: list[np.ndarray]) -> np.ndarray:
    """An outline and its holes as one closed line."""
    outer, *holes = lines
    points = [outer]
    for hole in holes:
        points += [outer[:1], hole, hole[:1]]
    return np.concatenate([*points, outer[:1]] if holes else points)
