"""The same part on the other images of a group, proposed when it was clicked on one or asked for by its name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from backend.codecs.controls import LabelingConfig
from backend.codecs.prediction import encode_prediction, region_id
from calico.correspondence import co_segmentation
from calico.inference.belief import is_believed
from calico.values import CoSegmentation, NamedMask, PartRegion


class Proposal(NamedTuple):
    """id: of a region that it renames, None for a new one."""

    mask: NamedMask
    id: str | None = None


def objects_of(found: CoSegmentation) -> dict[int, str]:
    """The object's name of each image that has one."""
    return {region.image: region.object_name for region in found.regions}


def missing_images(found: CoSegmentation, name: str) -> list[int]:
    """Images whose object is known and on which no part of that name was predicted."""
    showing = {region.image for region in found.regions if region.part_name == name}
    return [image for image in sorted(objects_of(found)) if image not in showing]


#: The images that are known to show a part -> the forced name on the others, as `CoSegmenter.segment_named` gives it.
AskNamed = Callable[[Sequence[int]], Mapping[int, tuple[np.ndarray, float]]]


def ask_all(ask: AskNamed, found: CoSegmentation, shown: Sequence[int]) -> Mapping[int, tuple[np.ndarray, float]]:
    """The forced name on every image that is not `shown`.

    Where no image is known to show the part, the model is asked whether it is one image's alone, and says so of the
    first that shows it at most. The others are then asked anew, with that one known. Where it says so of none, each is
    asked as if another showed it, and two that are believed so of each other are two that show it.
    """

    def believed(named: Mapping[int, tuple[np.ndarray, float]], image: int) -> bool:
        return image in named and is_believed(*named[image], _others(found, image))

    named = ask(shown)
    first = [image for image in named if believed(named, image)]
    if shown or len(first) == len(named):
        return named
    if first:
        return {**named, **ask(first)}
    given = {known: ask([known]) for known in named}
    agreed = {
        image: given[known][image]
        for known in named
        for image in named
        if image != known and believed(given[known], image) and believed(given[image], known)
    }
    return {**named, **agreed}


def _others(found: CoSegmentation, image: int) -> list[PartRegion]:
    return [region for region in found.regions if region.image == image]


def proposals(
    found: CoSegmentation,
    name: str,
    named: Mapping[int, tuple[np.ndarray, float]],
    *,
    task: int | None,
    clicked: int | None = None,
    under: PartRegion | None = None,
) -> list[Proposal]:
    """found: what was predicted, and so is on the screen. named: for images the mask and score of the forced name.

    under: the predicted part under the click, on image `clicked`. Where it has another name than the annotator chose,
    the parts that correspond to it are proposed under the new one.
    """
    objects, made = objects_of(found), []
    for image in missing_images(found, name):
        if image == clicked:
            continue
        same = next((r for r in found.regions if under and r.image == image and r.part_name == under.part_name), None)
        if same is not None:
            mask = NamedMask(image, objects[image], name, same.mask, same.score)
            made.append(Proposal(mask, region_id(task, same)))
        elif image in named and is_believed(*named[image], _others(found, image)):
            made.append(Proposal(NamedMask(image, objects[image], name, *named[image])))
    return made


def proposal_rows(
    made: list[Proposal],
    sizes_hw: tuple[tuple[int, int], ...],
    config: LabelingConfig,
    *,
    model_version: str,
    task: int | None,
    task_data: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """As rows of a prediction, without relations: those would name regions that the editor has not yet."""
    coseg = co_segmentation(sizes_hw, [proposal.mask for proposal in made])
    encoded = encode_prediction(coseg, config, model_version=model_version, task_id=task, task_data=task_data)
    ids = {
        region_id(task, coseg.by_key[(p.mask.image, "part", p.mask.part_name)]): p.id  # type: ignore[index]
        for p in made
        if p.id is not None
    }
    rows = [row for row in encoded.prediction["result"] if row["type"] != "relation"]
    return [{**row, "id": ids.get(row["id"], row["id"])} for row in rows]
