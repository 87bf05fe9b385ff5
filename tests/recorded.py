"""What Label Studio itself wrote: `tests/fixtures`, made by make_fixtures.py, and, where they lie beside the
repository, recordings of a real browser and files of others that are not part of it."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calico.values import RegionKey

FIXTURES = Path(__file__).parent / "fixtures"
OTHERS = Path(__file__).parents[2] / "shared" / "fixtures"


def all_of(own: str, *others: str) -> list[Path]:
    """Files of ours by a pattern, and those of others that are at hand: for `parametrize`, never empty."""
    found = sorted(FIXTURES.glob(own))
    assert found, f"tests/fixtures holds no {own}; tests/make_fixtures.py writes it"
    return [*found, *(path for pattern in others for path in sorted(OTHERS.glob(pattern)))]


@dataclass(frozen=True)
class Recording:
    """A labeling interface as the host accepted it, and a task with one prediction and its correction.

    num_edited: regions whose mask was changed. landmark: a common part and its image's size. smart, choices: controls
    of the second image.
    """

    layout: str
    config: str
    task: dict[str, Any]
    num_edited: int
    landmark: tuple[RegionKey, tuple[int, int]]
    smart: str | None
    choices: str | None

    @property
    def prediction(self) -> dict[str, Any]:
        return self.task["predictions"][0]

    @property
    def annotation(self) -> dict[str, Any]:
        return self.task["annotations"][0]


CONTROLS: dict[str, tuple[str | None, str | None]] = {"A": (None, None), "B": (None, None), "C": ("kp_1", None)}
IN_THE_EDITOR = {"A": ("A_multi_image_tags", "ui_A_edit"), "B": ("B_valuelist", "ui_B_visit"),
                 "C": ("C_repeater", "ui_C_submit")}  # fmt: skip


def recordings() -> dict[str, Recording]:
    """By an id for `parametrize`."""
    found = {}
    folder = FIXTURES / "label_studio"
    for layout, controls in CONTROLS.items():
        task = json.loads((folder / f"{layout}.task.json").read_text())
        config = (folder / f"{layout}.xml").read_text()
        landmark = RegionKey(1, "part", "leg"), (52, 33)
        found[layout] = Recording(layout, config, task, int(layout == "A"), landmark, *controls)
    folder = OTHERS / "label_studio" / "groups"
    for layout, (config_name, saved) in IN_THE_EDITOR.items() if folder.is_dir() else ():
        [task] = json.loads((folder / f"{config_name}.task.json").read_text())
        annotation = json.loads((folder / f"{saved}.json").read_text())
        task["predictions"][0]["id"] = annotation["parent_prediction"]
        task |= {"id": 31, "project": 6, "annotations": [annotation]}
        config = (folder / f"{config_name}.xml").read_text()
        landmark = RegionKey(1, "part", "body"), (600, 800)
        found[f"{layout} in the editor"] = Recording(
            layout, config, task, int(layout == "A"), landmark, CONTROLS[layout][0], "kind" if layout == "B" else None
        )
    return found


def as_saved_by_the_editor(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The editor repeats a region's geometry and notes in every row of it, and pads brushes by another byte."""
    saved = copy.deepcopy(rows)
    first = {row["id"]: row for row in reversed(copy.deepcopy(saved)) if "id" in row}
    for row in saved:
        if "id" in row:
            row["value"] = {**first[row["id"]]["value"], **row["value"]}
            if "rle" in row["value"]:
                row["value"]["rle"] = row["value"]["rle"] + [0]
            if "meta" in first[row["id"]]:
                row["meta"] = first[row["id"]]["meta"]
            if row["type"] != "brushlabels":
                row.pop("score", None)
    return saved
