"""Labeling configs: the three layouts, both vocabularies, what is written is read, and bad ones are named."""

from __future__ import annotations

import re
import warnings
from functools import partial

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from old_layouts import write_old_config
from recorded import recordings

from backend.codecs.config import MAX_XML_CHARS, read_config, task_images, write_config
from backend.codecs.controls import Label, names_of_label, role
from calico.errors import InputError

READY = sorted((ROOT / "labeling_config").glob("*.xml"))
BRUSH = '<BrushLabels name="b" toName="i"><Label value="leg"/></BrushLabels>'
REPEATER = """<View><Repeater on="$shots" indexFlag="{{n}}"><View>
  <Image name="img_{{n}}" value="$shots[{{n}}].url"/>
  <PolygonLabels name="poly_{{n}}" toName="img_{{n}}"><Label value="object"/><Label value="part"/></PolygonLabels>
  <TextArea name="name_{{n}}" toName="img_{{n}}" perRegion="true"/>
</View></Repeater><Relations/></View>"""


def xml(body):
    return f"<View>{body}</View>"


@pytest.mark.parametrize("write", [partial(write_config, naming="text", arrows=True), write_old_config])
def test_layout_a_open_vocabulary(write):
    config = read_config(write(3))
    assert (config.layout, config.num_images, config.vocabulary, config.relation) == ("A", 3, "open", "same part")
    third = config.controls(2)
    assert (third.image, third.region, third.text, third.choices) == ("img3", "brush3", "name3", None)
    assert third.geometry == "brush"
    assert [role(label.value) for label in third.labels] == ["object", "common", "unique"]
    assert config.candidates() == ()
    assert [config.image_of(name) for name in ("img1", "img3", "img4")] == [0, 2, None]
    assert task_images(config, {"image1": "a", "image2": "b", "image3": "c"}) == ["a", "b", "c"]
    with pytest.raises(InputError, match="shows 3 images, got image 4"):
        config.controls(3)


@pytest.mark.parametrize("write", [write_config, write_old_config])
def test_layout_b_fixed_vocabulary(write):
    config = read_config(write(layout="B", labels=["chair", "chair:leg", "chair:seat"], geometry="polygon"))
    assert (config.layout, config.num_images, config.vocabulary) == ("B", None, "fixed")
    assert config.controls(5).geometry == "polygon"
    assert config.controls(5).choice_values == ("common", "unique")
    assert config.candidates() == ("chair", "leg", "seat")
    assert [config.image_of("img", 7), config.image_of("img"), config.image_of("other", 0)] == [7, 0, None]
    assert task_images(config, {"images": ["a", "b"]}) == ["a", "b"]


def test_layout_c_names_carry_the_index():
    config = read_config(REPEATER)
    assert (config.layout, config.num_images, config.relation) == ("C", None, "same part")
    assert (config.controls(4).image, config.controls(4).region, config.controls(4).text) == (
        "img_4",
        "poly_4",
        "name_4",
    )
    assert [config.image_of(name) for name in ("img_0", "img_12", "img_x", "img")] == [0, 12, None, None]
    assert task_images(config, {"shots": [{"url": "a"}, {"url": "b"}]}) == ["a", "b"]
    with pytest.raises(InputError, match=r"no '\$url'"):
        task_images(config, {"shots": [{"path": "a"}]})


RECORDINGS = recordings()


@pytest.mark.parametrize("name", RECORDINGS)
def test_layouts_as_label_studio_accepted_them(name):
    recording = RECORDINGS[name]
    config = read_config(recording.config)
    assert (config.layout, config.vocabulary, config.relation) == (recording.layout, "open", "same part")
    controls = config.controls(1)
    assert (controls.smart_keypoint, controls.choices) == (recording.smart, recording.choices)
    assert controls.text is not None


@pytest.mark.parametrize("write", [write_config, write_old_config])
def test_smart_tools(write):
    controls = read_config(write(2, smart=True)).controls(1)
    assert (controls.smart_keypoint, controls.smart_rectangle) == ("keypoint2", "rectangle2")
    assert read_config(write(2, smart=False)).controls(1).smart_keypoint is None


def test_the_groups_own_names_are_the_labels_of_all_tools():
    """One row of labels for each image; what they do not name is typed, and must be."""
    text = write_config(2)
    config = read_config(text)
    assert (config.layout, config.vocabulary, config.relation) == ("A", "group", None)
    first = config.controls(0)
    assert (first.regions[0].tag, first.region, first.labels_name) == ("Brush", "brush1", "part1")
    assert first.labels_keys == ("$parts",)
    assert (first.text, first.question) == ("name1", "ask")
    assert text.count("<Labels") == 2
    assert text.count('required="true" requiredMessage="Every region needs a name"') == 2
    assert config.candidates({"parts": [{"value": "wheel", "hint": "part"}]}) == ()
    assert read_config(write_config(2, arrows=True)).relation == "same part"


def test_a_long_vocabulary_is_kept_beside_the_labels():
    names = ["chair", "lamp", *(f"chair:part {i}" for i in range(12))]
    config = read_config(write_config(2, labels=names))
    assert config.vocabulary == "group"
    assert config.candidates() == ("object", "chair", "lamp", *(f"part {i}" for i in range(12)))[1:]
    assert read_config(write_config(2, labels=names[:8])).vocabulary == "fixed"


def test_a_part_has_one_colour_whatever_its_object():
    colors = dict(
        re.findall(r'<Label value="([^"]+)" background="([^"]+)"', write_config(2, labels=["a:leg", "b:leg", "b:x"]))
    )
    assert colors["a:leg"] == colors["b:leg"] != colors["b:x"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 8),
    st.sampled_from("AB"),
    st.none() | st.lists(st.text("abcÄ <>&\"':", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["brush", "polygon"]),
    st.booleans(),
)
def test_what_is_written_is_read(num_images, layout, labels, smart, geometry, is_new):
    write = write_config if is_new else write_old_config
    config = read_config(write(num_images, layout=layout, labels=labels, smart=smart, geometry=geometry))
    assert (config.layout, config.num_images) == (layout, num_images if layout == "A" else None)
    assert config.controls(0).geometry == geometry
    assert (config.controls(0).smart_rectangle is not None) == smart
    if labels is not None:
        assert {" ".join(label.split()) for label in labels} <= {label.value for label in config.labels}


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_files_are_read_and_valid_for_the_host(path):
    config = read_config(path.read_text())
    assert config.vocabulary == ("fixed" if path.stem == "fixed_vocabulary" else "group")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interface = pytest.importorskip(
            "label_studio_sdk.label_interface", reason="label-studio-sdk is an optional extra"
        )
        interface.LabelInterface(path.read_text()).validate()


def test_all_ready_files_are_there():
    assert [path.stem for path in READY] == ["any_size", "fixed_vocabulary", "pair"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("chair:leg", ("chair", "leg")),
        ("Chair: Leg", ("chair", "leg")),
        ("chair back", ("chair", "back")),
        ("chair", ("chair", None)),
        ("snake", ("snake", None)),
        ("object", (None, None)),
        ("front_wheel", (None, "front wheel")),
        ("armchair", (None, "armchair")),
    ],
)
def test_names_that_labels_say(value, names):
    values = ["object", "chair", "Chair: Leg", "chair:leg", "chair back", "front_wheel", "armchair"]
    labels = [*map(Label, values), Label("snake", hint="object")]
    assert names_of_label(next(label for label in labels if label.value == value), labels) == names


def test_aliases_synonyms_and_dynamic_labels():
    body = """<Image name="i" value="$a"/><BrushLabels name="b" toName="i" value="$parts">
      <Label value="Leg" alias="leg" predicted_values="foot, limb"/></BrushLabels>"""
    config = read_config(xml(body))
    assert config.labels == (Label("leg", ("foot", "limb"), caption="Leg"),)
    assert config.vocabulary == "fixed"
    assert config.candidates({"a": "x", "parts": [{"value": "Seat"}, "arm"]}) == ("object", "leg", "seat", "arm")
    with pytest.raises(InputError, match=r"no '\$parts'"):
        config.known_labels(0, {"a": "x"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected XML"),
        ("<View>", "not well-formed"),
        (xml(BRUSH), "no <Image"),
        (xml('<Image name="i" value="$a"/>'), 'no brush or polygon draws on <Image name="i">'),
        (xml('<Image name="i" value="$a"/><Image name="k" value="$b"/>' + BRUSH), '<Image name="k">'),
        (xml('<Image name="i" value="$a"/><RectangleLabels name="r" toName="i"/>'), "no brush or polygon"),
        (xml('<Image name="i" value="$a"/><BrushLabels name="b" toName="i"/>'), "no <Label>"),
        (xml('<Image name="i" value="$a"/><Brush name="b" toName="i"/>'), "has no <Labels>"),
        (xml('<Image name="i" value="photo.jpg"/>' + BRUSH), r"expected \"\$key\""),
        (xml('<Image name="i" valueList="$a"/><Image name="k" value="$b"/>' + BRUSH), "2 <Image> tags"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + xml(BRUSH), "DOCTYPE"),
        (xml(" " * MAX_XML_CHARS), "the limit is"),
    ],
)
def test_configs_that_cannot_work_are_refused(text, says):
    with pytest.raises(InputError, match=says):
        read_config(text)


@pytest.mark.parametrize(
    ("layout", "data", "says"),
    [
        ("A", {"image1": "a"}, r"no '\$image2' \(its keys: image1\)"),
        ("A", {}, "its keys: none"),
        ("A", {"image1": "a", "image2": None}, "image 2 of the task: expected an address"),
        ("A", ["a"], "expected an object, got list"),
        ("B", {"images": "a"}, "expected a list"),
        ("B", {"images": ["a", ""]}, "image 2 of the task"),
    ],
)
def test_tasks_without_their_images_are_refused(layout, data, says):
    with pytest.raises(InputError, match=says):
        task_images(read_config(write_config(2, layout=layout)), data)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_images": 1}, "2 to 8 images, got 1"),
        ({"num_images": 9}, "use layout B"),
        ({"num_images": 2, "layout": "C"}, "expected A .* or B"),
        ({"num_images": 2, "geometry": "box"}, "one of brush, bitmask, polygon"),
        ({"num_images": 2, "naming": "labels"}, "group or text"),
        ({"num_images": 2, "labels": [" "]}, "at least one name"),
        ({"num_images": 2, "labels": ["$leg"]}, "cannot start with"),
    ],
)
def test_configs_that_cannot_be_written(arguments, says):
    with pytest.raises(InputError, match=says):
        write_config(**arguments)
