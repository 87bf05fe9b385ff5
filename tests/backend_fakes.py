"""A segmenter and images for tests of the backend: the real interface, and answers that say what they are about."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from PIL import Image

from backend.database.schema import events
from backend.learning.inbox import Inbox
from calico.correspondence import co_segmentation
from calico.errors import CheckpointError
from calico.values import CoSegmentation, ImageGroup, NamedMask, Problem

PAIR_XML = """<View>
  <Image name="img1" value="$image1"/><Image name="img2" value="$image2"/>
  <BrushLabels name="brush1" toName="img1">
    <Label value="object"/><Label value="common part"/><Label value="unique part"/></BrushLabels>
  <BrushLabels name="brush2" toName="img2">
    <Label value="object"/><Label value="common part"/><Label value="unique part"/></BrushLabels>
  <KeyPointLabels name="keypoint2" toName="img2" smart="true">
    <Label value="object"/><Label value="common part"/></KeyPointLabels>
  <TextArea name="name1" toName="img1" perRegion="true"/><TextArea name="name2" toName="img2" perRegion="true"/>
  <Relations><Relation value="same part"/></Relations>
</View>"""

LIST_XML = """<View>
  <Image name="img" valueList="$images"/>
  <BrushLabels name="brush" toName="img">
    <Label value="object"/><Label value="common part"/><Label value="unique part"/></BrushLabels>
  <TextArea name="name" toName="img" perRegion="true"/>
</View>"""


class FakeSegmenter:
    """Each image's object mask is its pixels above mid-grey, its part mask their upper half; one call at a time.

    delay_s: how long a group takes. hold_after: so many groups are answered, the next wait for `gate` to be set.
    An image whose first pixel is pure red fails; one of pure blue shows nothing.
    """

    version = "fake-1"

    def __init__(self, delay_s: float = 0.0, hold_after: int | None = None) -> None:
        self.delay_s = delay_s
        self.hold_after = hold_after
        self.gate = threading.Event()
        self.num_groups = 0
        self.num_running = 0
        self.most_running = 0
        self.candidates: list[Sequence[str] | None] = []
        self.prompts: list[tuple] = []
        self.named: list[tuple] = []
        self._lock = threading.Lock()

    def _enter(self) -> None:
        with self._lock:
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)

    def segment(self, group: ImageGroup, *, candidates: Sequence[str] | None = None) -> CoSegmentation:
        self._enter()
        try:
            time.sleep(self.delay_s)
            if self.hold_after is not None and self.num_groups >= self.hold_after:
                assert self.gate.wait(30), "nobody set the gate"
            self.num_groups += 1
            self.candidates.append(candidates)
            firsts = [tuple(image[0, 0].tolist()) for image in group.images]
            if (255, 0, 0) in firsts:
                raise RuntimeError("out of memory")
            if (0, 0, 255) in firsts:
                return CoSegmentation(group.sizes_hw, problems=(Problem("none", "nothing was found"),))
            masks = []
            for i, image in enumerate(group.images):
                mask = image[..., 1] > 127
                upper = mask.copy()
                upper[image.shape[0] // 2 :] = False
                masks += [NamedMask(i, "lamp", None, mask, 0.9), NamedMask(i, "lamp", "shade", upper, 0.8)]
            return co_segmentation(group.sizes_hw, masks)
        finally:
            self.num_running -= 1

    def segment_many(
        self, groups: Sequence[ImageGroup], *, candidates: Sequence[Sequence[str] | None]
    ) -> list[CoSegmentation]:
        return [self.segment(group, candidates=names) for group, names in zip(groups, candidates, strict=True)]

    def segment_prompts(self, image, points_xy=(), labels=(), box_xyxy=None):
        self._enter()
        try:
            time.sleep(self.delay_s)
            self.prompts.append((image.shape[:2], tuple(points_xy), tuple(labels), box_xyxy))
            mask = np.zeros(image.shape[:2], bool)
            for (x, y), label in zip(points_xy, labels, strict=True):
                mask[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3] = label
            if box_xyxy is not None:
                x0, y0, x1, y1 = (round(v) for v in box_xyxy)
                mask[y0:y1, x0:x1] = True
            return mask, 0.75
        finally:
            self.num_running -= 1

    def segment_named(self, group, name, objects, *, shown=()):
        """A part called `base`: the lower half of the object. Anything else is nowhere."""
        self.named.append((name, dict(objects), tuple(shown)))
        masks = {}
        for i in sorted(set(objects) - set(shown)):
            mask = group.images[i][..., 1] > 127
            mask[: group.images[i].shape[0] // 2] = False
            masks[i] = (mask, 0.9 if name == "base" else 0.1)
        return masks


class Named(FakeSegmenter):
    """A fake of the weights in a folder: its version is what they say."""

    def __init__(self, folder: Path | None, **options) -> None:
        super().__init__(**options)
        self.version = "base" if folder is None else (folder / "model.safetensors").read_text()
        if "broken" in self.version:
            raise CheckpointError(f"{self.version} is cut short")


def picture(seed: int, *, size_hw: tuple[int, int] = (24, 32), first: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """A bright rectangle whose place depends on the seed, on black."""
    height, width = size_hw
    image = np.zeros((height, width, 3), np.uint8)
    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(1, height // 3)), int(rng.integers(1, width // 3))
    image[top : top + height // 2, left : left + width // 2] = (200, 200, rng.integers(0, 255))
    image[0, 0] = first
    return image


def stored_events(inbox: Inbox) -> list[sa.Row]:
    """All of them, oldest first."""
    with inbox.database.engine.connect() as connection:
        return list(connection.execute(sa.select(events).order_by(events.c.id)))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def pair_task(folder: Path, task: int, *, firsts: Sequence[tuple[int, int, int]] = ((0, 0, 0), (0, 0, 0))) -> dict:
    """A task of layout A whose two images lie in the folder."""
    data = {}
    for i, first in enumerate(firsts, 1):
        path = folder / f"{task}_{i}.png"
        path.write_bytes(png(picture(task * 10 + i, size_hw=(24 + i, 32), first=first)))
        data[f"image{i}"] = str(path)
    return {"id": task, "data": data}
