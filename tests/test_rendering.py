"""The room `rendering/` without Blender: shapes, OBJ files, cuts, layouts, and masks that `calico mixedparts` reads."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.errors import InputError
from calico.mixedparts.paco import read_paco
from calico.mixedparts.records import ReadReport
from rendering import render
from rendering.catalogue import Catalogue
from rendering.cutting import cut, parse
from rendering.developing import developed
from rendering.generators import GENERATORS, key_of, make, split_of
from rendering.layout import SENSOR_MM, Placed, _corners, lay_out, weights_of
from rendering.masks import LEAST_PIXELS, Region, ids_of, object_rows, write_paco
from rendering.model import Finish, Mesh, Model, Part, is_watertight, volume
from rendering.obj_files import read_obj
from rendering.obj_library import ObjLibrary, read_table
from rendering.shapes import box, lathe, prism, shell

GREY = Finish("paint", (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", list(GENERATORS))
def test_a_generator_gives_watertight_named_parts(name: str) -> None:
    for number in range(3):
        model = make(name, number)
        assert model.object_name == name
        assert all(part.name for part in model.parts)
        assert len({part.name for part in model.parts}) > 1
        for part in model.parts:
            assert is_watertight(part.mesh), part.name
            assert volume(part.mesh) > 0, part.name  # its faces look outwards
        low, high = model.in_unit_box().box
        assert low[2] == pytest.approx(0)
        assert (high - low).max() == pytest.approx(1)
    again = make(name, 2)
    np.testing.assert_array_equal(again.parts[0].mesh.vertices, make(name, 2).parts[0].mesh.vertices)
    assert make(name, 0).parts[0].mesh.vertices.tolist() != again.parts[0].mesh.vertices.tolist()


def test_some_shapes_of_each_class_are_kept_for_validation() -> None:
    for name in ("mug", "chair"):
        splits = [split_of(key_of(name, number)) for number in range(60)]
        assert 2 <= splits.count("val") <= 16


def test_shapes_have_the_volume_they_should() -> None:
    assert volume(box(1, 2, 3)) == pytest.approx(6)
    assert volume(lathe([(0, 0), (1, 0), (1, 2), (0, 2)], 400)) == pytest.approx(2 * np.pi, rel=1e-3)
    wall = volume(shell([(0, 0), (1, 0), (1, 1)], 0.1))
    assert 0.1 * np.pi < wall < np.pi / 2
    assert not is_watertight(Mesh(box(1, 1, 1).vertices, box(1, 1, 1).faces[:-1]))
    assert volume(box(1, 1, 1).mirrored("x").turned("z", 30).moved(5, 5, 5)) == pytest.approx(1)
    with pytest.raises(ValueError, match="axis"):
        lathe([(0.5, 0), (0.5, 1), (0, 1)])
    with pytest.raises(ValueError, match="as many points"):
        prism([(0, 0), (1, 0), (1, 1)], 1, [(0, 0), (1, 0), (1, 1), (0, 1)])


OBJ = """mtllib m.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
o Seat Plane
usemtl red wood
f 1/1 2/2 3/3
f 3 2 1
f -5//1 3//1 5//1
o Legs
f 1 2 3 4
"""


def test_an_obj_is_read_by_unit(tmp_path: Path) -> None:
    (tmp_path / "m.obj").write_text(OBJ)
    Image.new("RGB", (2, 2)).save(tmp_path / "wood grain.png")
    (tmp_path / "m.mtl").write_text("newmtl red wood\nKd 0.5 0.25 0.125\nNs 50\nmap_Kd -s 1 1 1 wood grain.png\n")
    units, finishes = read_obj(tmp_path / "m.obj")
    assert list(units) == ["Seat Plane|red wood", "Legs|red wood"]
    seat = units["Seat Plane|red wood"]
    assert len(seat.faces) == 2  # the doubled one is gone
    assert len(seat.vertices) == 4  # points at one place are one
    assert seat.vertices[:, 2].max() == 1  # y was up
    assert seat.uvs[0].tolist() == [[0, 0], [1, 0], [1, 1]]
    finish = finishes["red wood"]
    assert (finish.kind, finish.rgb, finish.texture) == ("plastic", (0.5, 0.25, 0.125), tmp_path / "wood grain.png")
    (tmp_path / "bad.obj").write_text("v 0 0 0\nf 1 2 3\n")
    with pytest.raises(InputError, match="line 2"):
        read_obj(tmp_path / "bad.obj")


def test_a_picture_outside_the_folder_is_not_taken(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "m.mtl").write_text("newmtl a\nmap_Kd ../secret.png\nnewmtl b\nmap_Kd lost.png\n")
    (tmp_path / "lib" / "m.obj").write_text("mtllib m.mtl\n")
    _, finishes = read_obj(tmp_path / "lib" / "m.obj")
    assert [finish.texture for finish in finishes.values()] == [None, None]


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("z>0.6", [False, True, False]),
        ("", [True, True, True]),
        ("(x<0.2)|(z>0.6)", [True, True, False]),
        ("x<0.2&z<0.5|y>0.8", [True, False, True]),  # & before |
        ("(z>0.285)&((x<0.3)|(x>0.7))", [False, True, False]),
    ],
)
def test_a_condition_is_what_it_says(text: str, held: list[bool]) -> None:
    places = np.array([[0.1, 0.5, 0.2], [0.9, 0.5, 0.9], [0.5, 0.9, 0.1]])
    assert parse(text).holds(places).tolist() == held


@pytest.mark.parametrize("text", ["z=1", "(z>1", "z>1)", "z>1 x<2", "&", "import os"])
def test_what_is_no_condition_is_said(text: str) -> None:
    with pytest.raises(InputError, match="cut"):
        parse(text)


def test_a_cut_is_exact_and_loses_nothing() -> None:
    whole = box(1, 1, 2)
    low, high = whole.vertices.min(0), whole.vertices.max(0)
    pieces = cut(whole, [("z>0.75", "back"), ("", "seat")], low, high)
    assert [name for name, _ in pieces] == ["back", "seat"]
    tops = {name: mesh.vertices[[k for face in mesh.faces for k in face]][:, 2] for name, mesh in pieces}
    assert (tops["back"].min(), tops["seat"].max()) == (pytest.approx(1.5), pytest.approx(1.5))
    assert sum(_area(mesh) for _, mesh in pieces) == pytest.approx(_area(whole)) == pytest.approx(10)


def _area(mesh: Mesh) -> float:
    total = 0.0
    for face in mesh.faces:
        a, rest = mesh.vertices[face[0]], mesh.vertices[list(face[1:])] - mesh.vertices[face[0]]
        assert a.shape == (3,)
        total += float(np.linalg.norm(np.cross(rest[:-1], rest[1:]), axis=1).sum()) / 2
    return total


def library(tmp_path: Path) -> ObjLibrary:
    with zipfile.ZipFile(tmp_path / "Lib.sh3f", "w") as file:
        file.writestr("things/stool/stool.obj", OBJ)
        file.writestr("things/other/other.obj", OBJ)
        file.writestr("../evil.obj", OBJ)
    row = {
        "lib": "Lib", "model": "/things/stool/stool.obj", "object": "stool", "split": "val", "credit": "A, CC0",
        "units": {"Legs|red wood": "leg"}, "rest": None,
        "cuts": {"Seat Plane|red wood": [["x>0.5", "seat"], ["", "back"]]},
    }  # fmt: skip
    hanging = {**row, "model": "/things/other/other.obj", "mount": "ceiling"}
    away = {**row, "lib": "Away"}
    (tmp_path / "table.jsonl").write_text("\n".join(json.dumps(each) for each in (row, hanging, away)) + "\n")
    return ObjLibrary(tmp_path / "table.jsonl", tmp_path, None, tmp_path / "unpacked")


def test_a_library_gives_models_by_its_table(tmp_path: Path) -> None:
    found = library(tmp_path)
    assert [row.key for row in found.there()] == ["Lib/things/stool/stool.obj", "Lib/things/other/other.obj"]
    model = found.load("Lib/things/stool/stool.obj")
    assert [part.name for part in model.parts] == ["seat", "back", "leg"]
    assert (model.split, model.credit) == ("val", "A, CC0")
    assert not (tmp_path / "unpacked" / "Lib" / "things" / "other").exists()  # only what is asked for
    catalogue = Catalogue(found, ["mug"], 4)
    assert catalogue.classes == ["mug", "stool"]
    rng = np.random.default_rng(0)
    assert {catalogue.draw(rng, "val").split for _ in range(8)} == {"val"}
    with pytest.raises(InputError, match="no models of gong"):
        Catalogue(found, ["mug"], 4, ["gong"])
    with pytest.raises(InputError, match="no library Away"):
        found.load("Away/things/stool/stool.obj")
    (tmp_path / "bad.jsonl").write_text('{"lib": 1}\n')
    with pytest.raises(InputError, match="line 1"):
        read_table(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("seed", range(12))
def test_the_thing_is_in_the_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shot = lay_out(make("hammer", seed), make("mug", seed), rng, 7)
    camera = shot.camera
    assert camera.matrix[:3, :3] @ camera.matrix[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)
    seen = (_corners(shot.things[0]) - camera.matrix[:3, 3]) @ camera.matrix[:3, :3]
    assert (seen[:, 2] < 0).all()  # in front of the camera
    frame = np.abs(seen[:, :2] / -seen[:, 2:] * camera.focal / (SENSOR_MM / 2))
    assert 0.5 < frame.max() < 1.6
    first, second = (_corners(thing) for thing in shot.things)
    apart = np.linalg.norm(np.array(shot.things[1].at[:2]))
    assert apart > 0.2
    assert second[:, 2].min() == pytest.approx(0)
    assert isinstance(shot.things[1], Placed)
    assert first[:, 2].min() == pytest.approx(0)


def test_classes_with_one_model_are_drawn_less() -> None:
    found = weights_of([1, 4, 16])
    np.testing.assert_allclose(found, np.array([0.5, 2, 4]) / 6.5)


def test_ids_become_masks_that_mixedparts_reads_back(tmp_path: Path) -> None:
    ids = np.zeros((40, 50), np.float32)
    ids[5:20, 5:30] = 1  # seat
    ids[20:35, 5:10], ids[20:35, 25:30] = 2, 3  # two legs, of one name
    ids[0, 0:LEAST_PIXELS] = 4  # unnamed
    ids[38, 40:44] = 5  # of another thing, too few to count
    regions = {
        1: Region(0, "seat"), 2: Region(0, "leg"), 3: Region(0, "leg"), 4: Region(0, None), 5: Region(1, "body"),
    }  # fmt: skip
    rows, unnamed = object_rows(ids_of(ids), regions, ["stool", "mug"])
    assert [(row["object"], row["part"], row["area"]) for row in rows] == [
        ("stool", None, 375 + 150 + LEAST_PIXELS), ("stool", "leg", 150), ("stool", "seat", 375),
    ]  # fmt: skip
    assert unnamed == pytest.approx(LEAST_PIXELS / 533)
    path = tmp_path / "paco_train.json"
    picture = {"file_name": "000000.jpg", "width": 50, "height": 40, "rows": rows}
    assert write_paco(path, [picture, {**picture, "file_name": "000001.jpg"}], {}) == (2, 6)
    report = ReadReport("paco")
    records = list(read_paco(path, split="train", report=report))
    assert [record.object_name for record in records] == ["stool", "stool"]
    assert sorted(part.name for part in records[0].parts) == ["leg", "seat"]
    assert not report.skipped
    with pytest.raises(ValueError, match="between two numbers"):
        ids_of(ids + 0.3)


@pytest.mark.parametrize("exposure", [1e-3, 1.0, 1e3])
def test_no_picture_is_dark_or_blown_out(exposure: float) -> None:
    light = np.random.default_rng(0).gamma(1.5, exposure, (32, 32, 3))
    for seed in range(6):
        shown = developed(light, np.random.default_rng(seed))
        assert shown.dtype == np.uint8
        assert 60 < shown.mean() < 210
        assert (shown == 255).mean() < 0.2
    assert developed(np.zeros((4, 4, 3)), np.random.default_rng(0)).shape == (4, 4, 3)


def fake_one(args: argparse.Namespace, catalogue: Catalogue, number: int) -> None:
    """As `render_one`, without a picture."""
    model = catalogue.draw(np.random.default_rng([args.seed, number]))
    ids = np.ones((args.size, args.size), int)
    rows, _ = object_rows(ids, {1: Region(0, model.parts[0].name)}, [model.object_name])
    Image.new("RGB", (args.size, args.size)).save(args.out / "images" / f"{number:06d}.jpg")
    kept = {
        "file_name": f"{number:06d}.jpg", "width": args.size, "height": args.size, "split": model.split, "rows": rows,
        "left_out": "unnamed" if number == 1 else "",
        "models": [{"object": model.object_name, "model": model.key, "credit": model.credit}],
    }  # fmt: skip
    (args.out / "rows" / f"{number:06d}.json").write_text(json.dumps(kept))


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def one(args: argparse.Namespace, catalogue: Catalogue, number: int) -> None:
        made.append(number)
        if number == 3 and made.count(3) == 1:
            raise KeyboardInterrupt
        fake_one(args, catalogue, number)

    monkeypatch.setattr(render, "render_one", one)
    monkeypatch.setattr(render, "need_blender", lambda: None)
    out = tmp_path / "set"
    options = ["--out", str(out), "--size", "16", "--num-images", "16"]
    assert render.main(options) == 130
    assert render.main(options) == 0
    assert made == [0, 1, 2, 3, *range(3, 16)]
    assert "15 images" in capsys.readouterr().out  # one was left out
    counts = {split: len(json.loads((out / f"paco_{split}.json").read_text())["images"]) for split in ("train", "val")}
    assert sum(counts.values()) == 15
    assert counts["val"] > 0
    lines = (out / "CREDITS.tsv").read_text().splitlines()
    assert lines[1].endswith("1")
    assert "Apache-2.0" in lines[1]
    assert render.main([*options, "--seed", "1"]) == 2
    assert "begun with --seed 0" in capsys.readouterr().err
    assert render.main(["--out", str(out), "--no-procedural"]) == 2
    assert render.main(["--out", str(tmp_path / "x"), "--table", "t.jsonl"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a-file"], "a-file: is a file"),
        (["--out", "set"], "bpy does not load"),
        (["--out", "set", "--num-images", "0"], "--num-images is above 0, got 0"),
        (["--out", "set", "--objects", "gong"], "no models of gong"),
        (["--out", "set", "--table", "a-file", "--library", "away"], "away: no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "bpy", None)  # as where it is not installed
    Path("a-file").touch()
    assert render.main(options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("set").exists()


def test_a_model_remembers_where_it_is_from() -> None:
    part = Part("body", box(0.1, 0.1, 0.2), GREY, bevel=0.01)
    model = Model("mug", "a/b", (part,), "me, CC0").in_unit_box()
    assert model.parts[0].bevel == pytest.approx(0.05)
    assert model.key == "a/b"
