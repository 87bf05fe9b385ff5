"""What a model learnt from before its finetune: replayed against forgetting, held-out groups of it to look for that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calico.correspondence import truth_of
from calico.data.groups import evaluation_groups
from calico.errors import InputError
from calico.mixedparts.index import MixedParts, target_of
from calico.mixedparts.sources import image_folders
from calico.model.config import CalicoConfig
from calico.training.batches import DRAWN, Vocabulary
from calico.training.corrections import Replay, drawings
from calico.values import AnnotatedImage, CoSegmentation, ImageGroup, normalize_name

logger = logging.getLogger(__name__)
BASE_SEED = 5_001  # of the groups that forgetting is looked for on: of no other use

Item = tuple[str, ImageGroup, CoSegmentation]  # group id, pictures, truth


@dataclass(frozen=True)
class BaseData:
    """name: as the config of a checkpoint that learnt from it has it (`data_version`). draw: images of its training
    stream. vocabulary: names that a question may list beside its group's. items: so many held-out groups, or all where
    there are fewer; always the same."""

    name: str
    draw: Replay
    vocabulary: Vocabulary
    items: Callable[[int], Iterable[Item]]


def base_items(num_groups: int) -> Iterable[Item]:
    """Held-out drawings, always the same."""
    for number, images in enumerate(evaluation_groups(BASE_SEED, num_groups, 2)):
        yield f"drawings-{BASE_SEED}-{number}", ImageGroup(tuple(i.image for i in images)), truth_of(images)


DRAWINGS = BaseData("drawings", drawings, DRAWN, base_items)


def beside_drawings(data: BaseData) -> BaseData:
    """Drawings and other data, half of each: of what is replayed, and of the groups on which forgetting is measured."""

    def draw(seed: int, num_images: int, size: int, favoured: Sequence[str]) -> list[AnnotatedImage]:
        others = data.draw(seed, num_images // 2, size, favoured) if num_images > 1 else []
        return [*drawings(seed, num_images - len(others), size, favoured), *others]

    def items(num_groups: int) -> Iterable[Item]:
        yield from base_items(num_groups - num_groups // 2)
        yield from data.items(num_groups // 2) if num_groups > 1 else ()

    names = (tuple(dict.fromkeys((*own, *map(normalize_name, others)))) for own, others in (
        (DRAWN.classes, data.vocabulary.classes), (DRAWN.parts, data.vocabulary.parts)
    ))  # fmt: skip
    return BaseData(f"{DRAWINGS.name}+{data.name}", draw, Vocabulary(*names), items)


def index_data(folder: Path, images: Sequence[str] = ()) -> BaseData:
    """An index's train split to replay, its test split to look for forgetting. images: as `--images` takes them.

    Raises `InputError` for what is no index, lacks one of the splits or has no folder of pictures.
    """
    whole = MixedParts(folder)
    roots = image_folders(images, whole.sources) if images else None
    train, test = (MixedParts(folder, split, images=roots) for split in ("train", "test"))
    if lacking := set(whole.sources) - train.roots.keys():
        raise InputError(f"{folder}: was built without pictures of {', '.join(sorted(lacking))}; give --images DIR")
    return BaseData(
        whole.version,
        lambda seed, num_images, size, favoured: drawn_from(train, seed, num_images, favoured),
        Vocabulary(whole.classes, whole.parts),
        lambda num_groups: index_items(test, num_groups),
    )


def drawn_from(data: MixedParts, seed: int, num_images: int, favoured: Sequence[str] = ()) -> list[AnnotatedImage]:
    """Whole samples drawn by chance, so that images belong together, the last one cut short. The first half of them
    show an object of a favoured name, where 25 draws for each image find such. Fewer images only where the index has
    fewer. Raises `InputError` for a picture that is missing or another."""
    rng = np.random.default_rng(seed)
    places: dict[int, None] = {}
    for draw in range(50 * num_images):
        if len(places) >= num_images:
            break
        objects = data.entry(int(rng.integers(len(data)))).objects
        is_choosy = favoured and len(places) < num_images // 2 and draw < 25 * num_images
        if is_choosy and not any(normalize_name(data.record(row).object_name) in favoured for row in objects):
            continue
        places.update(dict.fromkeys(objects))
    return data.drawn([data.record(row) for row in list(places)[:num_images]])


def index_items(data: MixedParts, num_groups: int) -> Iterable[Item]:
    """Distinct groups drawn with a seed of their own; one whose picture cannot be read is said and left out."""
    rng = np.random.default_rng(BASE_SEED)
    seen: set[tuple[int, ...]] = set()
    num_found = 0
    for number in rng.permutation(len(data)).tolist():
        objects = tuple(sorted(data.entry(number).objects))
        if objects in seen:  # asked another question there; here all three are asked
            continue
        seen.add(objects)
        records = data.records(number)
        try:
            group = ImageGroup(tuple(data.load_image(record) for record in records))
            truth = target_of(records)
        except (InputError, OSError) as error:
            logger.warning("base test: skipped: %s", error)
            continue
        yield f"index-{data.row(number):09d}", group, truth
        num_found += 1
        if num_found == num_groups:
            return


def base_data_of(config: CalicoConfig, given: BaseData | None, start: Path | None) -> BaseData:
    """What a finetune from `start` replays and looks for forgetting on: drawings where it learnt from them, with what
    is given beside them; else what is given.

    Raises `InputError` where it did not learn from drawings and nothing is given."""
    knows_drawings = any(one.startswith(DRAWINGS.name) for one in _learnt(config))
    if given is None:
        if not knows_drawings:
            raise InputError(
                f"{start}: learnt from {config.data_version or 'data that its config does not name'}, not from "
                "drawings, and would forget it; name an index of its base data: --replay INDEX (for a backend's jobs "
                "CALICO_TRAINING_REPLAY=INDEX), as `calico mixedparts build` makes it"
            )
        return DRAWINGS
    is_complete = not knows_drawings or given.name.startswith(DRAWINGS.name)
    return given if is_complete else beside_drawings(given)


def unguarded(config: CalicoConfig, data: BaseData) -> list[str]:
    """What the model learnt from and `data` does not hold: it is neither rehearsed nor looked at for forgetting."""
    held = data.name.split("+")
    return [one for one in _learnt(config) if not any(one.startswith(name) for name in held)]


def _learnt(config: CalicoConfig) -> list[str]:
    return [one for one in config.data_version.split("+") if one]
