"""One training step's data: images encoded once, many groups and clicks over them.

Which images and groups these are: `calico.training.sources`, and of a finetune `calico.training.corrections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from calico.correspondence import truth_of
from calico.data.groups import GroupPlan, choose_groups
from calico.drawings import CLASSES, PART_NAMES
from calico.language.answers import render_answer
from calico.language.questions import canonical_question, render_prompt, varied_question
from calico.language.tokenizer import CalicoTokenizer
from calico.language.words import pseudo_word
from calico.model.calico import Pixels, PromptBatch, Views
from calico.model.generation import Prompt, collate_prompts
from calico.model.inputs import ModelInputs
from calico.model.preprocessing import BranchPixels, fitted_part_map
from calico.values import AnnotatedImage, Question, SubTask

PADDING = 255  # in part maps: outside the image
MIN_CLICK_SHARE = 0.002  # of the image's area: smaller parts are not clicked on


@dataclass(frozen=True)
class BatchSettings:
    """How much of what one step holds, at full size; `scale_images` more images at a smaller size."""

    num_images: int = 24
    num_groups: int = 88
    num_points: int = 18
    num_boxes: int = 12
    size_weights: tuple[float, ...] = (0.31, 0.29, 0.4)  # of groups of 2, 3 and 4 images
    listed_share: float = 0.3  # of steps in which most questions list the names to choose from, which makes long rows
    candidate_share: float = 0.8  # of the questions of such a step, those that do
    pseudo_share: float = 0.5  # of those, the share with one name replaced by an invented word
    varied_share: float = 0.6  # of questions worded freely rather than canonically
    dropout_share: float = 0.25  # of rows tokenised with BPE dropout
    images_per_class: float = 4.6  # so that groups of four of one class exist
    none_shares: tuple[float, ...] = (0.45, 0.23, 0.4)  # of each sub-task's groups, those that have none
    common_object_share: float = 0.24  # of the questions; parts are harder to tell
    mixed_share: float = 0.42  # of answered groups of three and four, those with strangers beside a class
    same_class_shares: tuple[float, ...] = (1.0, 0.45, 0.28)  # of each sub-task's other ones, those of one class
    difficulty_weights: tuple[float, ...] = (0.25, 0.35, 0.2, 0.2)  # of `DIFFICULTIES`: the hard ones more often
    distorted_share: float = 0.4  # of drawings that are warped or recoloured beyond what the drawing program does
    varied_answers: float = 0.0  # share of answers worded freely rather than canonically
    reordered_share: float = 0.0  # of corrected groups whose images come in another order

    def scaled(self, factor: float) -> Self:
        """Images, groups, points and boxes times `factor`, one at least; the shares as they are."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith("num_")}
        return replace(self, **{name: max(1, round(count * factor)) for name, count in counts.items()})


MIXED_BATCH = BatchSettings(
    num_images=20, num_groups=44, num_points=12, num_boxes=8, images_per_class=2.5, distorted_share=0.0
)
"""Of a mixture: more classes a step, where there are many."""


@dataclass(frozen=True)
class ClickBatch:
    """Prompts drawn on the images: image K, value K (which part of its part map; 1 means the whole object).

    points: K x 2 (x, y) in the grounding frame, the first of `num_clicks`; or boxes: K x 4.
    """

    image: Tensor
    value: Tensor
    points: Tensor | None = None
    boxes: Tensor | None = None
    num_clicks: int = 1


@dataclass(frozen=True)
class TrainingBatch:
    """pixels: of I images, or what a trunk made of them. part_maps: I x S x S uint8 as `AnnotatedImage.part_map`,
    padding 255.

    seg_value: K, what each [SEG] means in its image's part map (1: the whole object). class_ids: I. part_ids: I x S x S
    int64, the part's index in `PART_NAMES` + 2, for the dense auxiliary loss; -100 in the padding. presence: I x parts.
    seg_weight: K, the chance of each [SEG] that its mask is trained, in proportion; None: the same. is_base: R bool,
    rows about base data alone; None: it does not matter.
    """

    pixels: Pixels | Views
    prompts: PromptBatch
    part_maps: Tensor
    seg_value: Tensor
    class_ids: Tensor
    part_ids: Tensor
    presence: Tensor
    points: ClickBatch
    boxes: ClickBatch
    seg_weight: Tensor | None = None
    is_base: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        return moved(self, device)


def moved(value: Any, device: torch.device) -> Any:
    """Tensors on the device, also those inside of dataclasses and named tuples."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(item, device) for item in value))
    return value


@dataclass(frozen=True)
class Vocabulary:
    """Names that a question may list beside those of its group, and that the auxiliary heads know."""

    classes: Sequence[str] = CLASSES
    parts: Sequence[str] = PART_NAMES

    @cached_property
    def part_number(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.parts)}


DRAWN = Vocabulary()


def build_batch(
    images: Sequence[AnnotatedImage],
    plans: Sequence[GroupPlan],
    settings: BatchSettings,
    tokenizer: CalicoTokenizer,
    inputs: ModelInputs,
    rng: np.random.Generator,
    vocabulary: Vocabulary = DRAWN,
) -> TrainingBatch:
    """Rows, targets and clicks for any annotated images, drawn or real; part maps in the grounding view's frame."""
    pixels = [inputs.preprocess(image.image) for image in images]
    size = inputs.preprocess.grounding_size
    part_maps = np.stack([fitted_part_map(image.part_map, size, PADDING) for image in images])
    if rng.random() >= settings.listed_share:
        settings = replace(settings, candidate_share=0.0)
    rows = [_row(images, plan, settings, tokenizer, inputs, rng, vocabulary) for plan in plans]
    points, boxes = _clicks(part_maps, settings, rng)
    class_number = {name: k for k, name in enumerate(vocabulary.classes)}
    return TrainingBatch(
        pixels=stacked(pixels),
        prompts=_collate(rows, tokenizer),
        part_maps=torch.from_numpy(part_maps),
        seg_value=torch.tensor([value for row in rows for value in row.seg_values], dtype=torch.long),
        class_ids=torch.tensor([class_number.get(i.object_name, -100) for i in images]),
        part_ids=torch.from_numpy(
            np.stack([_part_ids(i, m, vocabulary.part_number) for i, m in zip(images, part_maps, strict=True)])
        ),
        presence=torch.tensor([[float(name in i.part_names) for name in vocabulary.parts] for i in images]),
        points=points,
        boxes=boxes,
    )


def mixed_plans(
    images: Sequence[AnnotatedImage],
    settings: BatchSettings,
    rng: np.random.Generator,
    num_groups: int | None = None,
) -> list[GroupPlan]:
    """Groups chosen among the images by the settings' shares. num_groups: None for the settings' own."""
    return choose_groups(
        images,
        rng,
        num_groups=settings.num_groups if num_groups is None else num_groups,
        size_weights=settings.size_weights,
        common_object_share=settings.common_object_share,
        same_class_shares=settings.same_class_shares,
        mixed_share=settings.mixed_share,
        none_shares=settings.none_shares,
    )


def size_weights(batch: TrainingBatch) -> Tensor:
    """K: small regions' masks are trained more often, by the fourth root of their area; at most eight times."""
    counts = [np.bincount(part_map.ravel(), minlength=256) for part_map in batch.part_maps.numpy()]
    images = [] if batch.prompts.seg_image is None else batch.prompts.seg_image.tolist()
    areas = [
        float(counts[image][1:PADDING].sum() if value == 1 else counts[image][value])
        for image, value in zip(images, batch.seg_value.tolist(), strict=True)
    ]
    weights = np.maximum(np.array(areas), 4.0) ** -0.25
    return torch.from_numpy(np.maximum(weights, weights.max(initial=0) / 8))


def stacked(images: Sequence[BranchPixels]) -> Pixels:
    """I x 3 x S x S each; one tensor where the branches share a view."""
    views: dict[int, Tensor] = {}
    for view in zip(*images, strict=True):
        views.setdefault(id(view[0]), torch.from_numpy(np.stack(view)))
    return Pixels(*(views[id(view)] for view in images[0]))


@dataclass(frozen=True)
class _Row:
    prompt: Prompt  # question and answer
    num_prompt_ids: int
    seg_positions: list[int]
    seg_images: list[int]
    seg_values: list[int]


def _row(
    images: Sequence[AnnotatedImage],
    plan: GroupPlan,
    settings: BatchSettings,
    tokenizer: CalicoTokenizer,
    inputs: ModelInputs,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
) -> _Row:
    group = [images[i] for i in plan.indices]
    candidates: tuple[str, ...] = ()
    if rng.random() < settings.candidate_share:
        if rng.random() < settings.pseudo_share and plan.truth is None:
            group = with_invented_name(group, plan.sub_task, rng)
        candidates = candidate_names(group, plan.sub_task, rng, vocabulary)
    question = _question(plan.sub_task, len(group), candidates, settings, rng)
    truth = plan.truth or truth_of(group)
    is_varied = settings.varied_answers > 0 and rng.random() < settings.varied_answers
    answer = render_answer(truth, plan.sub_task, rng=rng if is_varied else None)
    dropout = 0.1 if rng.random() < settings.dropout_share else 0.0
    text = render_prompt(question.text, len(group), system=inputs.system)
    prompt = tokenizer.encode_prompt(text, inputs.num_image_tokens)
    answer_ids = [*tokenizer.ids(answer.text, dropout=dropout, rng=rng), tokenizer.eos_id]
    ids = [*prompt.ids, *answer_ids]
    seg_positions = [len(prompt.ids) + i for i, token in enumerate(answer_ids) if token == tokenizer.seg_id]
    values = [1 if key.kind == "object" else group[key.image].part_names.index(key.name) + 2 for key in answer.segs]
    return _Row(
        Prompt(ids, prompt.image_positions, plan.indices),
        len(prompt.ids),
        seg_positions,
        [plan.indices[key.image] for key in answer.segs],
        values,
    )


def _question(
    sub_task: SubTask, num_images: int, candidates: tuple[str, ...], settings: BatchSettings, rng: np.random.Generator
) -> Question:
    if rng.random() < settings.varied_share:
        return varied_question(sub_task, num_images, rng, candidates)
    return canonical_question(sub_task, num_images, candidates)


def with_invented_name(
    group: Sequence[AnnotatedImage], sub_task: SubTask, rng: np.random.Generator
) -> list[AnnotatedImage]:
    """One name of the group, everywhere replaced by a pseudo-word, so that naming by copying is learnt.

    An image without an object has an empty name, which stays.
    """
    objects = sorted({image.object_name for image in group if image.object_name})
    parts = sorted({name for image in group for name in image.part_names})
    names = objects if sub_task is SubTask.COMMON_OBJECT or not parts else parts
    old, new = names[int(rng.integers(len(names)))], pseudo_word(rng)
    return [
        replace(
            image,
            object_name=new if image.object_name == old else image.object_name,
            part_names=tuple(new if name == old and old in parts else name for name in image.part_names),
        )
        for image in group
    ]


def candidate_names(
    group: Sequence[AnnotatedImage], sub_task: SubTask, rng: np.random.Generator, vocabulary: Vocabulary = DRAWN
) -> tuple[str, ...]:
    """The names of the group and some that it does not show, shuffled."""

    def others(names: Sequence[str], present: set[str], most: int) -> list[str]:
        absent = [name for name in names if name not in present]
        number = min(len(absent), int(rng.integers(1, most)))
        return [str(name) for name in rng.choice(absent, number, replace=False)] if number else []

    shown_names = {image.object_name for image in group if image.object_name}
    names = sorted(shown_names) + others(vocabulary.classes, shown_names, 4)
    if sub_task is not SubTask.COMMON_OBJECT:
        parts = {name for image in group for name in image.part_names}
        names += sorted(parts) + others(vocabulary.parts, parts, 6)
    return tuple(names[i] for i in rng.permutation(len(names)))


def _collate(rows: Sequence[_Row], tokenizer: CalicoTokenizer) -> PromptBatch:
    batch = collate_prompts([row.prompt for row in rows], tokenizer.pad_id, torch.device("cpu"), left=False)
    labels = torch.full_like(batch.token_ids, -100)
    for number, row in enumerate(rows):
        answer = slice(row.num_prompt_ids, len(row.prompt.ids))
        labels[number, answer] = batch.token_ids[number, answer]
    # The instruction ends where the answer starts, not at the end of the padded row.
    slots = replace(batch.slots, instruction=torch.tensor([row.num_prompt_ids - 1 for row in rows]))
    return replace(
        batch,
        slots=slots,
        labels=labels,
        seg_row=torch.tensor([number for number, row in enumerate(rows) for _ in row.seg_positions], dtype=torch.long),
        seg_position=torch.tensor([position for row in rows for position in row.seg_positions], dtype=torch.long),
        seg_image=torch.tensor([image for row in rows for image in row.seg_images], dtype=torch.long),
    )


def _part_ids(image: AnnotatedImage, part_map: np.ndarray, part_number: Mapping[str, int]) -> np.ndarray:
    """Part map -> 0 background, 1 object but no named part, 2 + the part's number, -100 padding or unknown."""
    table = np.full(256, -100, np.int64)
    table[:2] = 0, 1
    for k, name in enumerate(image.part_names):
        table[k + 2] = part_number.get(name, -102) + 2
    return table[part_map]


def _clicks(part_maps: np.ndarray, settings: BatchSettings, rng: np.random.Generator) -> tuple[ClickBatch, ClickBatch]:
    """Points on parts, boxes on parts and objects; on objects alone where no part is large enough."""
    size = part_maps.shape[1]
    regions: list[tuple[int, int]] = []
    for image, part_map in enumerate(part_maps):
        areas = np.bincount(part_map.ravel(), minlength=256)
        visible = areas[:PADDING].sum()
        regions += [(image, v) for v in range(2, PADDING) if areas[v] >= max(4, MIN_CLICK_SHARE * visible)]
    if not regions:
        regions = [(image, 1) for image, part_map in enumerate(part_maps) if region_mask(part_map, 1).any()]
    chosen = [regions[i] for i in rng.integers(len(regions), size=settings.num_points)]
    num_clicks = 1 if rng.random() < 0.5 else int(rng.integers(2, 4))
    points = np.zeros((len(chosen), 2), np.float32)
    for row, (image, value) in enumerate(chosen):
        y, x = divmod(int(rng.choice(np.flatnonzero(region_mask(part_maps[image], value)))), size)
        points[row] = x, y
    boxed = [regions[i] for i in rng.integers(len(regions), size=settings.num_boxes)]
    boxed = [(image, 1 if rng.random() < 0.3 else value) for image, value in boxed]
    boxes = np.zeros((len(boxed), 4), np.float32)
    for row, (image, value) in enumerate(boxed):
        mask = region_mask(part_maps[image], value)
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        jitter = rng.uniform(-0.5, 0.5, 4) * size / 64
        boxes[row] = np.clip(np.array([xs[0], ys[0], xs[-1], ys[-1]]) + jitter, 0, size - 1)

    def batch(pairs: list[tuple[int, int]], **kwargs: Any) -> ClickBatch:
        image, value = (torch.tensor(column, dtype=torch.long) for column in zip(*pairs, strict=True))
        return ClickBatch(image, value, **kwargs)

    return (
        batch(chosen, points=torch.from_numpy(points), num_clicks=num_clicks),
        batch(boxed, boxes=torch.from_numpy(boxes)),
    )


def region_mask(part_map: np.ndarray, value: int) -> np.ndarray:
    """value 1 means the whole object, all its parts included."""
    return (part_map > 0) & (part_map != PADDING) if value == 1 else part_map == value
