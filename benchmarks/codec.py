"""Our brush RLE against label-studio-sdk's on the same masks, in one process: `python -m benchmarks.codec`.

Run by `calico benchmark codec` with a Python that has the sdk (Label Studio's own environment has). Prints JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from backend.codecs import brush_rle

SIZES_HW = {"1 MP": (1000, 1000), "4 MP": (2000, 2000), "12 MP": (3000, 4000)}
NUM_REPEATS = 7


def part_like_mask(height: int, width: int) -> np.ndarray:
    """HxW bool: a body with a hole, a thin leg and two pieces beside it."""
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.2, height * 0.2, width * 0.7, height * 0.8), fill=1)
    draw.ellipse((width * 0.35, height * 0.4, width * 0.5, height * 0.6), fill=0)
    draw.line((width * 0.6, height * 0.5, width * 0.95, height * 0.95), fill=1, width=max(3, width // 100))
    draw.polygon([(width * 0.8, height * 0.1), (width * 0.95, height * 0.3), (width * 0.75, height * 0.35)], fill=1)
    return np.asarray(image)


def best_seconds(call: Callable[[], object]) -> float:
    """The fastest of some calls: what the code takes when nothing else runs."""
    seconds = []
    for _ in range(NUM_REPEATS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def compare() -> dict[str, Any]:
    """Per size: seconds of both, ratios, and whether bytes and masks are the same."""
    from label_studio_sdk.converter import brush as sdk

    report: dict[str, Any] = {}
    for name, (height, width) in SIZES_HW.items():
        mask = part_like_mask(height, width)
        image = mask.astype(np.uint8) * 255
        ours, theirs = brush_rle.encode(mask), sdk.mask2rle(image)
        sdk_decoded = sdk.decode_rle(ours).reshape(height, width, 4)[:, :, 3] > 0
        seconds = {
            "encode": best_seconds(partial(brush_rle.encode, mask)),
            "sdk_encode": best_seconds(partial(sdk.mask2rle, image)),
            "decode": best_seconds(partial(brush_rle.decode, ours, height, width)),
            "sdk_decode": best_seconds(partial(sdk.decode_rle, ours)),
        }
        report[name] = {
            **{f"{what}_seconds": value for what, value in seconds.items()},
            "encode_ratio": seconds["sdk_encode"] / seconds["encode"],
            "decode_ratio": seconds["sdk_decode"] / seconds["decode"],
            "same_bytes": list(ours) == list(theirs),
            "same_masks": bool((brush_rle.decode(ours, height, width) == sdk_decoded).all()),
        }
    return report


if __name__ == "__main__":
    print(json.dumps(compare()))
