"""regions.json: a co-segmentation as one file.

    {"images": [{"path", "height", "width"}],
     "regions": [{"image", "object", "part", "occurrence", "correspondence", "correspondence_id", "score",
                  "segmentation": {"size": [height, width], "counts"}}],
     "problems": [{"code", "message", "image"}],
     "answers": {sub-task: text}}

`image` and `correspondence` (the images that show it) count from 0 in the order of `images`; `part` is null for a whole
object; `segmentation` is COCO's compressed RLE. Read back, `correspondence_id`, `answers` and a problem's `image` may
be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calico.errors import InputError
from calico.masks import decode_rle, encode_rle
from calico.values import CoSegmentation, Occurrence, PartRegion, Problem, SubTask


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


def regions_from_json(document: Any) -> tuple[CoSegmentation, tuple[str, ...]]:
    """The co-segmentation and the images' paths. Raises InputError that names the first place not as expected."""
    sizes, paths = [], []
    for i, row in enumerate(_get(document, "images", list, "regions.json")):
        at = f"images[{i}]"
        sizes.append((_get(row, "height", int, at), _get(row, "width", int, at)))
        paths.append(_get(row, "path", str, at))
    regions = [
        _region(row, f"regions[{i}]", sizes) for i, row in enumerate(_get(document, "regions", list, "regions.json"))
    ]
    problems = []
    for i, row in enumerate(_get(document, "problems", list, "regions.json", default=[])):
        at = f"problems[{i}]"
        image = _get(row, "image", int, at, default=None)
        problems.append(Problem(_get(row, "code", str, at), _get(row, "message", str, at), image))
    answers = {}
    for task, text in _get(document, "answers", dict, "regions.json", default={}).items():
        if task not in set(SubTask) or not isinstance(text, str):
            raise InputError(f"answers: expected texts of {', '.join(SubTask)}, got {task!r}: {type(text).__name__}")
        answers[SubTask(task)] = text
    return CoSegmentation(tuple(sizes), tuple(regions), answers, tuple(problems)), tuple(paths)


def _region(row: Any, at: str, sizes_hw: Sequence[tuple[int, int]]) -> PartRegion:
    image = _get(row, "image", int, at)
    if not 0 <= image < len(sizes_hw):
        raise InputError(f"{at}.image: expected 0 to {len(sizes_hw) - 1}, got {image}")
    occurrence = _get(row, "occurrence", str, at)
    if occurrence not in set(Occurrence):
        raise InputError(f"{at}.occurrence: expected {' or '.join(Occurrence)}, got {occurrence!r}")
    shown_in = _get(row, "correspondence", list, at)
    if any(not isinstance(other, int) or not 0 <= other < len(sizes_hw) for other in shown_in):
        raise InputError(f"{at}.correspondence: expected image numbers from 0 to {len(sizes_hw) - 1}, got {shown_in}")
    object_name, part_name = _get(row, "object", str, at), _get(row, "part", str, at, default=None)
    kind = "object" if part_name is None else "part"
    try:
        return PartRegion(
            image=image,
            object_name=object_name,
            part_name=part_name,
            mask=decode_rle(_get(row, "segmentation", dict, at), size_hw=sizes_hw[image]),
            occurrence=Occurrence(occurrence),
            correspondence=tuple(shown_in),
            correspondence_id=_get(row, "correspondence_id", str, at, default=f"{kind}:{part_name or object_name}"),
            score=float(_get(row, "score", (int, float), at)),
        )
    except InputError as error:
        raise error if str(error).startswith(at) else InputError(f"{at}: {error}") from error


_REQUIRED = object()


def _get(row: Any, name: str, kind: type | tuple[type, ...], at: str, *, default: Any = _REQUIRED) -> Any:
    """row[name], of that type. A default stands in for what is missing or null."""
    if not isinstance(row, dict):
        raise InputError(f"{at}: expected an object, got {type(row).__name__}")
    value = row.get(name)
    if value is None and default is not _REQUIRED:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        got = "nothing" if value is None else repr(value)[:60]
        raise InputError(f"{at}.{name}: expected {kinds}, got {got}")
    return value
