"""Predictions: the rows that Label Studio needs, label matching, polygons, and the check before answering."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest
from old_layouts import write_old_config as write_config

from backend.codecs import brush_rle
from backend.codecs.config import read_config
from backend.codecs.controls import Label
from backend.codecs.geometry import fill_polygon, polygons_of_mask
from backend.codecs.labels import match_label
from backend.codecs.prediction import encode_prediction, validate_prediction
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.values import NamedMask

SIZES = [(40, 60), (52, 33), (45, 45)]
LAYOUT_C = """<View><Repeater on="$images" indexFlag="{{idx}}"><View>
  <Image name="img_{{idx}}" value="$images[{{idx}}]"/>
  <BrushLabels name="brush_{{idx}}" toName="img_{{idx}}">
    <Label value="object"/><Label value="common part"/><Label value="unique part"/></BrushLabels>
  <TextArea name="name_{{idx}}" toName="img_{{idx}}" perRegion="true"/>
</View></Repeater><Relations><Relation value="same part"/></Relations></View>"""


def group(num_images=2, objects=("chair", "ottoman", "chair")):
    """Objects with a hole, legs in two pieces of 3 px, a cushion on all of the image, a one-pixel knob on image 2."""
    masks = []
    for i, (height, width) in enumerate(SIZES[:num_images]):
        body, legs, knob = np.zeros((3, height, width), np.bool_)
        body[4:30, 5:28] = True
        body[10:20, 10:20] = False
        legs[20:38, 5:8] = legs[20:38, 25:28] = True
        knob[6 + i, 7] = True
        masks += [NamedMask(i, objects[i], None, body, 0.9), NamedMask(i, objects[i], "leg", legs, 0.75)]
        if i == 1:
            masks.append(NamedMask(i, objects[i], "knob", knob, 0.25))
            masks.append(NamedMask(i, objects[i], "cushion", np.ones((height, width), np.bool_), 0.5))
    return co_segmentation(SIZES[:num_images], masks)


def encode(coseg, config, **options):
    return encode_prediction(coseg, config, model_version="v1", task_id=7, **options)


def rows_of(prediction, kind):
    return [row for row in prediction["result"] if row["type"] == kind]


def test_layout_a_rows():
    encoded = encode(group(), read_config(write_config(2)))
    prediction = encoded.prediction
    assert encoded.problems == ()
    assert json.loads(json.dumps(prediction)) == prediction
    assert prediction["model_version"] == "v1"
    assert prediction["score"] == pytest.approx(np.mean([0.9, 0.75, 0.9, 0.75, 0.25, 0.5]), abs=1e-4)
    masks, names = rows_of(prediction, "brushlabels"), rows_of(prediction, "textarea")
    assert [(row["to_name"], row["from_name"], *row["value"]["brushlabels"]) for row in masks] == [
        ("img1", "brush1", "common part"),
        ("img1", "brush1", "object"),
        ("img2", "brush2", "unique part"),
        ("img2", "brush2", "common part"),
        ("img2", "brush2", "unique part"),
        ("img2", "brush2", "object"),
    ], "small parts on top, the object behind them"
    assert [row["value"]["text"] for row in names] == [
        [name] for name in ("leg", "chair", "knob", "leg", "cushion", "ottoman")
    ]
    assert [row["id"] for row in names] == [row["id"] for row in masks]
    assert len({row["id"] for row in masks}) == len(masks)
    assert all(len(row["id"]) >= 10 and row["image_rotation"] == 0 and "item_index" not in row for row in masks)
    assert [row.get("meta") for row in masks[:3]] == [
        {"text": ["chair"], "names": ["chair"]},
        None,
        {"text": ["ottoman"], "names": ["ottoman"]},
    ]
    assert [row["score"] for row in masks[:2]] == [0.75, 0.9]
    assert (masks[5]["original_height"], masks[5]["original_width"]) == SIZES[1]
    assert (brush_rle.decode(masks[5]["value"]["rle"], *SIZES[1]) == group().regions[2].mask).all()
    assert rows_of(prediction, "relation") == [
        {
            "type": "relation",
            "from_id": masks[0]["id"],
            "to_id": masks[3]["id"],
            "direction": "bi",
            "labels": ["same part"],
        }
    ]


def test_layout_b_says_the_image_on_the_row():
    prediction = encode(group(3), read_config(write_config(layout="B"))).prediction
    assert [row["item_index"] for row in rows_of(prediction, "brushlabels")] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert {row["to_name"] for row in rows_of(prediction, "textarea")} == {"img"}
    assert len(rows_of(prediction, "relation")) == 2, "a chain: image 1 to 2 to 3"


def test_layout_c_names_controls_by_image():
    prediction = encode(group(3), read_config(LAYOUT_C)).prediction
    assert {(row["to_name"], row["from_name"]) for row in rows_of(prediction, "brushlabels")} == {
        (f"img_{i}", f"brush_{i}") for i in range(3)
    }


def test_ids_are_the_same_again_and_differ_between_tasks():
    config = read_config(write_config(2))
    first, again = encode(group(), config).prediction, encode(group(), config).prediction
    other = encode_prediction(group(), config, model_version="v1", task_id=8).prediction
    assert first == again
    assert not {row.get("id") for row in first["result"] if "id" in row} & {row.get("id") for row in other["result"]}


def test_fixed_vocabulary_reports_what_finds_no_label():
    config = read_config(write_config(2, labels=["Chair", "Chair:Leg", "leg", "knobs"]))
    encoded = encode(group(), config)
    labels = [(row["to_name"], *row["value"]["brushlabels"]) for row in rows_of(encoded.prediction, "brushlabels")]
    assert labels == [("img1", "Chair:Leg"), ("img1", "Chair"), ("img2", "knobs"), ("img2", "leg"), ("img2", "object")]
    assert [(problem.code, problem.image) for problem in encoded.problems] == [("similar_label", 1), ("no_label", 1)]
    assert "part 'cushion' of image 2" in encoded.problems[1].message
    assert [row["value"]["choices"] for row in rows_of(encoded.prediction, "choices")] == [
        ["common"],
        ["unique"],
        ["common"],
    ]
    notes = [row.get("meta", {}).get("text") for row in rows_of(encoded.prediction, "brushlabels")]
    expected = [["chair"], ["chair"], ["ottoman", "knob"], ["ottoman"], ["ottoman"]]
    assert notes == expected, "a similar match keeps the name that was said"


def test_dynamic_labels_come_from_the_task():
    body = '<Image name="i{0}" value="$a{0}"/><BrushLabels name="b{0}" toName="i{0}" value="$parts"/>'
    config = read_config(f"<View>{body.format(1)}{body.format(2)}</View>")
    data = {"parts": [{"value": "chair"}, {"value": "leg"}, {"value": "ottoman"}]}
    encoded = encode(group(), config, task_data=data)
    assert [row["value"]["brushlabels"][0] for row in rows_of(encoded.prediction, "brushlabels")] == [
        "leg",
        "chair",
        "leg",
        "ottoman",
    ]
    assert [problem.code for problem in encoded.problems] == ["no_label", "no_label"]
    assert rows_of(encoded.prediction, "relation") == [], "the config has no relations"


def test_brush_and_labels_as_two_tags():
    body = '<Image name="i{0}" value="$a{0}"/><Brush name="b{0}" toName="i{0}"/>'
    body += '<Labels name="l{0}" toName="i{0}"><Label value="object"/><Label value="leg"/></Labels>'
    prediction = encode(group(), read_config(f"<View>{body.format(1)}{body.format(2)}</View>")).prediction
    assert [row["from_name"] for row in prediction["result"]] == ["b1", "l1", "b1", "l1", "b2", "l2", "b2", "l2"]
    assert prediction["result"][1]["value"] == {"labels": ["leg"]}


def test_an_empty_mask_is_reported():
    masks = [NamedMask(i, "cup", None, np.full((5, 5), i == 0)) for i in range(2)]
    encoded = encode(co_segmentation([(5, 5)] * 2, masks), read_config(write_config(2)))
    assert len(rows_of(encoded.prediction, "brushlabels")) == 1
    assert [problem.code for problem in encoded.problems] == ["empty_mask"]


def test_a_group_of_another_size_is_refused():
    with pytest.raises(InputError, match="shows 2 images, the group has 3"):
        encode(group(3), read_config(write_config(2)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["leg"], ("leg", "exact")),
        (["seat"], ("Seat", "case_insensitive")),
        (["foot"], ("leg", "predicted_values")),
        (["handles"], ("handle", "similar")),
        (["candle"], None),  # one letter from `handle`
        (["sofa:seat", "sofa seat", "seat"], ("Seat", "case_insensitive")),
        (["front wheel"], ("front_wheel", "case_insensitive")),
        (["wing"], None),
        (["lamp shades"], ("lampshade", "similar")),
        (["fridge drawer"], None),  # a long word in common with `fridge door`
    ],
)
def test_label_matching(names, expected):
    labels = [Label("leg", ("Foot",)), Label("Seat"), Label("handle"), Label("front_wheel")]
    labels += [Label("lampshade"), Label("fridge door")]
    assert match_label(names, labels) == expected


def test_labels_that_say_an_object_are_for_objects_only():
    """`chair` is an object label beside `chair:leg`: no part may take it, and a plain `ottoman` yields to `object`."""
    config = read_config(write_config(2, labels=["chair", "chair:leg", "ottoman"]))
    masks = [NamedMask(i, name, None, np.ones((4, 4), np.bool_)) for i, name in enumerate(["chair", "ottoman"])]
    masks.append(NamedMask(0, "chair", "chair", np.ones((4, 4), np.bool_)))
    encoded = encode(co_segmentation([(4, 4)] * 2, masks), config)
    assert [row["value"]["brushlabels"] for row in rows_of(encoded.prediction, "brushlabels")] == [
        ["chair"],
        ["object"],
    ]
    assert [problem.code for problem in encoded.problems] == ["no_label"]


def test_polygons_per_piece_with_their_loss():
    encoded = encode(group(), read_config(write_config(2, geometry="polygon")))
    legs = [
        row for row in rows_of(encoded.prediction, "polygonlabels") if row["value"]["polygonlabels"] == ["common part"]
    ]
    assert len(legs) == 4, "two pieces on each image"
    drawn = np.zeros(SIZES[0], np.bool_)
    for row in legs[:2]:
        drawn |= fill_polygon(np.array(row["value"]["points"]) / 100 * (SIZES[0][1], SIZES[0][0]), *SIZES[0])
    assert (drawn == group().regions[1].mask).all(), "three pixels wide, and still exact"
    lost = [problem.message for problem in encoded.problems if problem.code == "polygon_iou"]
    assert len(lost) == 2, "one for each object, whose hole is filled"
    assert "IoU 0.833" in lost[0]


@pytest.mark.parametrize("seed", range(4))
def test_exact_outlines_fill_to_the_mask_but_for_holes(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((17, 23)) < 0.15
    outlines, iou = polygons_of_mask(mask, min_iou=1)
    filled = np.zeros_like(mask)
    for outline in outlines:
        filled |= fill_polygon(outline, *mask.shape)
    assert not (mask & ~filled).any()
    assert iou == pytest.approx(mask.sum() / filled.sum())
    y, x = np.mgrid[:300, :400]
    disc = (x - 200) ** 2 + (y - 150) ** 2 < (100 + 10 * seed) ** 2
    (outline,), iou = polygons_of_mask(disc)
    assert iou > 0.98
    assert len(outline) < 120, "few enough points to edit"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda p: p.update(score="0.5"), "score must be a number"),
        (lambda p: p.update(score=float("nan")), "score must be a number"),
        (lambda p: p["result"][0].update(score=1.5), "score must be a number"),
        (lambda p: p["result"][0].update(to_name="img9"), "to_name 'img9' is no <Image>"),
        (lambda p: p["result"][0].update(from_name="brush2"), "from_name 'brush2' is no control of 'img1'"),
        (lambda p: p["result"][0]["value"].update(brushlabels=["wheel"]), "not among the config's"),
        (lambda p: p["result"][0]["value"].update(brushlabels=[]), "not among the config's"),
        (lambda p: p["result"][0].update(original_width=61), "RLE is not of a 61 x 40"),
        (lambda p: p["result"][2].update(id=p["result"][0]["id"]), "two rows of 'brush1' have this id"),
        (lambda p: p["result"][5].update(id=p["result"][0]["id"]), "its id is on two images"),
        (lambda p: p["result"][-1].update(to_id="nowhere"), "no region has id nowhere"),
    ],
)
def test_faults_are_found_before_answering(fault, says):
    config = read_config(write_config(2))
    prediction = copy.deepcopy(encode(group(), config).prediction)
    validate_prediction(prediction, config)
    fault(prediction)
    with pytest.raises(InputError, match=says):
        validate_prediction(prediction, config)


@pytest.mark.parametrize("layout", ["A", "B"])
@pytest.mark.parametrize("labels", [None, ["chair", "leg", "knob"]], ids=["open", "fixed"])
@pytest.mark.parametrize("geometry", ["brush", "polygon"])
def test_the_hosts_own_validator_finds_no_fault(layout, labels, geometry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is an optional extra")
        xml = write_config(2, layout=layout, labels=labels, geometry=geometry)
        prediction = encode(group(), read_config(xml)).prediction
        assert sdk.LabelInterface(xml).validate_prediction(prediction, return_errors=True) == []
