"""COCO files, lists, pictures and paths as people reported them elsewhere: each read for what it means."""

from __future__ import annotations

import io
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.coco.images import FolderImages
from backend.coco.import_tasks import CocoImporter, ImagePlaces
from backend.coco.task_files import file_name_of
from backend.codecs.config import read_config, task_images, write_config
from backend.codecs.task_data import address_below
from calico.coco.dataset import NamingOptions, parse_coco, read_coco
from calico.coco.names import families_of, read_category
from calico.coco.orientation import read_header
from calico.coco.rows import row_id
from calico.data.image_files import ImageFolder, relative_names, upload_name
from calico.data.loose_images import find_images, read_list
from calico.errors import InputError
from calico.images import load_image
from scripts import import_coco, project

REPORTS = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "reports"
BOX = [[10, 8, 50, 8, 50, 40, 10, 40]]
LEG = [[12, 10, 22, 10, 22, 30, 12, 30]]


def reported(case: str) -> Path:
    path = REPORTS / case
    if not path.exists():
        pytest.skip("the collection of reported files is not beside the repository")
    return path


def coco(**changes: Any) -> dict[str, Any]:
    """Two images of a chair with a leg. changes: replace a list of the document."""
    document: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 48, "width": 64} for n in (1, 2)],
        "categories": [{"id": 1, "name": "chair"}, {"id": 2, "name": "chair:leg"}],
        "annotations": [
            {"id": 2 * n + k, "image_id": n, "category_id": k + 1, "segmentation": (BOX, LEG)[k], "iscrowd": 0}
            for n in (1, 2)
            for k in (0, 1)
        ],
    }
    return document | changes


def names_of(dataset: Any) -> set[tuple[Any, str, str | None]]:
    return {(item.image.id, item.object_name, part) for item in dataset.objects for part in item.part_names}


CHAIRS = {(1, "chair", None), (1, "chair", "leg"), (2, "chair", None), (2, "chair", "leg")}


@pytest.mark.parametrize("spelled", [str, float, lambda n: f"{n}.0", lambda n: f" {n} "])
def test_numbers_in_any_spelling(spelled: Any) -> None:
    document = coco()
    for image in document["images"]:
        image |= {key: spelled(image[key]) for key in ("id", "height", "width")}
    assert names_of(parse_coco(document)) == CHAIRS, "sizes and ids of images"
    document = coco()
    for row in document["annotations"]:
        row |= {key: spelled(row[key]) for key in ("id", "image_id", "category_id", "iscrowd")}
    assert names_of(parse_coco(document)) == CHAIRS, "ids of annotations"


def test_ids_that_are_texts() -> None:
    assert [row_id(value) for value in (7, 7.0, "7", "7.0", "007", "a", None, [7], True, 7.5)] == (
        [7, 7, 7, 7, "007", "a", None, None, None, None]
    )


def test_sizes_come_from_the_images_where_rows_have_none(tmp_path: Path) -> None:
    document = coco()
    for image in document["images"]:
        image |= {"height": None}
    assert parse_coco(document).findings.counts == {"unreadable_image": 2, "unknown_image": 4}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    for n in (1, 2):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{n}.png")
    dataset = read_coco(tmp_path / "coco.json", size_of=ImagePlaces(tmp_path).size_of)
    assert names_of(dataset) == CHAIRS
    assert not dataset.findings.counts


def masks_marked(*marks: int, attributes: bool = False, polygon: bool = False) -> Any:
    rle = {"size": [48, 64], "counts": [100, 200, 2772]}
    document = coco()
    for row, mark in zip(document["annotations"], marks, strict=True):
        row |= {"segmentation": rle, "iscrowd": mark} | ({"attributes": {"occluded": False}} if attributes else {})
    if polygon:
        document["annotations"][3] |= {"segmentation": BOX, "iscrowd": 0}
    return parse_coco(document)


def test_crowds_and_what_cvat_calls_so() -> None:
    dataset = masks_marked(1, 1, 1, 1)
    assert names_of(dataset) == CHAIRS
    assert dataset.findings.counts == {"crowd_masks": 4}
    assert not dataset.objects[0].rows[0][1]["iscrowd"]
    assert masks_marked(1, 1, 1, 0, attributes=True, polygon=True).findings.counts == {"crowd_masks": 3}
    assert masks_marked(1, 0, 0, 0).findings.counts == {"crowd": 1}, "other run lengths are none"
    assert masks_marked(1, 1, 1, 0, polygon=True).findings.counts == {"crowd": 3}, "COCO's own form"


def test_files_that_were_joined() -> None:
    """Annotation ids start again: the part belongs to the object of its own image."""
    rows = []
    for image, category in ((1, 1), (2, 1), (3, 3), (4, 3)):
        number = 1 if image % 2 else 3
        rows.append({"id": number, "image_id": image, "category_id": category, "segmentation": BOX})
        rows.append({"id": number + 1, "image_id": image, "category_id": 2, "segmentation": LEG, "part_of": number})
    categories = [
        {"id": 1, "name": "chair"},
        {"id": 2, "name": "leg", "supercategory": "part"},
        {"id": 3, "name": "table"},
    ]
    images = [{"id": n, "file_name": f"{n}.png", "height": 48, "width": 64} for n in (1, 2, 3, 4)]
    dataset = parse_coco(
        {"images": images, "categories": [*categories, {"id": 1, "name": "sofa"}], "annotations": rows}
    )
    assert {(i, o) for i, o, part in names_of(dataset) if part == "leg"} == (
        {(1, "chair"), (2, "chair"), (3, "table"), (4, "table")}
    )
    assert dataset.findings.counts == {"duplicate_annotation": 4, "duplicate_category": 1}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["women's shoe", "men's shoe"], [("women's shoe", None), ("men's shoe", None)]),
        (["chair", "chair's leg", "chair\u2019s seat"], [("chair", None), ("chair", "leg"), ("chair", "seat")]),
        (["car:mirror (left)", "car:mirror (right)"], [("car", "mirror (left)"), ("car", "mirror (right)")]),
        (["car_(automobile)", "car_(automobile):wheel"], [("car", None), ("car", "wheel")]),
        (["bow_(weapon)", "bow_(ribbon)"], [("bow (weapon)", None), ("bow (ribbon)", None)]),
        (["car:mirror_(left)", "bus:mirror_(right)"], [("car", "mirror"), ("bus", "mirror")]),
        (["a/b", "10:30 clock"], [("a/b", None), ("10", "30 clock")]),
    ],
)
def test_names_of_categories(rows: list[str], expected: list[Any]) -> None:
    given_rows = [{"id": n, "name": name} for n, name in enumerate(rows)]
    assert [read_category(row, families_of(given_rows)) for row in given_rows] == expected


def test_a_root_that_nothing_uses_is_no_object() -> None:
    roboflow = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "fish", "supercategory": "fish"},
        {"id": 2, "name": "fish trap", "supercategory": "fish"},
    ]
    families = families_of(roboflow, {1, 2})
    assert [read_category(row, families) for row in roboflow] == [("fish", None), ("fish", None), ("fish trap", None)]
    quadruped = [
        {"id": n, "name": f"Quadruped {part}", "supercategory": "Quadruped"} for n, part in enumerate(("Head", "Foot"))
    ]
    assert read_category(quadruped[0], families_of(quadruped, {0, 1})) == ("quadruped", "head")


def test_parts_under_their_object_and_names_given_by_hand() -> None:
    categories = [
        {"id": 1, "name": "chair", "supercategory": "furniture"},
        {"id": 2, "name": "leg", "supercategory": "chair"},
    ]
    document = coco(categories=categories)
    assert names_of(parse_coco(document)) == {(n, name, None) for n in (1, 2) for name in ("chair", "leg")}
    assert names_of(parse_coco(document, naming=NamingOptions(by_supercategory=True))) == CHAIRS
    assert names_of(parse_coco(document, naming=NamingOptions(given={"leg": "chair:leg"}))) == CHAIRS
    dropped = parse_coco(document, naming=NamingOptions(given={"leg": ""}))
    assert names_of(dropped) == {(1, "chair", None), (2, "chair", None)}
    assert dropped.findings.counts == {"left_out_category": 2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images\\a.png", ["images/a.png", "images\\a.png"]),
        ("C:\\photos\\a.png", ["photos/a.png"]),
        ("./set/../a.png", ["set/a.png"]),
        ("set%20a%2Fb.png", ["set%20a%2Fb.png", "set a/b.png"]),
        ("a.png?version=2", ["a.png?version=2", "a.png"]),
        ("\ufeff a.png ", ["a.png"]),
        (" https://h.example/x%20y/a.png?token=1#f", ["x y/a.png", "x%20y/a.png"]),
        ("s3://bucket/set a/part #1.png", ["set a/part #1.png"]),
        ("gs://bucket/what?.png", ["what?.png", "what"]),
        ("/data/upload/1/0a1b2c3d-a.png", ["upload/1/0a1b2c3d-a.png"]),
        ("/data/local-files/?d=set%20a/b.png", ["set a/b.png", "set%20a/b.png"]),
        ("data:image/png;base64,AAAA", []),
        ("../../etc/passwd", ["etc/passwd"]),
    ],
)
def test_what_an_image_is_called(name: str, expected: list[str]) -> None:
    assert relative_names(name)[: len(expected)] == expected
    assert file_name_of(name.strip("\ufeff")) == (expected[0] if expected else "")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_name_leads_out_of_a_folder(text: str) -> None:
    try:
        names = relative_names(text)
    except InputError:
        return
    for name in names:
        assert not name.startswith("/")
        assert ".." not in name.split("/")


def test_where_images_are_found(tmp_path: Path) -> None:
    names = ["set/my photo (1).png", "set/Gro\u00dfes Bild.png", "b#1.png", "100%.png", "c.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    (tmp_path / "outside.png").write_bytes(b"x")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside.png")
    folder = ImageFolder(tmp_path / "in")

    def found(name: str) -> str | None:
        path = folder.find(name)
        return None if path is None else path.relative_to(tmp_path / "in").as_posix()

    for called, expected in [
        ("/data/upload/1/0a1b2c3d-my_photo_1.png", "set/my photo (1).png"),
        ("/data/upload/9/ffffffff-Gro%C3%9Fes_Bild.png", "set/Gro\u00dfes Bild.png"),
        ("set\\my photo (1).png", "set/my photo (1).png"),
        ("s3://bucket/some/b#1.png", "b#1.png"),
        ("https://h.example/x/100%25.png", "100%.png"),
        ("D:\\old\\c.png", "c.png"),
        ("x" * 300 + ".png", None),
        ("a/" * 3000 + "c.png", "c.png"),
        ("link.png", None),
        ("nul\0.png", None),
        ("set", None),
    ]:
        if called.startswith("/data/upload"):
            assert ImageFolder(tmp_path / "in" / "set").find(called) is not None
        else:
            assert found(called) == expected, called[:40]
    with pytest.raises(InputError, match="no address that can be read"):
        folder.find("http://[foo]/a.png")
    with pytest.raises(InputError, match="no such file"):
        FolderImages(tmp_path / "in").content("x" * 300, 1)
    (tmp_path / "in" / "set" / "my photo [1].png").write_bytes(b"")
    with pytest.raises(InputError, match="may be any of"):
        ImageFolder(tmp_path / "in" / "set").find("/data/upload/1/0a1b2c3d-my_photo_1.png")


def test_names_of_uploads() -> None:
    """As Django's `get_valid_filename` makes them."""
    for name, expected in [("my photo (1).png", "my_photo_1.png"), ("Gro\u00dfes Bild.png", "Gro\u00dfes_Bild.png")]:
        assert upload_name(name) == expected


def test_addresses_below_a_prefix() -> None:
    assert address_below("s3://bucket/x/", "set a/part #1.png") == "s3://bucket/x/set a/part #1.png"
    assert address_below("azure-blob://c", "a?b.png") == "azure-blob://c/a?b.png"
    assert address_below("https://h.example/x", "set a/part #1.png") == "https://h.example/x/set%20a/part%20%231.png"
    assert address_below("https://h.example", "set\\a.png") == "https://h.example/set/a.png"


@pytest.mark.parametrize("spoiled", ["", "http://[foo]/a.png", "x" * 300 + ".png"])
def test_importing_goes_on_without_an_image(tmp_path: Path, spoiled: str) -> None:
    document = coco()
    document["images"] += [{"id": 3, "file_name": spoiled or "gone.png", "height": 48, "width": 64}]
    document["annotations"].append({"id": 99, "image_id": 3, "category_id": 1, "segmentation": BOX})
    for n in (1, 2):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{n}.png")
    dataset = parse_coco(document)
    importer = CocoImporter(dataset, ImagePlaces(tmp_path))
    (task,) = importer.tasks(read_config(write_config(2)))
    assert sum("score" in row for row in task["predictions"][0]["result"]) == 4
    assert dataset.findings.counts == {"missing_image": 1}


def test_a_file_name_that_is_an_address_stays_one() -> None:
    for key in ("file_name", "coco_url", "url", "path"):
        document = coco()
        for image in document["images"]:
            image[key] = f" https://h.example/a b/{image['id']}.png"
        importer = CocoImporter(parse_coco(document), ImagePlaces())
        (task,) = importer.tasks(read_config(write_config(2)))
        assert task["data"]["image1"] == "https://h.example/a b/1.png"


def test_what_no_label_means_is_no_task() -> None:
    labels = read_config(write_config(2, labels=["wheel"]))
    document = coco(categories=[{"id": 1, "name": "chair:seat"}, {"id": 2, "name": "chair:leg"}])
    for image in document["images"]:
        image["coco_url"] = f"https://h.example/{image['id']}.png"
    config = read_config(
        '<View><Image name="i" value="$image1"/><BrushLabels name="b" toName="i"><Label value="wheel"/></BrushLabels>'
        '<Image name="j" value="$image2"/><BrushLabels name="c" toName="j"><Label value="wheel"/></BrushLabels></View>'
    )
    importer = CocoImporter(parse_coco(document), ImagePlaces())
    assert list(importer.tasks(config)) == []
    assert importer.counts.tasks == importer.counts.regions == 0
    importer = CocoImporter(parse_coco(document), ImagePlaces())
    assert len(list(importer.tasks(labels))) == 1
    assert importer.counts.regions == 2, "the objects; no part has a label"


def test_addresses_are_trimmed() -> None:
    config = read_config(write_config(2))
    assert task_images(config, {"image1": " http://h.example/a.png\n", "image2": "b.png "}) == [
        "http://h.example/a.png",
        "b.png",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "image,group\n\nb.png,x\n , \nc.png,x\n,\n"),
        ("a.csv", "\ufeff image , group\nb.png, x\nc.png,x\n"),
        ("a.jsonl", '{"image": "b.png", "group": "x"}\n\n{"image": "c.png", "group": "x"}\n'),
        ("a.txt", '{"image": "b.png", "group": "x"}\n{"image": "c.png", "group": "x"}\n'),
        ("a.JSON", '[{"image": "b.png", "group": "x"}, {"image": "c.png", "group": "x"}]'),
        ("a.csv", "image,group\n.\\b.png,x\nc.png,x\n"),
    ],
)
def test_lists(tmp_path: Path, name: str, content: str) -> None:
    for image in ("b.png", "c.png"):
        (tmp_path / image).write_bytes(b"x")
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_list(tmp_path / name, group_column="group")
    assert [(Path(source).name, group) for source, group in found] == [("b.png", "x"), ("c.png", "x")]


def test_lists_with_other_signs_say_so(tmp_path: Path) -> None:
    for sign in (";", "\t"):
        (tmp_path / "a.csv").write_text(f"image{sign}group\na.png{sign}x\n")
        with pytest.raises(InputError, match=rf"group\); are its columns separated by {re.escape(repr(sign))}"):
            read_list(tmp_path / "a.csv")


def test_windows_paths_and_missing_files_of_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "list.csv").write_text("image,group\nphotos\\a.png,x\nC:\\photos\\b.png,x\nphotos\\gone.png,y\n")
    out = tmp_path / "tasks.json"
    arguments = ["groups", str(tmp_path / "list.csv"), "--by", "column", "--out", str(out)]
    assert project.main(arguments) == 0
    assert [json.loads(out.read_text())[0]["data"][f"image{n}"].rpartition("/")[2] for n in (1, 2)] == [
        "a.png",
        "b.png",
    ]
    assert "missing_file" in capsys.readouterr().out


def test_pictures_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.avif", "c.JPG", "d.heic", "e.heic", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    problems: list[Any] = []
    assert [Path(path).name for path in find_images(tmp_path, problems)] == ["a.jfif", "b.avif", "c.JPG"]
    assert [problem.message.partition(": ")[2] for problem in problems] == [
        "2 files '.heic' left out: of no kind that is read",
        "1 file '.txt' left out: of no kind that is read",
    ]


# Pictures


def picture(file_format: str, *, exif: int | None = None, **more: Any) -> bytes:
    """64 x 48, the upper left quarter dark, with an EXIF orientation."""
    pixels = np.full((48, 64, 3), 220, np.uint8)
    pixels[:24, :32] = 20
    options = dict(more)
    if exif is not None:
        block = Image.Exif()
        block[0x0112] = exif
        options["exif"] = block.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def dark_corner(data: bytes) -> tuple[tuple[int, int], str]:
    """(height, width) as loaded, and which corner is dark."""
    image = load_image(data)
    height, width = image.shape[:2]
    corners = {"upper left": (4, 4), "upper right": (4, width - 5), "lower left": (height - 5, 4)}
    corners["lower right"] = (height - 5, width - 5)
    return (height, width), next(name for name, (y, x) in corners.items() if image[y, x].mean() < 128)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "AVIF", "WEBP", "TIFF"])
def test_the_frame_that_a_browser_shows(file_format: str) -> None:
    """The table of docs/coco.md, which `test_browser_frames` measures."""
    turned = {3: ((48, 64), "lower right"), 6: ((64, 48), "upper right"), 8: ((64, 48), "lower left")}
    for orientation, expected in turned.items():
        data = picture(file_format, exif=orientation)
        shown = ((48, 64), "upper left") if file_format == "WEBP" else expected
        assert dark_corner(data) == shown
        header = read_header(data)
        assert header.size_hw == shown[0]
        assert header.stored_size_hw == (48, 64)
        assert header.orientation == (1 if file_format == "WEBP" else orientation)


XMP = (
    '<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_orientation_in_xmp_turns_nothing(file_format: str) -> None:
    data = picture(file_format, xmp=XMP.encode())
    assert dark_corner(data) == ((48, 64), "upper left")
    assert read_header(data).orientation == 1


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def test_metadata_never_spoils_a_picture() -> None:
    plain = picture("PNG")
    text = b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))
    data = plain[:33] + chunk(b"zTXt", text) + plain[33:]
    with pytest.raises(ValueError, match="too large"), Image.open(io.BytesIO(data)):
        pass
    assert (load_image(data) == load_image(plain)).all()
    assert read_header(data).size_hw == (48, 64)
    behind = plain[:-12] + chunk(b"zTXt", text) + plain[-12:]
    assert (load_image(behind) == load_image(plain)).all()
    broken = (
        picture("JPEG", exif=6).replace(b"Exif\0\0II*\0", b"Exif\0\0XX*\0").replace(b"Exif\0\0MM\0*", b"Exif\0\0XX\0*")
    )
    assert dark_corner(broken) == ((48, 64), "upper left")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end(progressive: bool, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (60, 70, 3), np.uint8)).save(buffer, "JPEG", progressive=progressive)
    data = buffer.getvalue()
    assert (load_image(data[:-2]) == load_image(data)).all()
    assert "end marker" in caplog.text
    with pytest.raises(InputError, match="cannot be decoded"):
        load_image(data[: len(data) * 19 // 20])


# The collection of reported files, where it is at hand


def imported(case: str, tmp_path: Path, *options: str, images: str = "images") -> tuple[int, Any, Any]:
    """Exit code, report, tasks of `calico import_coco`."""
    path = reported(case)
    out, report = tmp_path / "tasks.json", tmp_path / "report.json"
    folder = path.parent / images
    arguments = [str(path), "--out", str(out), "--json", str(report), *options]
    if folder.is_dir() and "--images" not in options:
        arguments += ["--images", str(folder)]
    code = import_coco.main(arguments)
    return (
        code,
        json.loads(report.read_text()) if report.exists() else None,
        (json.loads(out.read_text()) if code == 0 else None),
    )


@pytest.mark.parametrize(
    ("case", "regions", "problems"),
    [
        ("01_cvat_masks_iscrowd/instances_default.json", 4, {"crowd_masks": 4}),
        ("02_roboflow_categories/same_name_as_root.json", 4, {}),
        ("02_roboflow_categories/same_name_as_root_lobster.json", 4, {}),
        ("04_byte_order_marks/coco.json", 4, {}),
        ("05_coco_file_name_is_url/coco.json", 4, {}),
        ("05_coco_file_name_is_url/coco_ls_local.json", 4, {}),
        ("05_coco_file_name_is_url/coco_url_key.json", 4, {}),
        ("06_coco_number_types/all_ids_strings.json", 4, {}),
        ("06_coco_number_types/float_sizes.json", 4, {}),
        ("06_coco_number_types/string_sizes.json", 4, {}),
        ("06_coco_number_types/null_sizes.json", 4, {}),
        ("06_coco_number_types/image_id_string_in_annotations.json", 4, {}),
        ("06_coco_number_types/iscrowd_false_null.json", 4, {}),
        ("07_names_in_parentheses/left_right_mirror.json", 6, {}),
        ("08_possessive_names/shoes.json", 4, {}),
        ("30_32_odd_coco_files/merged_annotation_ids_twice.json", 8, {"duplicate_annotation": 4}),
        ("30_32_odd_coco_files/file_name_dot_slash.json", 4, {}),
    ],
)
def test_reported_coco_files(case: str, regions: int, problems: dict[str, int], tmp_path: Path) -> None:
    code, report, tasks = imported(case, tmp_path)
    assert code == 0
    assert (
        report["regions"]
        == regions
        == sum(sum("score" in row for row in task["predictions"][0]["result"]) for task in tasks)
    )
    assert report["problems"]["counts"] == problems


def test_reported_coco_with_options(tmp_path: Path) -> None:
    for case in (
        "02_roboflow_categories/parts_under_project.json",
        "08_possessive_names/part_under_object_supercategory.json",
    ):
        code, report, tasks = imported(case, tmp_path, "--parts-by-supercategory")
        assert (code, len(tasks)) == (0, 1), case
    code, report, _ = imported("03_coco_windows_backslash/result.json", tmp_path, images="photos")
    assert (code, report["regions"]) == (0, 4)
    code, _, tasks = imported(
        "09_bucket_prefix_quoting/coco.json", tmp_path, "--prefix", "s3://bucket/photos", images="photos"
    )
    assert tasks[0]["data"]["image1"] == "s3://bucket/photos/set a/my photo 1.png"
    code, report, _ = imported("40_long_file_names/coco.json", tmp_path, "--images", str(REPORTS / "img"))
    assert report["problems"]["counts"].get("missing_image")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_reported_pictures(tmp_path: Path) -> None:
    files = reported("18_29_image_files/files")
    for name in (
        "text_chunk_1MiB.png",
        "jpeg_without_EOI.jpg",
        "exif_broken.jpg",
        "jpeg_with_trailing_zip.jpg",
        "avif.avif",
    ):
        assert load_image(files / name).ndim == 3
        read_header(files / name)
    for name in ("jpeg_cut_at_95_percent.jpg", "svg.svg", "dicom.dcm"):
        with pytest.raises(InputError):
            load_image(files / name)
    frames = reported("19_exif_by_format")
    for name, expected in [
        ("o6.jpg", True),
        ("o6.png", True),
        ("o6.avif", True),
        ("o6.webp", False),
        ("o6_mpo.jpg", False),
    ]:
        header = read_header(frames / name)
        assert (header.orientation == 6) == expected, name
        assert load_image(frames / name).shape[:2] == header.size_hw
    assert read_header(frames / "o6_rawprofile.png").orientation == 1
    found: list[Any] = []
    assert len(find_images(reported("23_picture_suffixes/photos"), found)) == 6
    assert [p.message.partition("'")[2].partition("'")[0] for p in found] == [".heic"]


def test_reported_uploads() -> None:
    folder = FolderImages(reported("27_renamed_uploads/photos"))
    assert folder.content("/data/upload/1/0a1b2c3d-my_photo_1.png", 1)
    assert folder.content("/data/upload/1/9f8e7d6c-Gro%C3%9Fes_Bild.png", 1)


def test_reported_lists(tmp_path: Path) -> None:
    lists = reported("24_lists")
    for name in ("list.jsonl", "blank_lines.csv", "bom.csv", "header_spaces.csv", "upper.JSON"):
        assert len(read_list(lists / name, group_column="group")) == 2, name
    with pytest.raises(InputError, match="separated by ';'"):
        read_list(lists / "semicolon.csv")
    shutil.copy(lists / "windows_relative.csv", tmp_path)
    assert [Path(source).parent.name for source, _ in read_list(tmp_path / "windows_relative.csv")] == ["photos"] * 2
