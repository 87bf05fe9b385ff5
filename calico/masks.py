"""Binary masks: COCO run lengths, overlap, boundaries, connected parts, and where to click next.

A mask is a HxW bool array; x counts columns and y counts rows of pixels, from 0 at the upper left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isqrt
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from calico.errors import InputError
from calico.images import MAX_PIXELS

# DAVIS' tolerance for boundaries, as a share of the image's diagonal.
BOUNDARY_TOLERANCE = 0.008
EXACT_PIXELS = 2**17  # of a mask's box, up to which `deepest_point` looks at every pixel


class Click(NamedTuple):
    """A pixel (column x, row y); positive: it belongs to what is meant."""

    x: int
    y: int
    positive: bool


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """HxW bool -> COCO's compressed run lengths, JSON-ready: {"size": [height, width], "counts": str}."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(
    rle: Mapping[str, Any], *, size_hw: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """COCO run lengths, compressed (counts: str) or not (counts: list), -> HxW bool.

    Raises InputError, before memory is taken, where the size is not `size_hw` (if given) or over `max_pixels`, and
    where the counts are damaged or do not add up to it. (pycocotools reads past its buffers on such counts.)
    """
    counts, (height, width) = _checked_counts(rle, size_hw, max_pixels)
    inside = np.arange(counts.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, counts).reshape(width, height).T)


def compressed_rle(
    rle: Mapping[str, Any], *, size_hw: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> dict[str, Any]:
    """COCO run lengths in either form -> the compressed one, JSON-ready, without drawing the mask. Errors as above."""
    counts, size = _checked_counts(rle, size_hw, max_pixels)
    if (counts[1:] == 0).any():  # empty runs: pycocotools' merge writes beyond its buffer on them
        return encode_rle(decode_rle(rle, max_pixels=max_pixels))
    text = rle["counts"]
    if not isinstance(text, (str, bytes)):
        text = coco_mask.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)["counts"]
    return {"size": list(size), "counts": text if isinstance(text, str) else text.decode("ascii")}


def rle_area(rle: Mapping[str, Any]) -> int:
    """Pixels of a mask in COCO run lengths."""
    return int(_counts(rle["counts"])[1::2].sum())


def union_rle(rles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The union of masks of one size in compressed run lengths (checked ones: from `compressed_rle`, `encode_rle`)."""
    if len(rles) == 1:
        return dict(rles[0])
    merged = coco_mask.merge([{"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in rles])
    return {"size": [int(side) for side in merged["size"]], "counts": merged["counts"].decode("ascii")}


def _checked_counts(
    rle: Mapping[str, Any], size_hw: tuple[int, int] | None, max_pixels: int
) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        height, width = (int(side) for side in rle["size"])
        counts = _counts(rle["counts"])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"expected a COCO RLE {{size: [height, width], counts}}; got {got}") from error
    if height < 1 or width < 1 or height * width > max_pixels:
        raise InputError(f"RLE of {height} x {width} pixels: expected 1 to {max_pixels:,} pixels")
    if size_hw is not None and (height, width) != tuple(size_hw):
        raise InputError(
            f"RLE is {height} x {width}, expected {size_hw[0]} x {size_hw[1]} (height x width), the image's own size"
        )
    # Each by itself first: a sum of large ones comes round to any number.
    is_sound = counts.size == 0 or (counts.min() >= 0 and counts.max() <= height * width)
    if not is_sound or counts.size > 2 * height * width + 2 or int(counts.sum()) != height * width:
        total = sum(counts.tolist())
        raise InputError(f"RLE counts add up to {total}, expected {height} x {width} = {height * width}")
    return counts, (height, width)


def _counts(counts: Any) -> np.ndarray:
    """Run lengths, zeros first. COCO's string holds 5 bits a character, differences to the run before last."""
    if not isinstance(counts, (str, bytes)):
        lengths = np.asarray(counts)
        is_whole = lengths.dtype.kind == "f" and bool((np.abs(lengths) < 2**53).all()) and not (lengths % 1).any()
        if lengths.size and lengths.dtype.kind not in "iu" and not is_whole:
            raise ValueError(f"counts of {lengths.dtype.name}")
        return lengths.astype(np.int64).reshape(-1)
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("damaged counts string")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if int((last - first).max()) > 7:
        raise ValueError("a run of over 40 bits in the counts string")
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((codes & 31) << (5 * place), first)
    values -= np.where(codes[last] & 16, 1 << (5 * (last - first + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two HxW bool masks; 1.0 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def boundary_f(a: np.ndarray, b: np.ndarray, *, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F-measure of the boundaries of two HxW bool masks, as DAVIS (Perazzi et al. 2016) computes it.

    tolerance: how far apart boundaries may be and still match, as a share of the image's diagonal, rounded up to
    pixels. 1.0 where neither mask has a boundary inside the image, 0.0 where only one has.
    """
    radius = ceil(tolerance * np.hypot(*a.shape))
    edge_a, edge_b = _boundary(a), _boundary(b)
    num_a, num_b = np.count_nonzero(edge_a), np.count_nonzero(edge_b)
    if num_a == 0 or num_b == 0:
        return float(num_a == num_b)
    precision = np.count_nonzero(edge_a & dilate(edge_b, radius)) / num_a
    recall = np.count_nonzero(edge_b & dilate(edge_a, radius)) / num_b
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    """HxW bool: pixels that differ from their right, lower or lower right neighbour (DAVIS' `seg2bmap`)."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """HxW bool: pixels at most `radius` (Euclidean) from one of the mask."""
    if radius <= 0 or not mask.any():
        return mask.copy()
    depth = _column_distance(mask)
    width = mask.shape[1]
    grown = np.zeros_like(mask)
    for dx in range(min(radius, width - 1) + 1):
        reach = depth <= isqrt(radius * radius - dx * dx)
        grown[:, dx:] |= reach[:, : width - dx]
        grown[:, : width - dx] |= reach[:, dx:]
    return grown


def inner_distance(mask: np.ndarray) -> np.ndarray:
    """HxW float64: Euclidean distance of each pixel of the mask to the nearest pixel outside it, 0 outside.

    Beyond the image is outside. Exact; time grows with the greatest distance.
    """
    outside = np.pad(~mask, 1, constant_values=True)
    column = _column_distance(outside).astype(np.int64) ** 2
    squared = column.copy()
    for dx in range(1, outside.shape[1]):
        if dx * dx >= squared.max():
            break
        np.minimum(squared[:, dx:], column[:, :-dx] + dx * dx, out=squared[:, dx:])
        np.minimum(squared[:, :-dx], column[:, dx:] + dx * dx, out=squared[:, :-dx])
    return np.sqrt(squared[1:-1, 1:-1])


def _column_distance(mask: np.ndarray) -> np.ndarray:
    """HxW int32: rows to the nearest pixel of the mask in its column; where there is none, more than any distance."""
    height, width = mask.shape
    far = 2 * (height + width)
    row = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, row, -far), axis=0)
    below = np.minimum.accumulate(np.where(mask, row, height + far)[::-1], axis=0)[::-1]
    return np.minimum(row - above, below - row)


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected parts (8 neighbours) of a HxW bool mask: HxW int32 labels, 0 outside, and their number.

    Labels 1.. in the order in which a scan of the rows meets them.
    """
    height, width = mask.shape
    pitch = width + 1  # an empty column, so that no run goes on into the next row
    flat = np.zeros(height * pitch + 1, dtype=np.int8)
    flat[:-1].reshape(height, pitch)[:, :width] = mask
    step = np.diff(flat, prepend=np.int8(0))
    starts, ends = np.flatnonzero(step == 1), np.flatnonzero(step == -1)

    # Runs that touch in the next row, corners included, get one root; the root is the earliest run.
    parent = list(range(len(starts)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    low = np.searchsorted(ends, starts + pitch - 1, side="right")
    high = np.searchsorted(starts, ends + pitch + 1, side="left")
    for run, (first, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        for below in range(first, stop):
            a, b = root(run), root(below)
            parent[max(a, b)] = min(a, b)

    roots, numbers = np.unique([root(run) for run in range(len(starts))], return_inverse=True)
    labels = np.zeros(height * pitch, dtype=np.int32)
    lengths = ends - starts
    inside = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    labels[inside] = np.repeat(numbers + 1, lengths)
    return np.ascontiguousarray(labels.reshape(height, pitch)[:, :width]), len(roots)


def tight_box_xyxy(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) in pixels, x1 and y1 exclusive, of the smallest box around a mask; None where it is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def next_click(prediction: np.ndarray, truth: np.ndarray) -> Click | None:
    """The pixel deepest inside the largest wrong region of a HxW bool prediction: positive where the truth has it.

    Wrong regions are the connected parts of what is missing and of what is too much. None where nothing is wrong.
    """
    best: tuple[int, np.ndarray, bool] | None = None
    for wrong, positive in ((truth & ~prediction, True), (prediction & ~truth, False)):
        labels, number = components(wrong)
        if number:
            areas = np.bincount(labels.ravel())[1:]
            label = int(areas.argmax()) + 1
            if best is None or areas[label - 1] > best[0]:
                best = (int(areas[label - 1]), labels == label, positive)
    if best is None:
        return None
    _, region, positive = best
    return Click(*deepest_point(region), positive)


def deepest_point(mask: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a non-empty HxW bool mask farthest from its outside; the first of equals in row order.

    Where the mask's box has more than `EXACT_PIXELS`, it is looked for among blocks of pixels that are all inside, and
    the point is the middle of one: in the mask always, and at most about two blocks less deep.
    """
    box = tight_box_xyxy(mask)
    if box is None:
        raise InputError("an empty mask has no point inside; give a mask with at least one pixel")
    x0, y0, x1, y1 = box
    inside = mask[y0:y1, x0:x1]
    side = max(1, ceil((inside.size / EXACT_PIXELS) ** 0.5))
    blocks = _full_blocks(inside, side)
    if not blocks.any():  # thin everywhere: then the exact way is short
        blocks, side = inside, 1
    distance = inner_distance(blocks)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return x0 + int(x) * side + side // 2, y0 + int(y) * side + side // 2


def _full_blocks(mask: np.ndarray, side: int) -> np.ndarray:
    """Which side x side blocks of a HxW bool mask are all inside; what is left over at the right and below is none."""
    height, width = (length // side for length in mask.shape)
    blocks = mask[: height * side, : width * side].reshape(height, side, width, side)
    return np.logical_and.reduce(blocks, axis=(1, 3))


def resize_mask(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """HxW bool at another size (height, width): bilinear with antialiasing, kept where at least half is covered."""
    if mask.shape == tuple(size_hw):
        return mask.copy()
    height, width = size_hw
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(grey) >= 128
