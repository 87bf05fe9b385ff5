"""In a real browser: labels that are the group's own part names, and smart tools that answer on every image.

The masks are a fake segmenter's, so that each pixel is known; the way from a new task to its labels is the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from backend_fakes import FakeSegmenter
from chromium import Chromium
from live_backend import LiveBackend, make_project
from measure_desk import CONFIGS, Hand, Spoiled, corrected_group, drawn_case, errand_of
from test_browser import (
    BACKGROUND,
    LAMP,
    browser,
    client,
    color_at,
    drawing,
    keep,
    open_task,
    position,
    where_images_are,
)

from backend.codecs.config import write_config
from backend.codecs.palette import OKABE_ITO
from backend.demo.label_studio import LabelStudioHost
from backend.host.client import LabelStudioClient

__all__ = ["browser", "client"]  # fixtures

pytestmark = [pytest.mark.host, pytest.mark.browser]

CTRL, ALT = "\ue009", "\ue00a"
SIZES_WH = ((1280, 800), (1600, 1000))
OPACITY = 0.6  # of a brush mask in the editor
SUBMIT = "button[aria-label='Submit current annotation']"


@pytest.fixture(scope="module")
def task(
    client: LabelStudioClient, label_studio: LabelStudioHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int, FakeSegmenter]]:
    """The address and number of a new task, its group never predicted, its labels unknown, its backend connected."""
    segmenter = FakeSegmenter()
    with LiveBackend(label_studio, tmp_path_factory.mktemp("backend"), segmenter) as backend:
        config, pair = write_config(2), [drawing(), drawing()]
        project, (number,) = make_project(
            client, label_studio, "the desk", config, [pair], show_collab_predictions=True
        )
        client.connect_backend(project, backend.url, is_interactive=True)
        yield f"{label_studio.url}/projects/{project}/data?task={number}", number, segmenter


def held(browser: Chromium, key: str, do: Any) -> None:
    """With a key held down."""
    for kind in ("keyDown", "keyUp"):
        browser._do("POST", "/actions", actions=[{"type": "key", "id": "k", "actions": [{"type": kind, "value": key}]}])
        if kind == "keyDown":
            do()


def choose(browser: Chromium, name: str, image: int) -> None:
    script = """const all = [...document.querySelectorAll('.lsf-label')];
      const named = all.filter(e => e.innerText.startsWith(arguments[0]));
      if (named[arguments[1]]) named[arguments[1]].click(); return named.length;"""
    browser.wait_for(lambda: browser.run(script, name, image))


def regions(browser: Chromium) -> list[tuple[str, str]]:
    """(image, label) of each."""
    script = "return Htx.annotationStore.selected.regions.map(r => [r.object.name, r.labels.join('|')])"
    return [tuple(pair) for pair in browser.run(script)]


@pytest.mark.parametrize("size_wh", SIZES_WH, ids=str)
def test_a_name_has_one_colour_on_both_images(
    browser: Chromium, task: tuple[str, int, FakeSegmenter], size_wh: tuple[int, int]
) -> None:
    browser.resize(*size_wh)
    images = open_task(browser, task[0])
    shot = browser.screenshot()
    keep(shot, f"desk-{size_wh[0]}.png")
    assert images[0][0] + images[0][2] <= images[1][0], "the images lie beside each other"
    assert min(image[2] for image in images) >= 0.18 * size_wh[0]
    orange = np.array([int(OKABE_ITO[0][i : i + 2], 16) for i in (1, 3, 5)])
    seen = [color_at(shot, image, 300, 240) for image in images]
    assert np.abs(seen[0] - seen[1]).max() <= 3
    expected = OPACITY * orange + (1 - OPACITY) * (OPACITY * 200 + (1 - OPACITY) * np.array(LAMP))
    assert np.abs(seen[0] - expected).max() < 12, "the part's own colour over the light grey of the object"
    for image in images:
        assert np.abs(color_at(shot, image, 100, 500) - BACKGROUND).max() <= 6
        assert np.ptp(color_at(shot, image, 400, 400)) < 45, "the object alone is grey"
    labels = browser.run("return [...document.querySelectorAll('.lsf-label')].map(e => e.innerText.split('\\n')[0])")
    assert labels == ["lamp", "shade \u25cf", "other part"] * 2


def test_a_click_with_ctrl_is_answered_on_both_images(
    browser: Chromium, task: tuple[str, int, FakeSegmenter], client: LabelStudioClient
) -> None:
    """On top of the object's mask, with a name that the model knows but did not find: proposed on image 2, too."""
    address, number, segmenter = task
    data = client.task(number)["data"]
    base = {"value": "base", "background": "#009e73", "hint": "part", "of": "lamp"}
    client.update_task(number, {**data, "parts": [*data["parts"][:-1], base, data["parts"][-1]]})
    open_task(browser, address)
    browser.click_text("Auto-Annotation")
    keypoint = "return document.querySelectorAll(\"button[aria-label='key-point-tool']\")[0]"
    browser.wait_for(lambda: browser.run(f"{keypoint} !== undefined"))
    browser.run(f"{keypoint}.click()")
    choose(browser, "base", 0)
    before = regions(browser)
    held(browser, CTRL, lambda: browser.drag([position(where_images_are(browser)[0], 400, 400)]))
    suggestions = "return [...Htx.annotationStore.selected.suggestions.values()].map(r => r.object.name)"
    assert sorted(browser.wait_for(lambda: browser.run(suggestions))) == ["img1", "img2"]
    assert segmenter.named[-1][0] == "base"
    keep(browser.screenshot(), "desk-smart.png")
    browser.run("Htx.annotationStore.selected.acceptAllSuggestions()")
    added = [region for region in regions(browser) if region not in before]
    assert sorted(added) == [("img1", "base"), ("img2", "base")]
    not_this = position(where_images_are(browser)[0], 300, 430)
    held(browser, CTRL, lambda: held(browser, ALT, lambda: browser.drag([not_this])))
    browser.wait_for(lambda: len(segmenter.prompts) == 2)
    assert segmenter.prompts[-1][2] == (True, False), "Alt says: not this"


def test_a_wrong_name_is_one_click_or_one_key(browser: Chromium, task: tuple[str, int, FakeSegmenter]) -> None:
    """The key is the same on both images; that of `shade` is 1."""
    open_task(browser, task[0])
    script = "return Htx.annotationStore.selected.regions.findIndex(r => r.object.name + r.labels[0] === 'img2shade')"
    browser.click(".lsf-outliner-item", browser.run(script))
    choose(browser, "lamp", 1)
    browser.wait_for(lambda: regions(browser).count(("img2", "lamp")) == 2)
    browser.press("1")
    browser.wait_for(lambda: ("img2", "shade") in regions(browser))
    assert regions(browser).count(("img1", "shade")) == 1, "the other image's regions keep their names"


def test_submit_waits_for_a_name(
    browser: Chromium, task: tuple[str, int, FakeSegmenter], client: LabelStudioClient
) -> None:
    address, number, _ = task
    open_task(browser, address)
    browser.run("document.querySelectorAll(\"button[aria-label='brush-tool']\")[0].click()")
    choose(browser, "other part", 0)
    left = where_images_are(browser)[0]
    browser.drag([position(left, x, 550) for x in (260, 320, 380)])
    browser.click(SUBMIT)
    browser.wait_for(lambda: "Every region needs a name" in browser.text())
    assert client.annotations(number) == []


@pytest.mark.parametrize("layout", CONFIGS)
def test_what_the_scripted_annotator_submits_is_what_it_means(
    browser: Chromium,
    client: LabelStudioClient,
    label_studio: LabelStudioHost,
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
) -> None:
    """Of `measure_desk`: four corrections of a group, in the old and in the new layout, and no more than they take."""
    case = drawn_case(0)
    errand = errand_of(case, case.truth, np.random.default_rng(0))
    model = Spoiled(FakeSegmenter(), [errand])
    folder = tmp_path_factory.mktemp("backend")
    with LiveBackend(label_studio, folder, model, part_memory="0", min_score=0.0) as backend:
        images, title = [case.group.images], f"a desk, {layout}"
        project, (task,) = make_project(
            client, label_studio, title, CONFIGS[layout], images, show_collab_predictions=True
        )
        client.connect_backend(project, backend.url, is_interactive=True)
        client.retrieve_predictions(project)
        address = f"{label_studio.url}/projects/{project}/data?task={task}"
        browser.resize(1600, 1000)
        row = corrected_group(Hand(browser), client, layout, address, errand, None)
    assert row["is_right"], row
    assert (row["add"]["strokes"], row["delete"]["clicks"], row["delete"]["keys"]) == (2, 1, 1)
