"""Every decoder of other people's data, each with what is thrown at it: near-valid input, then anything."""

from __future__ import annotations

import base64
import io
import json
import string
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import httpx
import numpy as np
from backend_fakes import LIST_XML, PAIR_XML, FakeSegmenter, picture
from hypothesis import strategies as st
from PIL import Image

from backend.codecs import bitmask, brush_rle
from backend.codecs.annotation import compare_with_prediction, decode_annotation
from backend.codecs.config import read_config, task_images
from backend.codecs.config_writer import write_config
from backend.codecs.parts import Vocabulary, with_parts
from backend.codecs.rows import mask_of_value
from backend.codecs.task_data import originals_of
from backend.http.app import create_app
from backend.learning.inbox import triggers_of
from backend.media.fetching import Fetcher
from backend.media.media import Media
from backend.prediction.interactive import read_prompts
from backend.settings import Settings
from backend.telemetry.log_lines import one_line
from backend.telemetry.prometheus import Metrics
from calico.coco.dataset import parse_coco
from calico.coco.segmentation import decode_segmentation
from calico.errors import CalicoError
from calico.images import load_image
from calico.masks import compressed_rle, decode_rle
from calico.values import ImageGroup

GROUP = ImageGroup((picture(0, size_hw=(24, 32)), picture(1, size_hw=(24, 32))))
CONFIGS = [read_config(PAIR_XML), read_config(LIST_XML)]


class Target(NamedTuple):
    """inputs: what is drawn. decode: called with it; may raise CalicoError and nothing else."""

    inputs: st.SearchStrategy[Any]
    decode: Callable[[Any], object]


# -- what is thrown ----------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-5, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(
        [0, -0.0, 2**31, 2**31 - 1, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e308, 1e-308, 50.5]
    ),
)
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "\x00", "\ud800", "\u2028", "a\nb", "img1", "img2", "img", "brush1", "name1", "object", "lamp"]
    ),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)


def json_like(keys: list[str], values: st.SearchStrategy[Any] = leaves) -> st.SearchStrategy[Any]:
    key = st.one_of(st.sampled_from(keys), texts)
    return st.recursive(
        values, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(key, inner, max_size=6), max_leaves=12
    )


def damaged(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A seed with bytes replaced, taken out or put in, or cut."""

    def change(seed: bytes, edits: list[tuple[int, int, bytes]], cut: int) -> bytes:
        data = bytearray(seed)
        for place, length, by in edits:
            at = place % (len(data) + 1)
            data[at : at + length] = by
        return bytes(data[: len(data) - cut % (len(data) + 1)] if cut else data)

    edit = st.tuples(st.integers(0, 1 << 20), st.integers(0, 4), st.binary(max_size=4))
    edits = st.lists(edit, max_size=6)
    return st.builds(change, st.sampled_from(seeds), edits, st.integers(0, 40) | st.just(0)) | st.binary(max_size=200)


def _pictures() -> list[bytes]:
    found, picture = [], Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8))
    for kind, mode in (
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "F"),
        ("TIFF", "I"),
        ("TIFF", "LAB"),
        ("WEBP", "RGBA"),
        ("ICO", "RGBA"),
        ("PPM", "L"),
        ("TGA", "RGB"),
        ("PCX", "L"),
        ("SGI", "RGB"),
        ("DDS", "RGBA"),
        ("JPEG2000", "RGB"),
    ):
        buffer = io.BytesIO()
        if mode == "LAB":
            converted = Image.new("LAB", (9, 6))
        elif mode == "I;16":
            converted = picture.convert("L").convert("I").convert("I;16")
        else:
            converted = picture.convert(mode)
        converted.save(buffer, kind)
        found.append(buffer.getvalue())
    return found


mask = np.random.default_rng(1).random((24, 32)) > 0.5
bytes_or_lists = st.one_of(
    damaged([bytes(brush_rle.encode(mask)), bytes(brush_rle.encode(np.ones((24, 32), bool)))]).map(list),
    st.lists(numbers | st.integers(0, 255), max_size=60),
    leaves,
)
shape_values = json_like(
    [
        "rle",
        "points",
        "vertices",
        "x",
        "y",
        "width",
        "height",
        "radiusX",
        "radiusY",
        "rotation",
        "imageDataURL",
        "closed",
    ],
    leaves | bytes_or_lists,
)
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": leaves,
            "type": st.sampled_from(["brushlabels", "polygonlabels", "textarea", "choices", "relation", "keypoint"])
            | leaves,
            "to_name": st.sampled_from(["img1", "img2", "img"]) | leaves,
            "from_name": st.sampled_from(["brush1", "name1", "keypoint2", "name"]) | leaves,
            "value": st.dictionaries(
                st.sampled_from(["rle", "points", "brushlabels", "text", "x", "y", "width", "height", "format"]),
                leaves
                | bytes_or_lists
                | st.lists(st.lists(numbers, max_size=3), max_size=5)
                | st.lists(texts, max_size=2),
            )
            | leaves,
            "original_width": numbers | leaves,
            "original_height": numbers | leaves,
            "image_rotation": leaves,
            "item_index": leaves,
            "meta": json_like(["text", "names"]),
            "from_id": leaves,
            "to_id": leaves,
            "labels": leaves,
            "is_positive": leaves,
        },
    )
    | leaves,
    max_size=4,
)
label_like = (
    st.fixed_dictionaries(
        {},
        optional={
            "hint": st.sampled_from(["part", "object", "other part"]) | leaves,
            "value": texts | leaves | st.lists(leaves, max_size=2),
            "of": texts | leaves,
            "background": st.just("#e69f00") | leaves,
            "file": texts | leaves,
            "height": numbers | leaves,
            "width": numbers | leaves,
        },
    )
    | leaves
)
tags = st.sampled_from(
    ["View", "Image", "BrushLabels", "Label", "Repeater", "Relations", "Choices", "TextArea", "Brush"]
)
attributes = st.dictionaries(
    st.sampled_from(["name", "toName", "value", "valueList", "on", "indexFlag", "alias", "hint", "smart", "perRegion"]),
    st.sampled_from(["i", "i1", "$i", "$images", "x", "", "true", "$", "$a[0].b", "{{idx}}", "i,i1"])
    | st.text(max_size=5),
    max_size=4,
)


def _xml(tag: str, attributes: dict[str, str], inner: list[str]) -> str:
    told = " ".join(f"{name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<{tag} {told}>{''.join(inner)}</{tag}>"


elements = st.recursive(
    st.builds(_xml, tags, attributes, st.just([])),
    lambda inner: st.builds(_xml, tags, attributes, st.lists(inner, max_size=4)),
    max_leaves=12,
)
documents = st.one_of(
    elements,
    damaged([PAIR_XML.encode(), LIST_XML.encode()]).map(lambda data: data.decode(errors="surrogateescape")),
    texts,
)
addresses = st.one_of(
    texts,
    st.text(alphabet=string.printable, max_size=60),
    st.builds(
        lambda start, parts, end: start + "/".join(parts) + end,
        st.sampled_from(
            [
                "/data/upload/",
                "http://studio/data/upload/",
                "http://",
                "s3://",
                "file://",
                "data:",
                "/tasks/",
                "https://[::1]/",
                "data:image/png;base64,",
                "//",
                "../",
                "/data/local-files/?d=",
            ]
        ),
        st.lists(
            st.sampled_from(["..", ".", "%2e%2e", "%252e", "..\\", "a", "api", "1", "\x00", "é", "\ud800", "%", ";"]),
            max_size=6,
        ),
        texts,
    ),
)
COCO = {
    "images": [{"id": 1, "height": 4, "width": 5, "file_name": "a"}],
    "categories": [{"id": 1, "name": "chair:leg"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]], "iscrowd": 0}],
}
coco_keys = [
    "id",
    "image_id",
    "category_id",
    "name",
    "height",
    "width",
    "segmentation",
    "counts",
    "size",
    "iscrowd",
    "score",
    "obj_ann_id",
    "part_of",
    "supercategory",
    "file_name",
    "coco_url",
    "bbox",
]


# -- what they are thrown at -------------------------------------------------------------------------------------------


def _annotation(value: Any) -> None:
    before, after, config = value
    decode_annotation(before, config, [(24, 32), (20, 30)])
    compare_with_prediction(before, after, config)


def _labels(data: Any) -> None:
    config = read_config(write_config(2))
    for coseg in (None, FakeSegmenter().segment(GROUP)):
        fitted = with_parts(data, coseg, config, Vocabulary())
        config.known_labels(0, fitted)
    originals_of(data, 2)


def _config(text: str) -> None:
    config = read_config(text)
    config.candidates({"images": ["a"], "i": ["b"]})
    task_images(config, {"i": "a", "images": ["a", "b"]})


def _coco(value: Any) -> None:
    document = json.loads(json.dumps(COCO))
    for kind, row in value:
        if isinstance(row, dict) and kind != "annotations":
            document[kind].append(row)
        elif isinstance(row, dict):
            document[kind].append({**COCO["annotations"][0], **row})
        else:
            document[kind].append(row)
    data = parse_coco(document)
    for item in data.objects:
        item.masks(data.findings)


@cache
def _media() -> Media:
    folder = Path(tempfile.mkdtemp())
    (folder / "a").mkdir()
    nobody = httpx.MockTransport(lambda request: httpx.Response(404))
    fetcher = Fetcher(transport=nobody, resolver=lambda host, port: ["93.184.216.34"], timeout_s=5)
    settings = Settings(media_roots=(folder / "a",), data_dir=folder / "s", label_studio_url="http://studio")
    return Media(settings, Metrics(), None, fetcher)


def _address(source: str) -> None:
    try:
        _media().load(source, task=1)
    except CalicoError as error:
        text = str(error)
        if len(text) > 1000 or "\n" in text:
            raise AssertionError(f"an error of {len(text)} characters") from error
        raise


@cache
def _client() -> Any:
    folder = Path(tempfile.mkdtemp())
    return create_app(Settings(data_dir=folder, time_budget_s=5), load=FakeSegmenter).test_client()


def _request(value: Any) -> None:
    route, body = value
    answer = _client().post(route, data=json.dumps(body), content_type="application/json")
    if answer.status_code not in (200, 201, 400, 404, 503):
        raise AssertionError(f"{route} answered {answer.status_code}")
    reasons = [job["reason"] for job in _client().get("/jobs").get_json()["jobs"]]
    if wrong := [reason for reason in reasons if "internal error" in reason]:
        raise AssertionError(wrong[0])


def _line(text: str) -> None:
    line = one_line(text, 50)
    if not line.isprintable() or len(line) > 50:
        raise AssertionError(repr(line))


requests = st.tuples(
    st.sampled_from(["/predict", "/webhook", "/setup", "/jobs/training/1/cancel"]),
    st.one_of(
        st.fixed_dictionaries(
            {
                "tasks": st.lists(json_like(["id", "data", "image1", "image2", "images"]), max_size=3),
                "label_config": st.sampled_from([PAIR_XML, LIST_XML]) | elements,
            },
            optional={
                "params": st.fixed_dictionaries({"context": st.fixed_dictionaries({"result": rows | leaves})}) | leaves,
                "project": leaves,
            },
        ),
        json_like(["action", "annotation", "task", "project", "id", "updated_at", "tasks", "label_config", "params"]),
    ),
)

TARGETS = {
    "image": Target(damaged(_pictures()), lambda data: load_image(data, max_pixels=1_000_000)),
    "brush": Target(bytes_or_lists, lambda rle: brush_rle.decode(rle, 24, 32)),
    "bitmask": Target(
        damaged([bitmask.encode(mask).encode(), bitmask.encode(mask)[:40].encode()]).map(
            lambda data: data.decode(errors="replace")
        )
        | damaged([base64.b64decode(bitmask.encode(mask).partition(",")[2])]).map(
            lambda data: "data:image/png;base64," + base64.b64encode(data).decode()
        ),
        lambda url: bitmask.decode(url, 24, 32),
    ),
    "shape": Target(
        st.dictionaries(
            st.sampled_from(
                ["rle", "points", "vertices", "x", "y", "width", "height", "radiusX", "radiusY", "rotation"]
            ),
            numbers | bytes_or_lists | st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=8),
        )
        | shape_values.filter(lambda value: isinstance(value, dict)),
        lambda value: mask_of_value(value, (24, 32)),
    ),
    "annotation": Target(st.tuples(rows, rows, st.sampled_from(CONFIGS)), _annotation),
    "click": Target(st.tuples(rows | leaves, st.sampled_from(CONFIGS)), lambda v: read_prompts({"result": v[0]}, v[1])),
    "labels of a task": Target(
        st.dictionaries(st.sampled_from(["parts", "originals"]), st.lists(label_like, max_size=5) | leaves), _labels
    ),
    "config": Target(documents, _config),
    "coco run lengths": Target(
        st.fixed_dictionaries(
            {
                "size": st.just([4, 5]) | st.lists(numbers, max_size=3) | leaves,
                "counts": st.lists(numbers, max_size=8) | st.text(max_size=20) | leaves | st.binary(max_size=9),
            }
        ),
        lambda rle: (decode_rle(rle), compressed_rle(rle)),
    ),
    "coco segmentation": Target(
        st.lists(st.lists(numbers, max_size=10), max_size=3) | json_like(["size", "counts"]),
        lambda value: decode_segmentation(value, (20, 30)),
    ),
    "coco file": Target(st.lists(st.tuples(st.sampled_from(sorted(COCO)), json_like(coco_keys)), max_size=4), _coco),
    "event": Target(
        st.dictionaries(
            st.sampled_from(["action", "annotation", "task", "project"]), json_like(["id", "task", "updated_at"])
        ),
        triggers_of,
    ),
    "address": Target(addresses, _address),
    "request": Target(requests, _request),
    "log line": Target(st.text(max_size=200), _line),
}
