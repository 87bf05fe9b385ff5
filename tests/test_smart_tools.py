"""Clicks and names that are asked for, in tasks that bring their group's names: which regions the editor is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_fakes import FakeSegmenter, png
from flask.testing import FlaskClient

from backend.codecs.annotation import decode_annotation
from backend.codecs.config import read_config, write_config
from backend.codecs.parts import Vocabulary, with_parts
from backend.codecs.prediction import encode_prediction, region_id
from backend.http.app import create_app
from backend.prediction.predictor import Predictor
from backend.settings import Settings
from calico.correspondence import co_segmentation
from calico.values import CoSegmentation, ImageGroup, NamedMask

XML = write_config(2)
CONFIG = read_config(XML)
HEIGHT, WIDTH = 24, 32
LAMP_XYXY = (6, 4, 26, 20)  # its upper half, above row 12, is the shade


def lamp() -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left, top, right, bottom = LAMP_XYXY
    image[top:bottom, left:right] = 200
    return image


class Desk:
    """A task of two lamps whose labels are there, and a backend that answers about it."""

    def __init__(self, folder: Path) -> None:
        self.segmenter = FakeSegmenter()
        self.found = self.segmenter.segment(ImageGroup((lamp(), lamp())))
        paths = [folder / f"{i}.png" for i in range(2)]
        for path in paths:
            path.write_bytes(png(lamp()))
        data = {f"image{i}": str(path) for i, path in enumerate(paths, 1)}
        self.data = with_parts(data, self.found, CONFIG, Vocabulary())
        app = create_app(Settings(data_dir=folder / "data", media_roots=(folder,)), load=lambda: self.segmenter)
        self.services: Any = app.extensions["calico"]
        self.client: FlaskClient = app.test_client()
        self.taught: list[NamedMask] = []
        self.project = "3.17"

    def teach(self, name: str) -> np.ndarray:
        """From now on a part memory of project 3 sees this part on both lamps: its mask."""
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[13:19, 8:24] = True
        self.taught = [NamedMask(image, "lamp", name, mask, 0.41, True) for image in range(2)]

        def remembered(project, version, group, found, names):  # type: ignore[no-untyped-def]
            if project != "3.17":
                return found, version
            own = [NamedMask(r.image, r.object_name, r.part_name, r.mask, r.score) for r in found.regions]
            return co_segmentation(found.sizes_hw, [*own, *self.taught]), f"{version}+5 groups"

        own = self.services
        predictor = Predictor(own.engine, own.media, own.jobs, own.metrics, remembered=remembered)
        object.__setattr__(own, "predictor", predictor)  # it learns only where it has a host
        label = {"value": name, "background": "#000000", "hint": "part", "of": "lamp"}
        self.data["parts"].insert(2, label)
        return mask

    def ask(self, *rows: dict[str, Any], code: int = 200) -> dict[str, Any]:
        body = {
            "tasks": [{"id": 7, "data": self.data}],
            "project": self.project,
            "label_config": XML,
            "params": {"context": {"result": list(rows)}},
        }
        answer = self.client.post("/predict", json=body)
        assert answer.status_code == code, answer.json
        return answer.json["results"][0] if code == 200 else answer.json

    def regions(self, answer: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
        """Of each region its image and label."""
        labels = {row["id"]: row["value"]["labels"][0] for row in answer["result"] if row["type"] == "labels"}
        return {
            row["id"]: (row["to_name"], labels.get(row["id"])) for row in answer["result"] if row["type"] == "brush"
        }


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def click(x: int, y: int, label: str | None = None, *, image: int = 1, positive: bool = True) -> dict[str, Any]:
    """As the editor sends it: in percent, the label beside the point."""
    value = {"x": (x + 0.5) / WIDTH * 100, "y": (y + 0.5) / HEIGHT * 100, "width": 0.3}
    row = {"id": f"{x}.{y}", "type": "keypoint", "from_name": f"keypoint{image}", "to_name": f"img{image}"}
    row |= {"value": value | ({"labels": [label]} if label else {}), "is_positive": positive}
    return row | {"original_width": WIDTH, "original_height": HEIGHT}


def asked(text: str) -> dict[str, Any]:
    return {"id": "q", "type": "textarea", "from_name": "ask", "to_name": "img1", "value": {"text": [text]}}


def shade_id(desk: Desk, image: int) -> str:
    return region_id(7, next(r for r in desk.found.regions if r.image == image and r.name == "shade"))


def test_a_click_on_a_part_replaces_that_region_and_is_called_like_it(desk: Desk) -> None:
    assert desk.regions(desk.ask(click(10, 7))) == {shade_id(desk, 0): ("img1", "shade")}
    assert desk.segmenter.named == [], "the other image shows it already"


def test_the_chosen_label_is_kept_and_its_part_proposed_on_the_other_image(desk: Desk) -> None:
    desk.data["parts"].insert(2, {"value": "base", "background": "#000000", "hint": "part", "of": "lamp"})
    answer = desk.ask(click(10, 16, "base"))
    regions = desk.regions(answer)
    assert sorted(regions.values()) == [("img1", "base"), ("img2", "base")]
    assert desk.segmenter.named == [("base", {0: "lamp", 1: "lamp"}, (0,))]
    decoded = decode_annotation(answer, CONFIG, [(HEIGHT, WIDTH)] * 2, task_data=desk.data).cosegmentation
    (base,) = [region for region in decoded.regions if region.image == 1]
    assert base.mask.sum() == 8 * 20, "the lower half of the lamp"


def test_a_name_that_the_model_doubts_is_proposed_nowhere(desk: Desk) -> None:
    desk.data["parts"].insert(2, {"value": "cord", "background": "#000000", "hint": "part", "of": "lamp"})
    assert list(desk.regions(desk.ask(click(10, 16, "cord"))).values()) == [("img1", "cord")]


def test_another_name_for_a_predicted_part_is_proposed_where_it_corresponds(desk: Desk) -> None:
    desk.data["parts"].insert(2, {"value": "hood", "background": "#000000", "hint": "part", "of": "lamp"})
    regions = desk.regions(desk.ask(click(10, 7, "hood")))
    assert regions.pop(shade_id(desk, 1)) == ("img2", "hood"), "the same region under its new name"
    assert list(regions.values()) == [("img1", "hood")]


def test_background_is_answered_with_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(image, points_xy, labels, box_xyxy):  # type: ignore[no-untyped-def]
        mask = np.zeros(image.shape[:2], bool)
        mask[14:18, 8:20] = True
        return mask, 0.7

    monkeypatch.setattr(desk.segmenter, "segment_prompts", elsewhere)
    assert desk.ask(click(1, 1, "shade"))["result"] == []
    assert desk.regions(desk.ask(click(10, 7))) == {shade_id(desk, 0): ("img1", "shade")}, "what was predicted there"


def test_not_this_takes_away_from_what_was_accepted(desk: Desk) -> None:
    (region,) = desk.regions(desk.ask(click(10, 16, "other part")))
    again = desk.ask(click(14, 17, "other part", positive=False))
    assert list(desk.regions(again)) == [region]
    size, points, labels, _ = desk.segmenter.prompts[-1]
    assert (size, labels) == ((HEIGHT, WIDTH), (True, False))
    assert [tuple(map(int, point)) for point in points] == [(10, 16), (14, 17)]
    more = desk.ask(click(10, 16, "other part"), click(14, 17, "other part", positive=False))
    assert list(desk.regions(more)) == [region], "an editor that still has both"
    assert "at least one positive click" in desk.ask(click(3, 3, "shade", positive=False), code=400)["error"]


def taught_id(desk: Desk, image: int) -> str:
    found = co_segmentation(desk.found.sizes_hw, desk.taught)
    return region_id(7, next(r for r in found.regions if r.image == image))


def mask_of(desk: Desk, answer: dict[str, Any], image: int) -> np.ndarray:
    decoded: CoSegmentation = decode_annotation(
        answer, CONFIG, [(HEIGHT, WIDTH)] * 2, task_data=desk.data
    ).cosegmentation
    (region,) = [region for region in decoded.regions if region.image == image and region.part_name]
    return region.mask


def test_a_click_on_what_the_team_taught_has_its_name_its_mask_and_its_region(desk: Desk) -> None:
    """Of a new name that the model does not know: its score is low, its mask better than the mask decoder's."""
    taught = desk.teach("socket")
    answer = desk.ask(click(10, 16))
    assert desk.regions(answer) == {taught_id(desk, 0): ("img1", "socket")}, "image 2 shows it already"
    assert (mask_of(desk, answer, 0) == taught).all()
    again = desk.ask(click(12, 15))
    assert (mask_of(desk, again, 0) == taught).all(), "a second click that agrees with it"
    less = desk.ask(click(9, 14, "socket", positive=False))
    assert list(desk.regions(less)) == [taught_id(desk, 0)]
    assert not mask_of(desk, less, 0)[14, 9]


def test_another_name_for_what_the_team_taught_is_proposed_where_it_corresponds(desk: Desk) -> None:
    desk.teach("socket")
    desk.data["parts"].insert(2, {"value": "foot", "background": "#000000", "hint": "part", "of": "lamp"})
    regions = desk.regions(desk.ask(click(10, 16, "foot")))
    assert regions.pop(taught_id(desk, 1)) == ("img2", "foot")
    assert list(regions.values()) == [("img1", "foot")]


def test_what_another_project_taught_is_not_seen(desk: Desk) -> None:
    desk.teach("socket")
    desk.project = "4.17"
    assert list(desk.regions(desk.ask(click(10, 16, "other part"))).values()) == [("img1", "other part")]


def test_a_taught_part_is_shown_already_when_it_is_asked_for(desk: Desk) -> None:
    desk.teach("socket")
    assert desk.ask(asked("socket"))["result"][-1]["value"]["text"] == ["socket: on image 1 and 2 already"]


def test_a_box_is_answered_however_unsure_the_model_is_and_a_click_is_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = desk.segmenter.segment_prompts
    monkeypatch.setattr(desk.segmenter, "segment_prompts", lambda *asked: (answered(*asked)[0], 0.1))
    place = {"x": 10.0, "y": 20.0, "width": 80.0, "height": 70.0}
    box = click(10, 16, "other part") | {"type": "rectangle", "from_name": "rectangle1"}
    box["value"] = place | {"labels": ["other part"]}
    assert list(desk.regions(desk.ask(box)).values()) == [("img1", "other part")]
    assert desk.regions(desk.ask(click(10, 16, "other part"))) == {}


def test_a_click_elsewhere_is_another_region(desk: Desk) -> None:
    (first,) = desk.regions(desk.ask(click(8, 16, "other part")))
    (second,) = desk.regions(desk.ask(click(22, 16, "other part")))
    assert first != second


def test_a_part_is_asked_for_by_its_name(desk: Desk) -> None:
    answer = desk.ask(asked("The Base"))
    assert sorted(desk.regions(answer).values()) == [("img1", "other part"), ("img2", "other part")]
    texts = [row["value"]["text"] for row in answer["result"] if row["type"] == "textarea" and row["id"] != "q"]
    assert texts == [["base"], ["base"]], "no label says it yet"
    assert answer["result"][-1]["value"]["text"] == ["base: found on image 1 and 2"]
    assert desk.ask(asked("cord"))["result"][-1]["value"]["text"] == ["cord: no image shows it"]
    shade = desk.ask(asked("shade"))["result"]
    assert [row["value"]["text"] for row in shade] == [["shade: on image 1 and 2 already"]]
    assert "name of a part" in desk.ask(asked(" "), code=400)["error"]


def test_a_name_that_no_image_shows_yet_is_asked_of_the_others_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is asked whether a part is one image's alone says so of the first image that shows it."""
    answered = desk.segmenter.segment_named

    def first_only(*arguments: Any, shown: Sequence[int] = ()) -> dict[int, tuple[np.ndarray, float]]:
        found = answered(*arguments, shown=shown)
        return {i: (mask, score if shown or i == 0 else 0.0) for i, (mask, score) in found.items()}

    monkeypatch.setattr(desk.segmenter, "segment_named", first_only)
    assert sorted(desk.regions(desk.ask(asked("base"))).values()) == [("img1", "other part"), ("img2", "other part")]
    assert [shown for _, _, shown in desk.segmenter.named] == [(), (0,)]


@pytest.mark.parametrize(("agreeing", "expected"), [((0, 1), ["img1", "img2"]), ((1,), [])])
def test_images_that_are_believed_of_each_other_show_the_part(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, agreeing: tuple[int, ...], expected: list[str]
) -> None:
    """A model that says of no image that the part is its alone, but of both as if the other showed it."""
    answered = desk.segmenter.segment_named

    def in_company(*arguments: Any, shown: Sequence[int] = ()) -> dict[int, tuple[np.ndarray, float]]:
        found = answered(*arguments, shown=shown)
        return {i: (mask, score if shown and i in agreeing else 0.0) for i, (mask, score) in found.items()}

    monkeypatch.setattr(desk.segmenter, "segment_named", in_company)
    assert sorted(image for image, _ in desk.regions(desk.ask(asked("base"))).values()) == expected


def test_ids_are_those_of_the_prediction(desk: Desk) -> None:
    rows = encode_prediction(desk.found, CONFIG, model_version="v", task_id=7, task_data=desk.data).prediction["result"]
    assert shade_id(desk, 0) in {row["id"] for row in rows}
