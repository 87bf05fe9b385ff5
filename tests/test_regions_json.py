"""regions.json says all that a co-segmentation holds."""

import json

import numpy as np
import pytest

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.masks import decode_rle
from calico.pictures.regions_json import regions_to_json
from calico.values import CoSegmentation, NamedMask, Problem, RegionKey, SubTask

SIZES = ((12, 9), (7, 15), (5, 5))


def example() -> CoSegmentation:
    rng = np.random.default_rng(0)
    named = [(0, "chair", None), (0, "chair", "leg"), (1, "snake", None), (1, "snake", "tail"), (2, "chair", None)]
    masks = [NamedMask(i, obj, part, rng.random(SIZES[i]) < 0.5, float(rng.random())) for i, obj, part in named]
    return co_segmentation(
        SIZES,
        masks,
        answers={SubTask.COMMON_OBJECT: "<p> the chair </p> [SEG] (IMAGE1) [SEG] (IMAGE3)"},
        problems=[Problem("cut_off", "ends early"), Problem("repeated_name", "leg twice", 0)],
        relations=[(RegionKey(0, "part", "leg"), RegionKey(1, "part", "tail"))],
    )


def test_all_of_it_is_there() -> None:
    given, paths = example(), ("a.png", "b/ü.png", "c.png")
    document = json.loads(json.dumps(regions_to_json(given, paths), ensure_ascii=False))
    assert [row["path"] for row in document["images"]] == list(paths)
    assert document["answers"] == given.answers
    assert [(row["code"], row["image"]) for row in document["problems"]] == [("cut_off", None), ("repeated_name", 0)]
    assert len(document["regions"]) == len(given.regions)
    for row, region in zip(document["regions"], given.regions, strict=True):
        assert np.array_equal(decode_rle(row["segmentation"], size_hw=SIZES[row["image"]]), region.mask)
        assert (row["object"], row["part"], row["image"]) == (region.object_name, region.part_name, region.image)
        assert (row["occurrence"], row["score"]) == (region.occurrence, region.score)
        assert (tuple(row["correspondence"]), row["correspondence_id"]) == (
            region.correspondence,
            region.correspondence_id,
        )


def test_the_schema_as_promised() -> None:
    document = regions_to_json(example(), ["a.png", "b.png", "c.png"])
    assert document["images"][1] == {"path": "b.png", "height": 7, "width": 15}
    leg = document["regions"][1]
    assert {"image", "object", "part", "occurrence", "correspondence", "score", "segmentation"} <= set(leg)
    assert (leg["image"], leg["object"], leg["part"], leg["occurrence"]) == (0, "chair", "leg", "common")
    assert leg["correspondence"] == [0, 1]  # a relation drawn by hand joined leg and tail
    assert document["regions"][0]["part"] is None
    assert set(leg["segmentation"]) == {"size", "counts"}
    with pytest.raises(InputError, match="one path per image"):
        regions_to_json(example(), ["a.png"])
