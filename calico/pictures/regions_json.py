"""regions.json: a co-segmentation as one file.

    {"images": [{"path", "height", "width"}],
     "regions": [{"image", "object", "part", "occurrence", "correspondence", "correspondence_id", "score",
                  "segmentation": {"size": [height, width], "counts"}}],
     "problems": [{"code", "message", "image"}],
     "answers": {sub-task: text}}

`image` and `correspondence` (the images that show it) count from 0 in the order of `images`; `part` is null for a whole
object; `segmentation` is COCO's compressed RLE, which pycocotools reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calico.errors import InputError
from calico.masks import encode_rle
from calico.values import CoSegmentation, SubTask


def regions_to_json(cosegmentation: CoSegmentation, paths: Sequence[str]) -> dict[str, Any]:
    """JSON-ready. paths: one per image, as the reader shall find them."""
    if len(paths) != len(cosegmentation.sizes_hw):
        raise InputError(f"expected one path per image, got {len(paths)} for {len(cosegmentation.sizes_hw)} images")
    return {
        "images": [
            {"path": str(path), "height": height, "width": width}
            for path, (height, width) in zip(paths, cosegmentation.sizes_hw, strict=True)
        ],
        "regions": [
            {
                "image": region.image,
                "object": region.object_name,
                "part": region.part_name,
                "occurrence": region.occurrence.value,
                "correspondence": list(region.correspondence),
                "correspondence_id": region.correspondence_id,
                "score": float(region.score),
                "segmentation": encode_rle(region.mask),
            }
            for region in cosegmentation.regions
        ],
        "problems": [
            {"code": problem.code, "message": problem.message, "image": problem.image}
            for problem in cosegmentation.problems
        ],
        "answers": {SubTask(task).value: text for task, text in cosegmentation.answers.items()},
    }
