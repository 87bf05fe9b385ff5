"""regions.json there and back, and one line for everything that is not one."""

import copy
import json

import numpy as np
import pytest

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.pictures.regions_json import regions_from_json, regions_to_json
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


def test_there_and_back() -> None:
    before, paths = example(), ("a.png", "b/ü.png", "c.png")
    text = json.dumps(regions_to_json(before, paths), ensure_ascii=False)
    after, read_paths = regions_from_json(json.loads(text))
    assert read_paths == paths
    assert after.sizes_hw == before.sizes_hw
    assert after.answers == before.answers
    assert after.problems == before.problems
    assert len(after.regions) == len(before.regions)
    for a, b in zip(after.regions, before.regions, strict=True):
        assert np.array_equal(a.mask, b.mask)
        assert (a.key, a.object_name, a.occurrence, a.score) == (b.key, b.object_name, b.occurrence, b.score)
        assert (a.correspondence, a.correspondence_id) == (b.correspondence, b.correspondence_id)
    assert json.dumps(regions_to_json(after, read_paths)) == json.dumps(regions_to_json(before, paths))


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


def test_what_may_be_missing() -> None:
    document = regions_to_json(example(), ["a.png", "b.png", "c.png"])
    del document["answers"], document["problems"][0]["image"]
    for region in document["regions"]:
        del region["correspondence_id"]
    after, _ = regions_from_json(document)
    assert after.answers == {}
    assert [r.correspondence_id for r in after.regions][:2] == ["object:chair", "part:leg"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images",), None, r"regions\.json\.images: expected list, got nothing"),
        (("images", 0, "height"), "12", r"images\[0\]\.height: expected int, got '12'"),
        (("images", 0, "height"), 13, r"regions\[0\]: RLE is 12 x 9, expected 13 x 9"),
        (("regions", 1), 5, r"regions\[1\]: expected an object, got int"),
        (("regions", 1, "image"), 3, r"regions\[1\]\.image: expected 0 to 2, got 3"),
        (("regions", 1, "image"), True, r"regions\[1\]\.image: expected int, got True"),
        (("regions", 1, "part"), 7, r"regions\[1\]\.part: expected str, got 7"),
        (("regions", 1, "part"), "The Leg", r"regions\[1\]: .*not normalised"),
        (("regions", 1, "occurrence"), "shared", r"regions\[1\]\.occurrence: expected common or unique"),
        (("regions", 1, "occurrence"), "unique", r"regions\[1\]: .*does not fit correspondence"),
        (("regions", 1, "correspondence"), [0, 9], r"regions\[1\]\.correspondence: expected image numbers"),
        (("regions", 1, "score"), 1.5, r"regions\[1\]: .*score is from 0 to 1"),
        (("regions", 1, "score"), None, r"regions\[1\]\.score: expected int or float, got nothing"),
        (("regions", 1, "segmentation", "counts"), "1", r"regions\[1\]: RLE counts add up to 1"),
        (("regions", 1, "part"), None, "two regions named 'chair'"),
        (("problems", 0, "code"), None, r"problems\[0\]\.code"),
        (("answers", "common_object"), 3, "answers: expected texts of common_object"),
    ],
)
def test_errors_name_the_place(path: tuple, value: object, message: str) -> None:
    document = copy.deepcopy(regions_to_json(example(), ["a.png", "b.png", "c.png"]))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        regions_from_json(document)
