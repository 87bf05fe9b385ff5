"""An evaluation from the groups to the page, by a segmenter that knows the truth and moves it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.evaluation import Case, EvaluationRun, PartDataCases, drawing_cases
from calico.evaluation.baseline import FrequentParts
from calico.evaluation.charts import charts
from calico.evaluation.gallery import Gallery
from calico.evaluation.page import evaluation_page
from calico.evaluation.paper_table import paper_rows, printed_table
from calico.inference.reconcile import AnsweredMasks, reconcile
from calico.inference.segmenter import CoSegmenter, PromptedMask
from calico.language.answers import parse_answer, render_answer
from calico.masks import encode_rle
from calico.metrics.text_similarity import TrigramEncoder
from calico.mixedparts.index import MixedParts
from calico.mixedparts.records import ObjectRecord, PartMask
from calico.mixedparts.writer import Bucket, ObjectWriter, SampleWriter, write_manifest
from calico.values import AnnotatedImage, CoSegmentation, ImageGroup, NamedMask, SubTask, image_digest
from scripts import evaluate

PARTS = {"chair": ("seat", "leg"), "stool": ("seat",), "mug": ("handle",)}
EVIL = '<script>alert("seat")</script>'
SIDE = 48


def annotated(name: str, number: int, parts: Sequence[str] | None = None) -> AnnotatedImage:
    """A square object whose parts are columns of it, 12 wide; the picture tells its number."""
    part_map = np.zeros((SIDE, SIDE), np.uint8)
    part_map[8:40, 4:44] = 1
    parts = PARTS[name] if parts is None else parts
    for k in range(len(parts)):
        part_map[8:40, 8 + 14 * k : 20 + 14 * k] = k + 2
    return AnnotatedImage(
        np.full((SIDE, SIDE, 3), number, np.uint8), name, tuple(parts), part_map, "clean", f"no {number}"
    )


class Mover:
    """A segmenter that knows every picture; it moves masks by as many pixels as the picture's grey says."""

    version = "mover-1"

    def __init__(self) -> None:
        self.known: dict[str, list[NamedMask]] = {}

    def know(self, image: np.ndarray, masks: Sequence[NamedMask]) -> None:
        self.known[image_digest(image)] = list(masks)

    def reconciled(self, group: ImageGroup, answers: Mapping[SubTask, AnsweredMasks]) -> CoSegmentation:
        return reconcile(group.sizes_hw, answers)

    def answer(
        self, group: ImageGroup, sub_tasks: Sequence[SubTask] = tuple(SubTask), *, constrained: bool | None = None
    ) -> Mapping[SubTask, AnsweredMasks]:
        assert constrained is False
        masks = []
        for index, image in enumerate(group.images):
            by = int(image[0, 0, 0])
            for item in self.known[image_digest(image)]:
                moved = np.roll(item.mask, by, axis=1)
                masks.append(NamedMask(index, item.object_name, item.part_name, moved, max(0.0, 1 - by / 12)))
        truth = co_segmentation(group.sizes_hw, masks)
        answers = {}
        for task in sub_tasks:
            text, segs = render_answer(truth, task)
            regions = [truth.by_key[key] for key in segs]
            parsed = parse_answer(text, task, len(group))
            answers[task] = AnsweredMasks(text, parsed, [r.mask for r in regions], [r.score for r in regions])
        return answers

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]] = (),
        labels: Sequence[bool] = (),
        box_xyxy: tuple[float, float, float, float] | None = None,
    ) -> PromptedMask:
        mask = np.zeros(image.shape[:2], bool)
        if box_xyxy is not None:
            x0, y0, x1, y1 = (int(side) for side in box_xyxy)
            mask[y0:y1, x0:x1] = True
        for x, y in points_xy:
            for item in self.known[image_digest(image)]:
                if item.part_name and item.mask[int(y), int(x)]:
                    mask |= item.mask
        return PromptedMask(mask, 1.0)


def case(group_id: str, names: Sequence[str], greys: Sequence[int], mover: Mover, source: str = "") -> Case:
    images = [annotated(name, grey) for name, grey in zip(names, greys, strict=True)]
    for item in images:
        mover.know(item.image, item.masks(0))
    return Case.of_annotated(group_id, images, source)


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], Gallery]:
    """Twelve groups, each worse than the one before; two of them of another source. Names that a page must escape."""
    mover = Mover()
    gallery = Gallery(num_shown=1)
    baseline = FrequentParts({"chair": ("leg",), "stool": (), "mug": ("handle",)}, "made up")
    run = EvaluationRun(mover, 0, TrigramEncoder(), gallery=gallery, baseline=baseline)  # type: ignore[arg-type]
    for number in range(12):
        # Greys name a picture, so that each picture has one truth: chairs are even, stools odd.
        run.add(case(f"g{number:02d}", ("chair", "stool"), (2 * number, 2 * number + 1), mover, "ab"[number >= 10]))
    report = run.report() | {"checkpoint": f"v1{EVIL}", "data": f"drawn {EVIL}", "command": f"calico evaluate {EVIL}"}
    return report, gallery


def test_what_is_known_comes_out(measured: tuple[dict[str, Any], Gallery]) -> None:
    report, _ = measured
    assert report["n_groups"] == 12
    overall = report["overall"]
    assert overall["name_precision"] == overall["name_recall"] == overall["occurrence_accuracy"] == 1
    assert overall["malformed_rate"] == 0
    assert overall["point_iou"] == overall["point3_iou"] == overall["box_iou"] == 1
    assert overall["n"]["box_iou"] == 12
    # A mask 12 wide moved by k overlaps (12 - k) / (12 + k), beyond 12 nothing. Chairs have two parts, stools one.
    overlaps = [max(0, 12 - k) / (12 + k) for k in range(24)]
    wanted = np.mean([overlaps[k] for k in range(0, 24, 2)] * 2 + [overlaps[k] for k in range(1, 24, 2)])
    parts = report["by_part"]
    assert (parts["seat"]["iou"] * 24 + parts["leg"]["iou"] * 12) / 36 == pytest.approx(wanted)
    assert overall["score_spearman"] > 0.99
    assert overall["score_spearman_within_parts"] > 0.99
    assert overall["n"]["score_spearman_within_parts"] == 36
    assert 0 < overall["score_calibration_error"] < 0.2
    assert report["by_source"]["b"]["n_groups"] == 2
    # Scores are 1 - k / 12. An image with a mean below 0.5 shows nothing: k is 6 at most.
    whole, shown = report["reconciled"], report["shown"]
    assert (whole["n"]["mean_score"], shown["n"]["images_shown"]) == (60, 24)
    assert shown["images_shown"] == pytest.approx(7 / 24)
    assert shown["mean_score"] == pytest.approx(
        np.mean([1 - k / 12 for k in (0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6)])
    )
    assert shown["object_precision"] == shown["name_precision"] == 1
    assert shown["strict_miou_parts"] < whole["strict_miou_parts"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_baseline_is_told_objects_and_guesses_parts(measured: tuple[dict[str, Any], Gallery]) -> None:
    own = measured[0]["baseline"]["by_subtask"]
    assert own["common_object"]["none_recall"] == 1
    # Common: the seat, which it does not know. Unique: the chair's leg, 12 of the object's 40 columns.
    assert own["common_parts"]["strict_miou_parts"] == 0
    assert own["unique_parts"]["strict_miou_parts"] == pytest.approx(12 / 40)
    assert own["unique_parts"]["strict_miou_objects"] == 1


def test_usual_parts_are_those_of_half_a_class() -> None:
    shown = [("cup", ["handle", "rim"]), ("cup", ["rim"]), ("cup", []), ("fork", ["tine"])]
    baseline = FrequentParts.counted(shown, "objects of train")
    assert baseline.parts_of == {"cup": ["rim"], "fork": ["tine"]}
    assert "4 objects of train" in baseline.what
    drawn = FrequentParts.of_drawings(28)
    assert any(drawn.parts_of.values())


def test_the_gallery_keeps_the_extremes_in_any_order(measured: tuple[dict[str, Any], Gallery]) -> None:
    _, gallery = measured
    assert [shown.group_id for shown in gallery.best] == ["g00"]
    assert 1 > gallery.best[0].score > gallery.worst[0].score
    mover = Mover()
    cases = [case(f"h{k}", ("chair", "chair"), (0, k), mover) for k in range(5)]
    for order in (cases, cases[::-1]):
        again = Gallery(num_shown=1)
        for one in order:
            again.offer(0.5 if one.group_id in ("h1", "h2") else 0.7, one, one.truth)
        assert [shown.group_id for shown in (*again.best, *again.worst)] == ["h0", "h1"]
    few = Gallery(num_shown=4)
    few.offer(0.5, cases[0], cases[0].truth)
    assert few.worst == []


def test_large_pictures_are_kept_small() -> None:
    big = np.zeros((3000, 1500, 3), np.uint8)
    part_map = np.ones((3000, 1500), np.uint8)
    part_map[:1000] = 2
    images = [AnnotatedImage(big, "chair", ("seat",), part_map) for _ in range(2)]
    gallery = Gallery()
    one = Case.of_annotated("big", images)
    gallery.offer(1.0, one, one.truth)
    shown = gallery.best[0]
    assert [image.shape for image in shown.images] == [(640, 320, 3)] * 2
    assert shown.truth.sizes_hw == ((640, 320),) * 2
    assert shown.truth.by_key[0, "part", "seat"].mask.mean() == pytest.approx(1 / 3, abs=0.01)  # type: ignore[index]


class Reader(HTMLParser):
    """Refuses tags that do not close; collects what a page refers to and its text."""

    VOID = frozenset({"meta", "img", "br", "path", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.shown: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.targets += [str(found[name]) for name in ("src", "href", "srcset", "xlink:href", "data") if name in found]
        self.ids += [str(found["id"])] if "id" in found else []
        assert not any(name.startswith("on") for name in found), attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


@pytest.fixture(scope="module")
def page_text(measured: tuple[dict[str, Any], Gallery]) -> str:
    report, gallery = measured
    odd = {"by_part": {EVIL: report["by_part"]["seat"]}, "by_object": {EVIL: report["by_object"]["chair"]}}
    return evaluation_page(report | odd, gallery)


def test_the_page_is_whole_and_needs_nothing_else(page_text: str) -> None:
    text = page_text
    page = Reader(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    anchors = [target for target in page.targets if target.startswith("#")]
    assert anchors
    assert all(target[1:] in page.ids for target in anchors)
    assert len(page.ids) == len(set(page.ids))
    assert all(target.startswith(("#", "data:image/")) for target in page.targets)
    assert not re.search(r"url\(|@import", text)
    assert page.tags.count("img") == 6 + 2 * 2 * 2  # charts; best and worst, two images, two sides


def test_the_page_escapes_names_and_shows_n(measured: tuple[dict[str, Any], Gallery], page_text: str) -> None:
    report, _ = measured
    assert EVIL not in page_text
    shown = " ".join(Reader(page_text).shown)
    assert shown.count(EVIL) == 3 + 2 + 1  # title, heading, data and command; part and object
    seat = report["by_part"]["seat"]
    assert f"{seat['iou']:.3f}" in shown
    assert f"± {seat['stderr']['iou']:.3f} · n 24" in shown
    assert "12 groups of" in shown
    assert "lexical fallback, not Sentence-BERT" in shown
    assert "Stopped before the end" not in shown


def test_charts_are_made_of_what_there_is(measured: tuple[dict[str, Any], Gallery]) -> None:
    report, _ = measured
    drawn = charts(report)
    assert len(drawn) == 6
    assert charts(report) == drawn  # the same bytes again
    for svg in drawn.values():
        references = re.findall(rb'(?:href|src)="([^"]*)"|url\(([^)]*)\)', svg)
        assert all((a or b).startswith(b"#") for a, b in references)
        assert b"DOCTYPE" not in svg
    empty = EvaluationRun(Mover()).report()  # type: ignore[arg-type]
    assert charts(empty) == {}
    text = evaluation_page(empty | {"checkpoint": "", "data": "", "command": "", "stopped": True}, Gallery())
    assert "By part" not in text
    assert "Stopped before the end" in text


def test_the_papers_table(measured: tuple[dict[str, Any], Gallery]) -> None:
    report, _ = measured
    rows = {(row.source, row.sub_task): row.block for row in paper_rows(report)}
    questions = ["common object", "common parts", "unique parts", "mean"]
    guessed = ["baseline, common parts", "baseline, unique parts"]
    assert list(rows) == [(source, name) for source in ("a", "b", "all") for name in questions + guessed]
    assert rows["all", "mean"]["AP50"] == report["overall"]["AP50"]
    assert rows["a", "common parts"]["S_IoU"] == 1
    assert rows["a", "common parts"]["S_IoU_matched"] < 1  # a mask moved off its place matches none
    low, high = rows["a", "mean"]["interval"]["mIoU"]
    assert low < rows["a", "mean"]["mIoU"] < high
    lines = printed_table(report).splitlines()
    assert len(lines) == 1 + 18 + 2
    block = rows["b", "common parts"]
    assert f"{block['recall']:.3f}" in lines[1 + 6 + 1]
    assert f"({block['n']['recall']})" in lines[1 + 6 + 1]


# Part data


def write_index(folder: Path) -> MixedParts:
    """Two sources, a sample each of common parts and of the common object; one picture is missing."""
    records = []
    for number, name in enumerate(["chair", "stool", "mug", "mug", "chair"]):
        item = annotated(name, number)
        masks = {mask.part_name: encode_rle(mask.mask) for mask in item.masks(0)}
        parts = tuple(PartMask(part, masks[part]) for part in PARTS[name])
        source = "ade20k" if name == "mug" else "paco"
        records.append(
            ObjectRecord(source, str(number), f"{number}.png", (SIDE, SIDE), name, masks[None], parts, "test")
        )
        if number != 4:
            Image.fromarray(item.image).save(folder / f"{number}.png")
    sources = ["ade20k", "paco"]
    index = folder / "index"
    index.mkdir()
    with ObjectWriter(index, sources) as objects:
        for record in records:
            objects.add(record, 0)
    with SampleWriter(index, sources) as samples:
        for bucket, members in {
            Bucket("test", "ade20k", SubTask.COMMON_OBJECT): [[2, 3]],
            Bucket("test", "paco", SubTask.COMMON_PARTS): [[0, 1], [0, 4]],
        }.items():
            samples.add(bucket, np.array(members), np.zeros(len(members), bool))
    about = {"sources": sources, "classes": list(objects.classes), "parts": list(objects.parts)}
    write_manifest(index, about | {"ranges": samples.ranges, "images": dict.fromkeys(sources, str(folder))})
    return MixedParts(index)


def mover_of(data: MixedParts) -> Mover:
    mover = Mover()
    for number in range(data.num_objects - 1):
        record = data.record(number)
        masks = [NamedMask(0, record.object_name, name, mask) for name, mask in record.masks().items()]
        mover.know(data.load_image(record), masks)
    return mover


def test_samples_of_part_data_and_their_skips(tmp_path: Path) -> None:
    data = write_index(tmp_path)
    cases = PartDataCases(data)
    found = list(cases)
    assert [one.sub_tasks if one else None for one in found] == [
        (SubTask.COMMON_OBJECT,),
        (SubTask.COMMON_PARTS,),
        None,
    ]
    assert cases.num_skipped == 1
    assert "4.png: no such file" in cases.reasons[0]
    assert found[0] is not None
    assert {region.name for region in found[0].truth.regions} == {"mug", "handle"}
    assert {region.name for region in found[0].asked.regions} == {"mug"}
    two = PartDataCases(data, limit=2, seed=3)
    assert len(two) == len(list(two)) == 2
    baseline = FrequentParts.of_part_data(data)
    assert baseline.parts_of == {"chair": ["leg", "seat"], "stool": ["seat"], "mug": ["handle"]}


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Mover:
    mover = Mover()
    monkeypatch.setattr(CoSegmenter, "from_checkpoint", classmethod(lambda cls, *_: mover))
    return mover


def test_evaluate_part_data(tmp_path: Path, no_weights: Mover, capsys: pytest.CaptureFixture[str]) -> None:
    no_weights.known = mover_of(write_index(tmp_path)).known
    page, report = tmp_path / "out" / "page.html", tmp_path / "report.json"
    argv = ["--data", str(tmp_path / "index"), "--html", str(page), "--json", str(report), "--encoder", "lexical"]
    assert evaluate.main(argv) == 0
    made = json.loads(report.read_text())
    assert (made["n_groups"], made["num_skipped"]) == (2, 1)
    assert set(made["by_source"]) == {"ade20k", "paco"}
    assert made["by_source"]["paco"]["by_subtask"]["common_parts"]["name_recall"] == 1
    assert "counted on 5 objects of test" in made["baseline"]["what"]
    printed = capsys.readouterr().out
    assert "baseline, common parts" in printed
    assert "1 samples skipped" in printed
    shown = " ".join(Reader(page.read_text()).shown)
    assert "3 of 3 samples" in shown
    assert "1 samples were skipped" in shown
    assert evaluate.main([*argv, "--all-questions"]) == 0
    made = json.loads(report.read_text())
    assert "all questions" in made["data"]
    assert all(block["n"]["malformed_rate"] == 2 for block in made["by_subtask"].values())
    assert "of it, what is shown" in capsys.readouterr().out


def test_evaluate_unseen_drawings(tmp_path: Path, no_weights: Mover) -> None:
    for found in drawing_cases(2, 3, (2, 3), "icons"):
        for index, image in enumerate(found.group.images):
            shown = [region for region in found.truth.regions if region.image == index]
            no_weights.know(image, [NamedMask(0, r.object_name, r.part_name, r.mask) for r in shown])
    report = tmp_path / "report.json"
    argv = ["--drawings", "2", "--seed", "3", "--unseen", "icons", "--group-size", "2", "3", "--json", str(report)]
    assert evaluate.main(argv) == 0
    made = json.loads(report.read_text())
    assert made["data"] == "2 and 3 unseen drawings (icons), seed 3"
    assert made["n_groups"] == 4
    assert set(made["by_difficulty"]) <= {"flat", "lines", "gradient"}


def test_a_stopped_evaluation_reports_on_what_was_done(
    tmp_path: Path, no_weights: Mover, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Iterator[Case]:
        yield case("g0", ("chair", "stool"), (0, 1), no_weights)
        raise KeyboardInterrupt

    monkeypatch.setattr("calico.evaluation.drawing_cases", interrupted)
    report = tmp_path / "report.json"
    assert evaluate.main(["--drawings", "9", "--json", str(report), "--encoder", "none"]) == 1
    assert "stopped after 1 of 9 groups" in capsys.readouterr().err
    made = json.loads(report.read_text())
    assert (made["n_groups"], made["stopped"], made["overall"]["SS"]) == (1, True, None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--drawings", "0"], "at least 1"),
        (["--drawings", "1", "--group-size", "9"], "2 to 8"),
        (["--drawings", "1", "--split", "test"], "--split goes with --data"),
        (["--data", ".", "--group-size", "2"], "--group-size goes with --drawings"),
        (["--data", ".", "--unseen", "icons"], "--unseen goes with --drawings"),
        (["--data", "."], "calico mixedparts build"),
        (["--data", ".", "--limit", "0"], "--limit is at least 1"),
        (["--data", ".", "--images", "a", "--images", "b"], "expected NAME=DIR"),
        (["--drawings", "1", "--encoder", "nowhere"], "config.json and model.safetensors"),
        ([], "one of the arguments --drawings --data --snapshot is required"),
    ],
)
def test_what_does_not_fit_is_refused(
    argv: list[str], message: str, no_weights: Mover, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(argv) == 2
    assert message in capsys.readouterr().err


def test_no_readable_sample_is_an_error(tmp_path: Path, no_weights: Mover, capsys: pytest.CaptureFixture[str]) -> None:
    write_index(tmp_path)
    argv = ["--data", str(tmp_path / "index"), "--images", str(tmp_path / "index")]
    assert evaluate.main([*argv, "--encoder", "lexical"]) == 2
    assert "none of 3 samples could be read" in capsys.readouterr().err
    with pytest.raises(InputError, match="no source nobody"):
        MixedParts(tmp_path / "index", images={"nobody": tmp_path})
