"""What of a prediction people see: nothing of an image that the model is not sure of, no region with a low score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from backend_fakes import PAIR_XML, FakeSegmenter, png
from test_smart_tools import lamp

from backend.http.app import create_app
from backend.settings import Settings
from calico.correspondence import co_segmentation
from calico.inference.belief import UNSURE_IMAGE, UNSURE_REGION, warnings_of, worth_showing
from calico.pictures.group_page import write_group_page
from calico.values import CoSegmentation, ImageGroup, NamedMask, Occurrence, Problem

SIZES = ((8, 8), (8, 8))


def found(scores: list[dict[str | None, float]], problems: tuple[Problem, ...] = ()) -> CoSegmentation:
    """Of each image the scores by part, None for the object."""
    mask = np.ones((8, 8), bool)
    masks = [NamedMask(i, "cat", part, mask, score) for i, own in enumerate(scores) for part, score in own.items()]
    return co_segmentation(SIZES, masks, problems=problems)


def test_an_image_that_the_model_is_not_sure_of_shows_nothing():
    """And what was common with it is unique then."""
    shown = worth_showing(found([{None: 0.9, "ear": 0.8}, {None: 0.6, "ear": 0.3}]))
    assert [(region.image, region.name) for region in shown.regions] == [(0, "cat"), (0, "ear")]
    assert {region.occurrence for region in shown.regions} == {Occurrence.UNIQUE}
    assert [(problem.code, problem.image) for problem in shown.problems] == [(UNSURE_IMAGE, 1)]


def test_a_region_with_a_low_score_is_left_out_and_said():
    shown = worth_showing(found([{None: 0.9, "ear": 0.8, "tail": 0.39}, {None: 0.9, "ear": 0.41}]))
    assert [(region.image, region.name) for region in shown.regions if region.part_name] == [(0, "ear"), (1, "ear")]
    (problem,) = shown.problems
    assert problem.code == UNSURE_REGION
    assert "'tail' (0.39)" in problem.message


def test_what_a_team_taught_is_shown_however_low_its_score():
    mask = np.ones((8, 8), bool)
    masks = [
        NamedMask(image, "turbine", part, mask, score, is_taught)
        for image, rows in enumerate(
            [[(None, 0.4, True), ("blade", 0.2, True), ("lid", 0.2, False)], [(None, 0.4, False)]]
        )
        for part, score, is_taught in rows
    ]
    shown = worth_showing(co_segmentation(SIZES, masks))
    assert [(region.image, region.name) for region in shown.regions] == [(0, "turbine"), (0, "blade")]
    assert {problem.code for problem in shown.problems} == {UNSURE_IMAGE, UNSURE_REGION}


def test_what_is_sure_enough_stays_as_it_is():
    sure = found([{None: 0.9}, {None: 0.6, "ear": 0.5}])
    assert worth_showing(sure) is sure
    doubtful = found([{None: 0.1}, {None: 0.1}])
    assert worth_showing(doubtful, 0.0) is doubtful


def test_the_page_says_first_what_is_likely_wrong(tmp_path: Path):
    result = found([{None: 0.2, "blade": 0.2}, {None: 0.4, "knife": 0.4}])
    told = warnings_of(result)
    assert [line.partition(":")[0] for line in told] == ["image 1", "image 2"]
    blank = np.zeros((8, 8, 3), np.uint8)
    page = write_group_page(tmp_path, ImageGroup((blank, blank)), result).read_text()
    assert page.index("Likely wrong") < page.index("<h1>")
    sure = write_group_page(tmp_path, ImageGroup((blank, blank)), found([{None: 0.9}, {None: 0.9}])).read_text()
    assert "Likely wrong" not in sure


class Unsure(FakeSegmenter):
    """As the fake, with scores of 0.3 at most."""

    def segment(self, group, *, candidates=None):
        sure = super().segment(group, candidates=candidates)
        masks = [NamedMask(r.image, r.object_name, r.part_name, r.mask, r.score / 3) for r in sure.regions]
        return co_segmentation(sure.sizes_hw, masks)


def ask(folder: Path, **settings: float):
    """The answer about a task of two lamps, and the reason where there is none."""
    paths = [folder / f"{i}.png" for i in range(2)]
    for path in paths:
        path.write_bytes(png(lamp()))
    task = {"id": 7, "data": {f"image{i}": str(path) for i, path in enumerate(paths, 1)}}
    app = create_app(Settings(data_dir=folder / "data", media_roots=(folder,), **settings), load=Unsure)
    client = app.test_client()
    (result,) = client.post("/predict", json={"tasks": [task], "label_config": PAIR_XML}).json["results"]
    return result, client.get("/jobs?task=7").json["jobs"][0].get("reason")


def test_the_backend_proposes_nothing_that_it_does_not_believe(tmp_path: Path):
    result, reason = ask(tmp_path)
    assert result == []
    assert "not sure" in reason
    (tmp_path / "all").mkdir()
    everything, _ = ask(tmp_path / "all", min_score=0.0)
    assert everything["result"]
