"""Counts what an annotator does at the desk: ten groups corrected in a browser, with the old layout and the new one.

    python tests/measure_desk.py [--groups 10] [--json FILE] [--pictures FOLDER]

Needs the demo's Label Studio (`calico demo --install`), chromium and chromedriver. The groups are held-out drawings
with the embedded checkpoint's predictions, in which four things are made wrong, the same in both layouts: one part has
another name, one common part and then another is missing on both images, and a region lies where nothing is. A scripted
annotator who knows the truth mends each with mouse and keys alone, and submits; what is stored is held against what was
meant. The page itself counts clicks, strokes, keys and scrolls. Seconds are those of a hand, by the keystroke-level
model, and the wait for the page, measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chromium import Chromium  # noqa: E402
from conftest import chromium_executables  # noqa: E402
from live_backend import LiveBackend, make_project  # noqa: E402
from old_layouts import write_old_config  # noqa: E402

from backend.codecs.annotation import decode_annotation  # noqa: E402
from backend.codecs.config import read_config, write_config  # noqa: E402
from backend.demo.label_studio import LabelStudioHost  # noqa: E402
from backend.host.client import LabelStudioClient  # noqa: E402
from backend.prediction.protocol import Segmenter  # noqa: E402
from calico.correspondence import co_segmentation  # noqa: E402
from calico.data.groups import stream_seed  # noqa: E402
from calico.drawings import PART_NAMES, PARTS_OF, draw  # noqa: E402
from calico.evaluation.cases import Case  # noqa: E402
from calico.inference.segmenter import CoSegmenter  # noqa: E402
from calico.masks import deepest_point, dilate, iou  # noqa: E402
from calico.values import CoSegmentation, ImageGroup, NamedMask, RegionKey  # noqa: E402

SEED, SIDE = 19, 512
PAIRS = (
    ("chair", "stool"), ("mug", "teapot"), ("car", "truck"), ("bird", "bird"), ("lamp", "lamp"),
    ("dog", "dog"), ("chair", "chair"), ("bicycle", "bicycle"), ("airplane", "airplane"), ("truck", "car"),
)  # fmt: skip
CONFIGS = {"old": write_old_config(2, smart=True), "new": write_config(2)}
ACTIONS = ("rename", "add", "delete", "smart")
RIGHT_IOU = 0.5
RADIUS = 30  # of the region where nothing is, in pixels
WINDOW_WH = (1600, 1000)
BACKSPACE, ENTER, CTRL, ALT = "\ue003", "\ue007", "\ue009", "\ue00a"
#: Card, Moran and Newell, The Psychology of Human-Computer Interaction, 1983: seconds to point at something, to press
#: and let go of a button, of a key of an average typist. A stroke points twice, a turn of the wheel is a pointing.
POINT_S, PRESS_S, KEY_S = 1.1, 0.2, 0.28
HAND_S = {"clicks": POINT_S + PRESS_S, "strokes": 2 * POINT_S + PRESS_S, "keys": KEY_S, "scrolls": POINT_S}

COUNT = """
window.desk = {clicks: 0, strokes: 0, keys: 0, scrolls: 0};
let from = null;
const on = (name, count) => window.addEventListener(name, event => event.isTrusted && count(event), true);
on('mousedown', e => { from = [e.clientX, e.clientY]; });
on('mouseup', e => {
  const moved = from && Math.hypot(e.clientX - from[0], e.clientY - from[1]) > 5;
  window.desk[moved ? 'strokes' : 'clicks'] += 1; });
on('keydown', e => { if (!e.repeat) window.desk.keys += 1; });
on('wheel', () => { window.desk.scrolls += 1; });
"""
REGIONS = """return Htx.annotationStore.selected.regions.map(r =>
  ({id: r.cleanId, image: r.object.name, label: r.labels.join('|'),
    name: r.results.filter(s => s.type === 'textarea').map(s => s.mainValue.join(' ')).join(' ')}))"""
# Where the middle of an element is; whether it is seen there, and if not the middle of what scrolls it, and how far.
PLACE = """
const found = (() => { %s })();
if (!found) return null;
const r = found.getBoundingClientRect(), x = r.left + r.width / 2, y = r.top + r.height / 2;
const top = document.elementFromPoint(x, y);
if (top && (found.contains(top) || top.contains(found))) return {x, y, seen: true};
const scrolls = e => /auto|scroll/.test(getComputedStyle(e).overflowY) || e.className === 'lsf-tree-list-holder';
let box = found.parentElement;
while (box && !(box.scrollHeight > box.clientHeight + 4 && scrolls(box))) box = box.parentElement;
const b = (box || document.documentElement).getBoundingClientRect();
return {x: b.left + b.width / 2, y: b.top + b.height / 2, seen: false, shift: y - b.top - b.height / 2};
"""
# The row of a region in the list, which holds in the page only those rows that are seen: else where to turn the wheel.
ROW = """
const index = Htx.annotationStore.selected.regions.find(r => r.cleanId === '%s').region_index;
const rows = [...document.querySelectorAll('.lsf-outliner-item')];
const number = row => Number(row.querySelector('.lsf-outliner-item__index').innerText);
const row = rows.find(row => number(row) === index);
"""
PART_OF_ROW = ROW + "return row && row.querySelector('%s')"
FAR = (
    ROW
    + """
const b = document.querySelector('.lsf-tree-list-holder').getBoundingClientRect();
return {x: b.left + b.width / 2, y: b.top + b.height / 2, shift: (index < number(rows[0]) ? -0.8 : 0.8) * b.height};
"""
)
TITLE, FIELD = ".lsf-outliner-item__title", ".lsf-textarea-tag__input"
IMAGES = """return [...document.querySelectorAll('.konvajs-content')].map(e => e.getBoundingClientRect())
  .map(r => [r.left, r.top, r.width, r.height])"""
SMART_TOOL = (
    "return [...document.querySelectorAll('.lsf-toolbar')[%d].querySelectorAll('button')].find(e => !e.ariaLabel)"
)
TOOL = """const image = Htx.annotationStore.selected.names.get('img%d');
return image.getToolsManager().findSelectedTool()?.fullName || ''"""
BRUSH = "BrushTool"
BRUSH_BUTTON = "return document.querySelectorAll('.lsf-toolbar')[%d].querySelector('[aria-label=brush-tool]')"
NUM_SUGGESTIONS = "return Htx.annotationStore.selected.suggestions.size"
NUM_ANSWERS = "return performance.getEntriesByType('resource').filter(e => e.name.includes('interactive')).length"


@dataclass(frozen=True, eq=False)
class Errand:
    """One group as it is shown, and what is to be done to it.

    shown: the prediction with four things made wrong. renamed: the part that bears `wrong_name`. added, clicked: names
    of the common parts that are missing on both images. false: the region where nothing is.
    """

    case: Case
    shown: CoSegmentation
    renamed: RegionKey
    wrong_name: str
    added: str
    clicked: str
    false: RegionKey

    @property
    def meant(self) -> set[tuple[int, str, str]]:
        """(image, kind, name) of what should be submitted."""
        keys = {tuple(region.key) for region in self.shown.regions}
        keys -= {tuple(self.false), (self.renamed.image, "part", self.wrong_name)}
        keys |= {tuple(self.renamed)}
        return keys | {(image, "part", name) for image in (0, 1) for name in (self.added, self.clicked)}


def drawn_case(number: int) -> Case:
    names = PAIRS[number % len(PAIRS)]
    images = [
        draw(stream_seed("eval", SEED, number, i), size_hw=(SIDE, SIDE), object_name=name, difficulty="clean")
        for i, name in enumerate(names)
    ]
    return Case.of_annotated(f"desk-{number}", images)


def errands(segmenter: CoSegmenter, num_groups: int) -> Iterator[Errand]:
    rng = np.random.default_rng(SEED)
    for case in map(drawn_case, range(num_groups)):
        yield errand_of(case, segmenter.segment(case.group), rng)


def errand_of(case: Case, predicted: CoSegmentation, rng: np.random.Generator) -> Errand:
    """Raises ValueError where too little was predicted to make it wrong."""
    truth = case.truth.by_key
    right = [
        region.key
        for region in predicted.regions
        if region.part_name is not None
        and region.key in truth
        and iou(region.mask, truth[region.key].mask) >= RIGHT_IOU
    ]
    common = sorted({key.name for key in right if {(0, "part", key.name), (1, "part", key.name)} <= set(right)})
    if len(common) < 2:
        raise ValueError(f"{case.group_id}: only {common} are right on both images")
    added, clicked = (common[k] for k in rng.permutation(len(common))[:2])
    rest = [key for key in right if key.name not in (added, clicked)]
    if not rest:
        raise ValueError(f"{case.group_id}: no part is left to be renamed")
    renamed = rest[rng.integers(len(rest))]
    used = {region.part_name for region in predicted.regions} | {key.name for key in truth}
    own = [name for name in PARTS_OF[predicted.by_key[renamed].object_name] if name not in used]
    others = [name for name in PART_NAMES if name not in used]
    wrong_name, false_name = (own or others[:1])[0], others[-1]
    size_hw = case.group.sizes_hw[1]
    objects = np.any([region.mask for region in case.truth.regions if region.image == 1], 0)
    x, y = deepest_point(~dilate(objects, 4))
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    disk = (rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2
    masks = []
    for region in predicted.regions:
        if region.part_name in (added, clicked):
            continue
        name = wrong_name if region.key == renamed else region.part_name
        masks.append(NamedMask(region.image, region.object_name, name, region.mask, region.score))
    object_name = next(region.object_name for region in predicted.regions if region.image == 1)
    masks.append(NamedMask(1, object_name, false_name, disk, 0.9))
    shown = co_segmentation(predicted.sizes_hw, masks)
    return Errand(case, shown, renamed, wrong_name, added, clicked, RegionKey(1, "part", false_name))


class Stuck(Exception):
    """The page did not do what the annotator waits for."""


class Spoiled:
    """The model, whose predictions of the groups of some errands are what these show."""

    def __init__(self, segmenter: Segmenter, todo: Sequence[Errand]) -> None:
        self._segmenter = segmenter
        self._shown = {errand.case.group.digests: errand.shown for errand in todo}
        self.version = segmenter.version

    def segment_many(
        self, groups: Sequence[ImageGroup], *, candidates: Sequence[Sequence[str] | None]
    ) -> list[CoSegmentation]:
        return [self._shown[group.digests] for group in groups]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)


class Hand:
    """Mouse and keyboard of one annotator, at one page."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser
        self.waited_s = 0.0

    def open(self, address: str) -> None:
        self.browser.open(address)
        self.browser.wait_for(
            lambda: self.browser.run("return window.Htx && Htx.annotationStore.selected") and self.regions
        )
        self.browser.settle()
        self.browser.run(COUNT)

    @property
    def regions(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.browser.run(REGIONS)
        return found

    def place(self, script: str, far: str = "") -> tuple[float, float]:
        """Of an element, brought into view with the wheel. script: a JavaScript function body that gives it.

        far: one that says where to turn the wheel while the page does not have the element.
        """
        for _ in range(20):
            place = self.until(lambda: self.browser.run(PLACE % script) or (far and self.browser.run(far)))
            if place.get("seen"):
                return place["x"], place["y"]
            self.browser.wheel((round(place["x"]), round(place["y"])), round(place["shift"]))
            time.sleep(0.3)  # the list moves
        raise Stuck(f"not to be brought into view: {script}")

    def click(self, script: str) -> None:
        self.click_at(self.place(script))

    def click_row(self, region: str, part: str = TITLE) -> None:
        self.click_at(self.place(PART_OF_ROW % (region, part), FAR % region))

    def click_at(self, point_xy: tuple[float, float]) -> None:
        self.browser.drag([(round(point_xy[0]), round(point_xy[1]))])

    def until(self, what: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        deadline = started + 60
        while not (value := what()):
            if time.perf_counter() > deadline:
                raise Stuck(f"nothing after 60 s; regions: {self.regions}")
            time.sleep(0.02)
        self.waited_s += time.perf_counter() - started
        return value

    @contextmanager
    def held(self, *keys: str) -> Iterator[None]:
        for key in keys:
            self.browser.key("keyDown", key)
        yield
        for key in reversed(keys):
            self.browser.key("keyUp", key)

    @contextmanager
    def counted(self, into: dict[str, float]) -> Iterator[None]:
        before, self.waited_s = self.browser.run("return window.desk"), 0.0
        yield
        after = self.browser.run("return window.desk")
        into |= {kind: after[kind] - before[kind] for kind in before}
        into["waited_s"] = self.waited_s
        into["seconds"] = self.waited_s + sum(HAND_S[kind] * into[kind] for kind in HAND_S)


class Desk:
    """A layout's page, with one errand on it: what an annotator does there."""

    def __init__(self, hand: Hand, errand: Errand) -> None:
        self.hand, self.errand = hand, errand
        self.browser = hand.browser

    # -- what both have in common -------------------------------------------------------------------------------------

    def region(self, image: int, name: str) -> str:
        """The id of the region of that name."""
        return self.hand.until(
            lambda: next(
                (r["id"] for r in self.hand.regions if r["image"] == f"img{image + 1}" and self.name(r) == name), ""
            )
        )

    def name(self, region: Mapping[str, str]) -> str:
        return region["name"] or region["label"]

    def new_region(self, before: Sequence[Mapping[str, str]]) -> str:
        known = {region["id"] for region in before}
        return self.hand.until(lambda: next((r["id"] for r in self.hand.regions if r["id"] not in known), ""))

    def position(self, image: int, x: float, y: float) -> tuple[int, int]:
        """Of a pixel, in the viewport."""
        left, top, width, height = self.browser.run(IMAGES)[image]
        return round(left + (x + 0.5) / SIDE * width), round(top + (y + 0.5) / SIDE * height)

    def on_canvas(self, image: int, xy: tuple[int, int]) -> bool:
        """Whether a pixel can be reached: the editor's slider lies over the images."""
        script = "return Boolean(document.elementFromPoint(arguments[0], arguments[1])?.closest('.konvajs-content'))"
        return bool(self.browser.run(script, *self.position(image, *xy)))

    def point(self, image: int, name: str) -> tuple[tuple[int, int], np.ndarray]:
        """A pixel in the middle of the part that can be reached, and the part's mask."""
        mask = self.errand.case.truth.by_key[RegionKey(image, "part", name)].mask
        rest = mask.copy()
        while rest.any():
            x, y = deepest_point(rest)
            if self.on_canvas(image, (x, y)):
                return (x, y), mask
            rest[:, max(0, x - 20) : x + 20] = False
        raise Stuck(f"no pixel of the {name} of image {image + 1} can be reached")

    def stroke(self, image: int, name: str) -> str:
        """Across the part; the id of the region that it makes."""
        (x, y), mask = self.point(image, name)
        ends = (x + shift for shift in (60, -60, 40, -40, 20, -20, 10, -10) if self._is_part(image, mask, x + shift, y))
        end = next(ends, x + 8)
        if self.browser.run(TOOL % (image + 1)) != BRUSH:
            self.hand.click(BRUSH_BUTTON % image)
            self.hand.until(lambda: self.browser.run(TOOL % (image + 1)) == BRUSH)
        before = self.hand.regions
        self.browser.drag([self.position(image, x, y), self.position(image, end, y)])
        return self.new_region(before)

    def _is_part(self, image: int, mask: np.ndarray, x: int, y: int) -> bool:
        return 0 <= x < mask.shape[1] and bool(mask[y, x]) and self.on_canvas(image, (x, y))

    def ask(self, image: int, name: str) -> bool:
        """With the point tool, and Ctrl, which lets a click through masks. Whether the answer has a mask."""
        xy, _ = self.point(image, name)
        before = self.browser.run(NUM_ANSWERS)
        with self.hand.held(CTRL):
            self.hand.click_at(self.position(image, *xy))
        self.hand.until(lambda: self.browser.run(NUM_SUGGESTIONS) or self.browser.run(NUM_ANSWERS) > before)
        time.sleep(0.3)  # from the answer to what is shown of it
        return bool(self.browser.run(NUM_SUGGESTIONS))

    def choose_point_tool(self, image: int) -> None:
        while "KeyPoint" not in self.browser.run(TOOL % (image + 1)):
            self.hand.click(SMART_TOOL % image)
            time.sleep(0.2)

    def delete(self) -> None:
        false = self.errand.false
        region = self.region(false.image, false.name)
        self.hand.click_row(region)
        self.browser.press(BACKSPACE)
        self.hand.until(lambda: region not in {r["id"] for r in self.hand.regions})

    def accept(self) -> None:
        self.hand.click("return document.querySelector('.lsf-auto-accept__action_type_accept')")
        self.hand.until(lambda: not self.browser.run(NUM_SUGGESTIONS))

    def submit(self) -> None:
        self.hand.click("return document.querySelector(\"button[aria-label='Submit current annotation']\")")


class OldDesk(Desk):
    """Every region is an object, a common or a unique part; its name is a text, an arrow says what corresponds."""

    COMMON_BRUSH, COMMON_POINT = "2q", "5t"  # the keys of `common part` beside each image's brush and key point

    def write(self, region: str, name: str, *, over: bool = False) -> None:
        """Into the region's field. over: in place of what stands there."""
        self.hand.click_row(region, FIELD)
        if over:
            with self.hand.held(CTRL):
                self.browser.press("a")
        self.browser.press(name + ENTER)
        self.hand.until(lambda: any(r["id"] == region and r["name"] == name for r in self.hand.regions))

    def rename(self) -> None:
        errand = self.errand
        self.write(self.region(errand.renamed.image, errand.wrong_name), errand.renamed.name, over=True)

    def add(self) -> None:
        ids = []
        for image, key in enumerate(self.COMMON_BRUSH):
            self.browser.press(key)
            ids.append(self.stroke(image, self.errand.added))
            self.write(ids[-1], self.errand.added)
            self.browser.press("u")  # lets go of the region, or the next key would label it anew
        self.hand.click_row(ids[0])
        with self.hand.held(ALT):
            self.browser.press("r")
        self.hand.click_row(ids[1])
        self.hand.until(lambda: self.browser.run("return Htx.annotationStore.selected.relationStore.size"))
        self.browser.press("u")

    def smart(self) -> None:
        for image, key in enumerate(self.COMMON_POINT):
            self.choose_point_tool(image)
            self.browser.press(key)
            before = self.hand.regions
            if self.ask(image, self.errand.clicked):
                self.accept()
                region = self.new_region(before)
            else:
                self.browser.press("u" + self.COMMON_BRUSH[image])
                region = self.stroke(image, self.errand.clicked)
            if next(r["name"] for r in self.hand.regions if r["id"] == region) != self.errand.clicked:
                self.write(region, self.errand.clicked)
            self.browser.press("u")


class NewDesk(Desk):
    """The labels are the group's names; the same name on both images is the same part."""

    def __init__(self, hand: Hand, errand: Errand, parts: Sequence[Mapping[str, str]]) -> None:
        """parts: of the task's data."""
        super().__init__(hand, errand)
        self.keys = {item["value"]: item["hotkey"] for item in parts}

    def choose(self, name: str) -> bool:
        """By its key; whether it is listed. If not, `other part`, which wants the name in words."""
        self.browser.press(self.keys.get(name, self.keys["other part"]))
        return name in self.keys

    def write(self, region: str, name: str) -> None:
        """Into the field below the images that a region labelled `other part` brings."""
        image = next(r["image"] for r in self.hand.regions if r["id"] == region).removeprefix("img")
        self.hand.click(f"return document.querySelector('input[name=name{image}]')")
        self.browser.press(name + ENTER)
        self.hand.until(lambda: any(r["id"] == region and r["name"] == name for r in self.hand.regions))

    def rename(self) -> None:
        errand = self.errand
        region = self.region(errand.renamed.image, errand.wrong_name)
        self.hand.click_row(region)
        if not self.choose(errand.renamed.name):
            self.write(region, errand.renamed.name)
        self.region(errand.renamed.image, errand.renamed.name)

    def add(self) -> None:
        for image in (0, 1):
            is_listed = self.choose(self.errand.added)
            region = self.stroke(image, self.errand.added)
            if not is_listed:
                self.write(region, self.errand.added)
            self.browser.press("u")  # lets go of the region, or the next key would name it anew

    def smart(self) -> None:
        """A point on image 1 is answered on image 2, too. A name that is not listed is asked for in words first."""
        name = self.errand.clicked
        if name not in self.keys:
            self.ask_by_name(name)
        for image in (0, 1):
            if any(r["image"] == f"img{image + 1}" and self.name(r) == name for r in self.hand.regions):
                continue
            self.choose_point_tool(image)
            is_listed = self.choose(name)
            before = self.hand.regions
            if self.ask(image, name):
                self.accept()
                region = self.new_region(before)
            else:
                self.browser.press("u")
                self.choose(name)
                region = self.stroke(image, name)
            if not is_listed:
                self.hand.click_row(region)
                self.write(region, name)
            self.browser.press("u")

    def ask_by_name(self, name: str) -> None:
        self.hand.click("return document.querySelector('input[name=ask]')")
        self.browser.press(name + ENTER)
        is_answered = f"return document.body.innerText.includes({json.dumps(name + ': ')})"
        self.hand.until(lambda: self.browser.run(NUM_SUGGESTIONS) or self.browser.run(is_answered))
        if self.browser.run(NUM_SUGGESTIONS):
            self.accept()


def rows_of(client: LabelStudioClient, task: int) -> list[Any]:
    annotations = client.annotations(task)
    return annotations[0]["result"] if annotations else []


def correct(hand: Hand, desk: Desk) -> dict[str, dict[str, float]]:
    """All four, and what each took. The smart tool comes last: it leaves another tool chosen."""
    counts: dict[str, dict[str, float]] = {}
    for action in ACTIONS:
        hand.browser.press("u")  # nothing is selected
        time.sleep(0.3)
        counts[action] = {}
        with hand.counted(counts[action]):
            getattr(desk, action)()
    return counts


def corrected_group(
    hand: Hand, client: LabelStudioClient, layout: str, address: str, errand: Errand, pictures: Path | None
) -> dict[str, Any]:
    """What one group took in one layout, and whether what is stored is what was meant."""
    task = int(address.rpartition("=")[2])
    browser, data = hand.browser, client.task(task)["data"]
    hand.open(address)
    if not browser.run("return Htx.autoAnnotation"):
        browser.click_text("Auto-Annotation")
        browser.settle()
    desk = OldDesk(hand, errand) if layout == "old" else NewDesk(hand, errand, data["parts"])
    row: dict[str, Any] = {"is_right": False}
    if isinstance(desk, NewDesk):
        row["num_listed"] = sum(name in desk.keys for name in (errand.renamed.name, errand.added, errand.clicked))
    try:
        row |= correct(hand, desk)
        if pictures is not None:
            keep(browser, pictures / f"{layout}-{task}.png")
        desk.submit()
        rows = hand.until(lambda: rows_of(client, task))
    except Stuck as error:
        if pictures is not None:
            keep(browser, pictures / f"stuck-{layout}-{task}.png")
        return row | {"stuck": str(error)}
    config = read_config(CONFIGS[layout])
    got = {tuple(r.key) for r in decode_annotation(rows, config, task_data=data).cosegmentation.regions}
    row |= {"is_right": got == errand.meant}
    if got != errand.meant:
        row |= {"missing": sorted(errand.meant - got), "superfluous": sorted(got - errand.meant)}
    return row


def measure(num_groups: int, pictures: Path | None = None) -> dict[str, Any]:
    """Both layouts, the same groups. pictures: a folder for one of each group, as it is submitted."""
    segmenter = CoSegmenter.from_checkpoint()
    todo = list(errands(segmenter, num_groups))
    report: dict[str, Any] = {"checkpoint": segmenter.version, "seed": SEED, "num_groups": len(todo), "groups": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        host = stack.enter_context(LabelStudioHost(folder / "data", executable(), port=18300))
        client = stack.enter_context(LabelStudioClient(host.url, host.account.token))
        model = Spoiled(segmenter, todo)
        backend = stack.enter_context(LiveBackend(host, folder / "backend", model, part_memory="0", min_score=0.0))
        browser = stack.enter_context(Chromium(*chromium_executables(), folder / "chromium", size_wh=WINDOW_WH))
        browser.log_in(host.url, host.account.user, host.account.password)
        for layout, xml in CONFIGS.items():
            groups = [errand.case.group.images for errand in todo]
            title = f"the {layout} layout"
            project, tasks = make_project(client, host, title, xml, groups, show_collab_predictions=True)
            client.connect_backend(project, backend.url, is_interactive=True)
            client.retrieve_predictions(project)
            for number, (task, errand) in enumerate(zip(tasks, todo, strict=True)):
                address = f"{host.url}/projects/{project}/data?task={task}"
                row = {"layout": layout, "group": number}
                row |= corrected_group(Hand(browser), client, layout, address, errand, pictures)
                report["groups"].append(row)
                print(json.dumps(row), flush=True)
    return report | {"medians": medians(report["groups"])}


def keep(browser: Chromium, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(browser.screenshot()).save(path)


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the groups, by layout and action, with n."""
    found: dict[str, Any] = {}
    for layout in CONFIGS:
        for action in ACTIONS:
            counts = [row[action] for row in rows if row["layout"] == layout and action in row]
            if counts:
                by_kind = {kind: round(median(c[kind] for c in counts), 2) for kind in counts[0]}
                found.setdefault(layout, {})[action] = by_kind | {"n": len(counts)}
    return found


def executable() -> Path:
    path = ROOT / ".demo" / "label-studio-venv" / "bin" / "label-studio"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: `calico demo --install` makes it")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=len(PAIRS), metavar="N")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of every group as it is submitted")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    report = measure(args.groups, args.pictures)
    print(json.dumps(report["medians"], indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["is_right"] for row in report["groups"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
