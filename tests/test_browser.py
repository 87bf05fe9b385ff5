"""In a real browser: a pre-annotated task shows its masks, names and arrow; an annotator edits and submits it.

With CALICO_SCREENSHOTS=FOLDER the pictures that the tests look at are kept there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backend_fakes import FakeSegmenter
from chromium import Chromium
from conftest import chromium_executables
from live_backend import LiveBackend, make_project
from old_layouts import write_old_config as write_config
from PIL import Image

from backend.codecs.annotation import decode_annotation
from backend.codecs.brush_rle import decode
from backend.codecs.config import read_config
from backend.demo.label_studio import LabelStudioHost
from backend.host.client import LabelStudioClient

pytestmark = [pytest.mark.host, pytest.mark.browser]

HEIGHT, WIDTH = 600, 800
LAMP_XYXY = (200, 150, 600, 450)  # the bright rectangle; its upper half (above the image's middle) is the shade
BACKGROUND, LAMP = (40, 40, 90), (230, 220, 120)

# Where each image is drawn, in viewport pixels: left, top, width, height.
IMAGES_SCRIPT = """
return [...document.querySelectorAll('.konvajs-content')].map(content => {
  const r = content.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })
"""


def drawing() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    left, top, right, bottom = LAMP_XYXY
    image[top:bottom, left:right] = LAMP
    return image


@pytest.fixture(scope="module")
def client(label_studio: LabelStudioHost) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(label_studio.url, label_studio.account.token) as connected:
        yield connected


@pytest.fixture(scope="module")
def browser(label_studio: LabelStudioHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Logged in."""
    with Chromium(*chromium_executables(), tmp_path_factory.mktemp("chromium")) as chromium:
        chromium.log_in(label_studio.url, label_studio.account.user, label_studio.account.password)
        yield chromium


@pytest.fixture(scope="module")
def segmenter() -> FakeSegmenter:
    return FakeSegmenter()


@pytest.fixture(scope="module")
def tasks(
    client: LabelStudioClient,
    label_studio: LabelStudioHost,
    segmenter: FakeSegmenter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[str]]:
    """The addresses of pre-annotated pairs, their backend connected."""
    with LiveBackend(label_studio, tmp_path_factory.mktemp("backend"), segmenter) as backend:
        config, pair = write_config(2, layout="A", smart=True), [drawing(), drawing()]
        project, numbers = make_project(client, label_studio, "in the browser", config, [pair, pair, pair])
        client.connect_backend(project, backend.url, is_interactive=True)
        client.retrieve_predictions(project)
        yield [f"{label_studio.url}/projects/{project}/data?task={number}" for number in numbers]


def keep(screenshot: np.ndarray, name: str) -> None:
    if folder := os.environ.get("CALICO_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(screenshot).save(Path(folder) / name)


def where_images_are(browser: Chromium) -> list[list[float]]:
    """Once the page has come to rest: bars that open and pictures that arrive move them."""
    last: list[list[float]] = []

    def at_rest() -> list[list[float]] | None:
        nonlocal last
        before, last = last, browser.run(IMAGES_SCRIPT)
        return last if len(last) == 2 and last == before else None

    return browser.wait_for(at_rest)


def open_task(browser: Chromium, address: str) -> list[list[float]]:
    """Opens the task and waits until its masks are drawn. Where the images are."""
    browser.open(address)

    def images() -> list[list[float]] | None:
        found = where_images_are(browser)
        shot = browser.screenshot()
        return found if all(np.abs(color_at(shot, image, 400, 400) - LAMP).max() > 25 for image in found) else None

    return browser.wait_for(images)


def position(image: list[float], x: float, y: float) -> tuple[int, int]:
    """Where a pixel of the image is in the viewport."""
    left, top, width, height = image
    return round(left + (x + 0.5) / WIDTH * width), round(top + (y + 0.5) / HEIGHT * height)


def color_at(screenshot: np.ndarray, image: list[float], x: float, y: float) -> np.ndarray:
    """The colour shown at a pixel of the image."""
    column, row = position(image, x, y)
    return screenshot[row, column].astype(int)


def number_of(address: str) -> int:
    return int(address.rpartition("=")[2])


def test_masks_names_and_the_arrow_are_seen(browser: Chromium, tasks: list[str]) -> None:
    images = open_task(browser, tasks[0])
    shot = browser.screenshot()
    keep(shot, "masks.png")
    for image in images:
        background, shade, base = (color_at(shot, image, x, y) for x, y in ((100, 500), (300, 240), (400, 400)))
        assert np.abs(background - BACKGROUND).max() <= 6  # untouched
        assert np.abs(base - LAMP).max() > 25  # under the grey of the object
        assert np.abs(shade - base).max() > 15  # and the green of the common part on top of it
        assert shade.argmax() == 1
    names = browser.run("return [...document.querySelectorAll('input, textarea')].map(field => field.value)")
    assert (names.count("lamp"), names.count("shade")) == (2, 2)
    # The arrow runs above the shades, from the middle of one to the middle of the other: red across the blue.
    for image, x in zip(images, (500, 300), strict=True):
        column = np.array([color_at(shot, image, x, y) for y in range(10, LAMP_XYXY[1] - 10)])
        assert (column[:, 0] - column[:, 2]).max() > 60
        elsewhere = np.array([color_at(shot, image, WIDTH - x, y) for y in range(10, LAMP_XYXY[1] - 10)])
        assert (elsewhere[:, 0] - elsewhere[:, 2]).max() < 0


def test_an_edit_is_submitted(browser: Chromium, client: LabelStudioClient, tasks: list[str]) -> None:
    """Paints over the lamp's foot with the shade of image 1 chosen, and submits."""
    number = number_of(tasks[1])
    open_task(browser, tasks[1])
    (prediction,) = client.predictions(task=number)
    shade = next(row["id"] for row in prediction["result"] if row["value"].get("brushlabels") == ["common part"])
    browser.click(".lsf-outliner-item", 0)  # the first region, the shade of image 1
    browser.click("button[aria-label='brush-tool']")
    left_image = where_images_are(browser)[0]
    browser.drag([position(left_image, x, 400) for x in (260, 360, 460, 540)])
    keep(browser.screenshot(), "edited.png")
    browser.click("button[aria-label='Submit current annotation']")
    (annotation,) = browser.wait_for(lambda: client.annotations(number))
    assert annotation["parent_prediction"] == prediction["id"]

    config = read_config(write_config(2, layout="A", smart=True))
    before = decode_annotation(prediction, config).cosegmentation.by_key
    after = decode_annotation(annotation, config).cosegmentation.by_key
    assert before.keys() == after.keys()
    for key, region in before.items():
        painted = after[key].mask & ~region.mask
        assert (after[key].mask | ~region.mask).all(), f"{key}: the edit took pixels away"
        if key == (0, "part", "shade"):
            rows, columns = np.nonzero(painted)
            assert painted[400, 260:540].all()
            assert rows.min() > 300
            assert columns.min() > 200
            assert columns.max() < 600
        else:
            assert not painted.any(), f"{key}: touched by an edit elsewhere"
    origins = {row["id"]: row["origin"] for row in annotation["result"] if row["type"] == "brushlabels"}
    assert origins.pop(shade) == "prediction-changed"
    assert set(origins.values()) == {"prediction"}


def test_a_smart_click_adds_a_mask(
    browser: Chromium, client: LabelStudioClient, segmenter: FakeSegmenter, tasks: list[str]
) -> None:
    """A keypoint on the background of image 2, labelled a unique part: the backend answers with a mask there."""
    number = number_of(tasks[2])
    open_task(browser, tasks[2])
    browser.click_text("Auto-Annotation")
    browser.click_text("Auto-Accept Suggestions")
    keypoint = (
        "return document.querySelectorAll(\"button[aria-label='key-point-tool']\")[1]"  # folded away: no real click
    )
    browser.wait_for(lambda: browser.run(f"{keypoint} !== undefined"))
    browser.run(f"{keypoint}.click()")
    browser.click(".lsf-label", 14)  # 9 of image 1, 3 of image 2's brush, then its keypoint's third
    browser.drag([position(where_images_are(browser)[1], 100, 500)])
    browser.wait_for(lambda: segmenter.prompts)
    (size_hw, (point_xy,), labels, box) = segmenter.prompts[-1]
    assert (size_hw, labels, box) == ((HEIGHT, WIDTH), (True,), None)
    assert np.abs(np.subtract(point_xy, (100, 500))).max() < 4
    browser.wait_for(lambda: browser.run("return Htx.annotationStore.selected.regions.length") == 5)
    keep(browser.screenshot(), "smart.png")
    browser.click("button[aria-label='Submit current annotation']")
    (annotation,) = browser.wait_for(lambda: client.annotations(number))
    before = {row["id"] for row in client.predictions(task=number)[0]["result"] if row["type"] == "brushlabels"}
    (added,) = [row for row in annotation["result"] if row["type"] == "brushlabels" and row["id"] not in before]
    assert (added["to_name"], added["value"]["brushlabels"]) == ("img2", ["unique part"])
    rows, columns = np.nonzero(decode(added["value"]["rle"], HEIGHT, WIDTH))
    assert abs(rows.mean() - 500) < 4
    assert abs(columns.mean() - 100) < 4
