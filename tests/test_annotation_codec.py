"""Annotations: there and back in every layout, what an annotator changed, rows as Label Studio really writes them."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from old_layouts import write_old_config as write_config
from recorded import FIXTURES, as_saved_by_the_editor, recordings
from test_prediction_codec import LAYOUT_C, SIZES, encode, group

from backend.codecs import brush_rle
from backend.codecs.annotation import Change, compare_with_prediction, decode_annotation
from backend.codecs.config import read_config
from backend.codecs.rows import mask_of_value
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.values import NamedMask, Occurrence, RegionKey

CONFIGS = {
    "A": write_config(3),
    "B": write_config(layout="B"),
    "C": LAYOUT_C,
    "A fixed": write_config(3, labels=["chair", "chair:leg", "leg", "knob", "cushion"]),
    "B fixed": write_config(layout="B", labels=["leg", "knob", "cushion"]),
    "A plain names": write_config(3, labels=["leg", "knob", "cushion", "chair", "ottoman"]),
    "A plain names only": write_config(3, labels=["leg", "knob", "cushion", "chair", "ottoman"]).replace(
        '"object"', '"x"'
    ),
    "no text area": "\n".join(line for line in write_config(3).splitlines() if "<TextArea" not in line),
}


def same(a, b):
    assert a.sizes_hw == b.sizes_hw
    assert set(a.by_key) == set(b.by_key)
    for key, region in a.by_key.items():
        other = b.by_key[key]
        assert (region.mask == other.mask).all(), key
        assert (region.object_name, region.occurrence, region.correspondence, region.correspondence_id) == (
            other.object_name,
            other.occurrence,
            other.correspondence,
            other.correspondence_id,
        )


def relabel(rows, row_id, text):
    for row in rows:
        if row.get("id") == row_id and row["type"] == "textarea":
            row["value"]["text"] = [text]


def ids_by_key(rows, config):
    return {key: ids[0] for key, ids in decode_annotation(rows, config, SIZES[:2]).row_ids.items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sizes", [SIZES, None], ids=["sizes of the images", "sizes of the rows"])
def test_there_and_back(name, sizes):
    """Holes, 3-pixel-wide parts, several pieces, one pixel, a whole image of ones: every mask at IoU 1.0."""
    config, truth = read_config(CONFIGS[name]), group(3)
    encoded = encode(truth, config)
    assert encoded.problems == ()
    for rows in (encoded.prediction["result"], as_saved_by_the_editor(encoded.prediction["result"])):
        decoded = decode_annotation({"result": rows}, config, sizes)
        same(decoded.cosegmentation, truth)
        assert decoded.problems == ()
        assert sum(map(len, decoded.row_ids.values())) == len(truth.regions)


def test_polygons_come_back_but_for_holes():
    config, truth = read_config(write_config(3, geometry="polygon")), group(3)
    decoded = decode_annotation(encode(truth, config).prediction, config, SIZES)
    assert set(decoded.cosegmentation.by_key) == set(truth.by_key)
    for key, region in truth.by_key.items():
        mask = decoded.cosegmentation.by_key[key].mask
        if key.kind == "part":
            assert (mask == region.mask).all()
        else:
            assert mask.sum() == region.mask.sum() + 100, "the hole of 10 x 10 pixels is filled"
    pieces = decoded.row_ids[RegionKey(0, "part", "leg")]
    assert len(pieces) == 2, "two pieces are two rows and one region"


def test_untouched_edited_renamed_deleted_added():
    config = read_config(write_config(2))
    predicted = encode(group(), config).prediction["result"]
    ids = ids_by_key(predicted, config)
    legs, knob = ids[RegionKey(0, "part", "leg")], ids[RegionKey(1, "part", "knob")]
    cushion = ids[RegionKey(1, "part", "cushion")]
    saved = [row for row in as_saved_by_the_editor(predicted) if row.get("id") != knob]
    erased = group().regions[1].mask.copy()
    erased[:, 25:] = False
    for row in saved:
        row["origin"] = "prediction"  # which Label Studio gets wrong for some tags: nothing may hang on it
        if row.get("id") == legs:
            row["value"]["rle"] = brush_rle.encode(erased)
    relabel(saved, cushion, "Pillow")
    added = np.zeros(SIZES[1], np.bool_)
    added[40:50, 3:9] = True
    base = {"id": "new", "to_name": "img2", "original_height": 52, "original_width": 33, "origin": "manual"}
    saved.append({**base, "from_name": "brush2", "type": "brushlabels"})
    saved[-1]["value"] = {"format": "rle", "rle": brush_rle.encode(added), "brushlabels": ["unique part"]}
    saved.append({**base, "from_name": "name2", "type": "textarea", "value": {"text": ["Wheel"]}})

    changes = {change.id: change for change in compare_with_prediction(predicted, saved)}
    assert len(changes) == 7
    assert changes[legs].change is Change.EDITED
    assert changes[legs].iou == pytest.approx(0.5)
    assert (changes[cushion].change, changes[cushion].iou) == (Change.RELABELLED, 1.0)
    assert (changes[knob].change, changes["new"].change) == (Change.DELETED, Change.ADDED)
    assert sum(change.change is Change.KEPT for change in changes.values()) == 3

    decoded = decode_annotation(saved, config, SIZES[:2])
    regions = decoded.cosegmentation.by_key
    assert (regions[RegionKey(0, "part", "leg")].mask == erased).all()
    assert (regions[RegionKey(1, "part", "wheel")].mask == added).all()
    assert regions[RegionKey(1, "part", "pillow")].occurrence is Occurrence.UNIQUE
    assert RegionKey(1, "part", "knob") not in regions
    assert decoded.row_ids[RegionKey(1, "part", "wheel")] == ("new",)
    assert decoded.problems == ()


def test_a_mask_and_a_name_changed_at_once():
    config = read_config(write_config(2))
    predicted = encode(group(), config).prediction["result"]
    saved = copy.deepcopy(predicted)
    saved[2]["value"]["rle"] = brush_rle.encode(np.ones(SIZES[0], np.bool_))
    relabel(saved, saved[2]["id"], "foot")
    change = compare_with_prediction(predicted, saved)[1]
    assert (change.change, change.is_relabelled) == (Change.EDITED, True)
    saved[2]["value"]["rle"] = saved[2]["value"]["rle"][:4]
    assert compare_with_prediction(predicted, saved)[1].iou == 0.0


def test_names_decide_and_disagreeing_labels_are_counted():
    config = read_config(write_config(2))
    rows = encode(group(), config).prediction["result"]
    rows = [row for row in rows if row["type"] != "relation"]
    relabel(rows, ids_by_key(rows, config)[RegionKey(0, "part", "leg")], "The  Foot")
    decoded = decode_annotation(rows, config, SIZES[:2])
    assert decoded.cosegmentation.by_key[RegionKey(0, "part", "foot")].occurrence is Occurrence.UNIQUE
    assert decoded.cosegmentation.by_key[RegionKey(1, "part", "leg")].occurrence is Occurrence.UNIQUE
    assert [problem.code for problem in decoded.problems] == ["occurrence_disagrees"] * 2
    assert decoded.cosegmentation.problems == decoded.problems


def test_a_name_with_two_articles():
    config = read_config(write_config(2))
    rows = encode(group(), config).prediction["result"]
    renamed = ids_by_key(rows, config)[RegionKey(0, "part", "leg")]
    relabel(rows, renamed, "the A pillar")
    decoded = decode_annotation(rows, config, SIZES[:2])
    assert decoded.row_ids[RegionKey(0, "part", "pillar")] == (renamed,)


def test_a_relation_between_two_names_overrides_them():
    config = read_config(write_config(2))
    rows = encode(group(), config).prediction["result"]
    relabel(rows, ids_by_key(rows, config)[RegionKey(0, "part", "leg")], "foot")
    decoded = decode_annotation(rows, config, SIZES[:2])
    foot, leg = (decoded.cosegmentation.by_key[RegionKey(i, "part", name)] for i, name in enumerate(("foot", "leg")))
    assert foot.correspondence == leg.correspondence == (0, 1)
    assert foot.correspondence_id == leg.correspondence_id
    assert [problem.code for problem in decoded.problems] == ["relation_overrides_names"]


def test_relations_that_cannot_be_kept():
    config = read_config(write_config(2))
    rows = encode(group(), config).prediction["result"]
    ids = ids_by_key(rows, config)
    leg, body = ids[RegionKey(0, "part", "leg")], ids[RegionKey(1, "object", "ottoman")]
    rows += [
        {"type": "relation", "from_id": leg, "to_id": body, "direction": "right", "labels": ["same part"]},
        {"type": "relation", "from_id": leg, "to_id": "gone", "direction": "bi"},
        {"type": "relation", "from_id": leg, "to_id": ids[RegionKey(1, "part", "knob")], "labels": ["is above"]},
    ]
    decoded = decode_annotation(rows, config, SIZES[:2])
    assert [problem.code for problem in decoded.problems] == ["relation_of_kinds", "relation_without_region"]
    same(decoded.cosegmentation, group())


def rows_for(*regions):
    """(id, image 1 or 2, label, text, notes) with one 4 x 4 square each."""
    rows = []
    for place, (row_id, image, label, text, notes) in enumerate(regions):
        base = {"id": row_id, "to_name": f"img{image}", "original_height": 40, "original_width": 40}
        square = np.zeros((40, 40), np.bool_)
        square[4 * place : 4 * place + 4, :4] = True
        value = {"format": "rle", "rle": brush_rle.encode(square), "brushlabels": [label] if label else []}
        rows.append({**base, "from_name": f"brush{image}", "type": "brushlabels", "value": value})
        if notes:
            rows[-1]["meta"] = {"text": notes}
        if text:
            rows.append({**base, "from_name": f"name{image}", "type": "textarea", "value": {"text": text}})
    return rows


def open_pair(*regions):
    return decode_annotation(rows_for(*regions), read_config(write_config(2)), [(40, 40)] * 2)


def test_the_object_of_a_part():
    drawn = open_pair(("a", 1, "object", ["Mug"], ["cup"]), ("b", 1, "unique part", ["handle"], ["cup"]))
    assert {region.object_name for region in drawn.cosegmentation.regions} == {"mug"}, "the object region wins"
    noted = open_pair(("b", 1, "unique part", ["handle"], ["Cup"]), ("c", 1, "object", None, None))
    assert {region.object_name for region in noted.cosegmentation.regions} == {"cup"}, "then the note"
    assert noted.problems == ()
    unknown = open_pair(("b", 1, "unique part", ["handle"], None))
    assert unknown.cosegmentation.regions[0].object_name == "object"
    assert [problem.code for problem in unknown.problems] == ["no_object_name"]
    two = open_pair(("a", 1, "object", ["mug"], None), ("b", 1, "object", ["jar"], None))
    assert [problem.code for problem in two.problems] == ["several_objects"]
    assert two.cosegmentation.regions[0].mask.sum() == 32


def test_regions_of_one_name_on_one_image_are_united():
    drawn = open_pair(
        ("a", 1, "common part", ["leg"], ["cup"]),
        ("b", 1, "common part", ["Leg "], ["cup"]),
        ("c", 2, "common part", ["leg"], ["cup"]),
    )
    assert drawn.row_ids == {RegionKey(0, "part", "leg"): ("a", "b"), RegionKey(1, "part", "leg"): ("c",)}
    assert drawn.cosegmentation.regions[0].mask.sum() == 32
    assert drawn.problems == ()


def test_what_cannot_be_read_becomes_a_problem_and_the_rest_stays():
    rows = rows_for(
        ("good", 1, "unique part", ["lid"], ["pot"]),
        ("nameless", 1, "unique part", None, ["pot"]),
        ("unlabelled", 1, None, None, ["pot"]),
        ("elsewhere", 7, "unique part", ["lid"], ["pot"]),
        ("damaged", 1, "unique part", ["rim"], ["pot"]),
        ("resized", 1, "unique part", ["base"], ["pot"]),
        ("turned", 1, "unique part", ["foot"], ["pot"]),
        ("erased", 1, "unique part", ["spout"], ["pot"]),
    )
    by_id = {row["id"]: row for row in reversed(rows)}
    by_id["damaged"]["value"]["rle"] = by_id["damaged"]["value"]["rle"][:-6]
    by_id["resized"]["original_width"] = 41
    by_id["turned"]["image_rotation"] = 90
    by_id["erased"]["value"]["rle"] = brush_rle.encode(np.zeros((40, 40), np.bool_))
    rows += ["nonsense", {"type": "brushlabels", "id": "x"}]
    rows.append({"id": "point", "to_name": "img1", "type": "keypointlabels"})
    rows[-1]["value"] = {"x": 1, "y": 2, "width": 3, "keypointlabels": ["object"]}
    decoded = decode_annotation(rows, read_config(write_config(2)), [(40, 40)] * 2)
    assert list(decoded.row_ids) == [RegionKey(0, "part", "lid")]
    told = {
        code: [p.message for p in decoded.problems if p.code == code] for code in {p.code for p in decoded.problems}
    }
    assert {code: len(messages) for code, messages in told.items()} == {
        "malformed_row": 2,
        "unknown_image": 1,
        "unreadable_region": 6,
        "leftover_prompt": 1,
    }
    wanted = [
        "has no name",
        "neither a label nor a name",
        "brush RLE",
        "was it replaced",
        "turned by 90",
        "nothing of it",
    ]
    for message, part in zip(told["unreadable_region"], wanted, strict=True):
        assert part in message


def test_an_annotation_of_another_page_of_layout_b():
    config = read_config(write_config(layout="B"))
    rows = encode(group(3), config).prediction["result"]
    decoded = decode_annotation(rows, config, SIZES[:2])
    assert [problem.code for problem in decoded.problems].count("unknown_image") == 2
    assert decoded.cosegmentation.sizes_hw == tuple(SIZES[:2])
    rows[0]["item_index"] = 10**12  # before anything of that length is made
    assert "unknown_image" in [problem.code for problem in decode_annotation(rows, config).problems]


@pytest.mark.parametrize(
    ("annotation", "sizes", "says"),
    [
        ({}, [(4, 4)] * 2, "expected a list of rows, got NoneType"),
        ({"result": []}, None, "image 1: no row tells its size"),
        (rows_for(("a", 1, "object", ["mug"], None)), None, "image 2: no row tells its size"),
        ([{**rows_for(("a", 1, "object", ["mug"], None))[0], "original_width": 10**9}], None, "the limit is"),
    ],
    ids=["no rows", "empty", "no region on image 2", "absurd size"],
)
def test_what_cannot_be_decoded_at_all(annotation, sizes, says):
    with pytest.raises(InputError, match=says):
        decode_annotation(annotation, read_config(write_config(2)), sizes)


@pytest.mark.parametrize(
    ("value", "area"),
    [
        ({"x": 10, "y": 20, "width": 30, "height": 50, "rotation": 0}, 30 * 100),
        ({"x": 50, "y": 50, "width": 20, "height": 10, "rotation": 90}, 20 * 20),
        ({"x": 50, "y": 50, "radiusX": 20, "radiusY": 20, "rotation": 30}, np.pi * 20 * 40),
        ({"points": [[0, 0], [50, 0], [0, 50]], "closed": True}, 50 * 100 / 2),
        ({"x": 90, "y": 90, "width": 30, "height": 50}, 10 * 20),
    ],
    ids=["box", "turned box", "turned ellipse", "polygon", "over the edge"],
)
def test_shapes_in_percent(value, area):
    assert mask_of_value(value, (200, 100)).sum() == pytest.approx(area, rel=0.03)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300, None, "x", [1]])
def test_damaged_shapes_are_refused(bad):
    for value in ({"x": bad, "y": 1, "width": 2, "height": 3}, {"points": [[0, 0], [1, 1], [bad, 2]]}):
        with pytest.raises(InputError, match="shape: "):
            mask_of_value(value, (20, 10))


# What Label Studio itself wrote.

RECORDINGS = recordings()


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recorded_correction_says_what_was_changed(name):
    recording = RECORDINGS[name]
    config, predicted = read_config(recording.config), recording.prediction["result"]
    changes = compare_with_prediction(predicted, recording.annotation["result"])
    changed = {change.id for change in changes if change.change is not Change.KEPT}
    assert {change.change for change in changes if change.id in changed} <= {Change.EDITED}
    assert len(changed) == recording.num_edited
    before, after = decode_annotation(predicted, config), decode_annotation(recording.annotation, config)
    assert before.row_ids == after.row_ids
    for key, region in before.cosegmentation.by_key.items():
        is_same = (region.mask == after.cosegmentation.by_key[key].mask).all()
        assert is_same == (after.row_ids[key][0] not in changed)
    key, size_hw = recording.landmark
    landmark = after.cosegmentation.by_key[key]
    assert landmark.mask.shape == size_hw
    assert landmark.occurrence is Occurrence.COMMON


def test_tool_rows_and_label_rows_are_one_region():
    """Each shape lies in two rows of one id: counted twice, the disc would not be what it is."""
    config = read_config((FIXTURES / "label_studio" / "tools.xml").read_text())
    annotation = json.loads((FIXTURES / "label_studio" / "tools.task.json").read_text())["annotations"][0]
    decoded = decode_annotation(annotation, config)
    assert {region.name for region in decoded.cosegmentation.regions} == {"planet", "rover"}
    assert [p.code for p in decoded.problems].count("leftover_prompt") == 1, "a key point has no area"
    rows, columns = np.mgrid[:40, :60] + 0.5
    disc = np.hypot(rows - 20.5, columns - 30.5) < 12
    shapes = {
        "planet": ((columns > 6) & (columns < 18) & (rows > 4) & (rows < 16))
        | (((columns - 30) / 6) ** 2 + ((rows - 20) / 6) ** 2 < 1)
        | disc,
        "rover": np.abs(columns - 12) < 6 * (36 - rows) / 12 * (rows > 24),
    }
    for region in decoded.cosegmentation.regions:
        assert (region.mask & shapes[region.name]).sum() / (region.mask | shapes[region.name]).sum() > 0.9


def test_brush_and_polygon_of_one_shape():
    """The same disc as a brush and as a polygon of its edge, which has no size of its own."""
    rows, columns = np.mgrid[:57, :76] + 0.5
    disc = np.hypot(rows - 30, columns - 35) < 20
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = np.stack([35 + 20 * np.cos(angles), 30 + 20 * np.sin(angles)], 1) / [0.76, 0.57]
    a = mask_of_value({"format": "rle", "rle": brush_rle.encode(disc)}, (57, 76))
    b = mask_of_value({"points": points.tolist()}, (57, 76))
    assert np.array_equal(a, disc)
    assert (a & b).sum() / (a | b).sum() > 0.95


def test_a_hand_made_group_without_ids():
    rows = [
        {key: value for key, value in row.items() if key != "id"}
        for row in rows_for(("a", 1, "object", None, ["mug"]), ("b", 2, "object", None, ["mug"]))
    ]
    decoded = decode_annotation(rows, read_config(write_config(2)), [(40, 40)] * 2)
    assert [region.occurrence for region in decoded.cosegmentation.regions] == [Occurrence.COMMON] * 2
    expected = co_segmentation(
        [(40, 40)] * 2, [NamedMask(r.image, "mug", None, r.mask) for r in decoded.cosegmentation.regions]
    )
    same(decoded.cosegmentation, expected)
