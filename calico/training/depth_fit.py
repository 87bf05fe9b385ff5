"""The depth reference (`calico.depth.reference`) of a checkpoint trained on drawings, and of a finetune of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from calico import drawings
from calico.checkpoints.files import load_checkpoint
from calico.data.groups import stream_seed
from calico.depth.reference import Reference, fit, load_reference, save_reference
from calico.errors import InputError
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.training.augmentation import distorted
from calico.training.corrected_groups import CorrectedGroup
from calico.training.snapshot_groups import outlines_of

NUM_DRAWINGS = 1000
SIZES = (96, 320)  # longest side in pixels, from and to: what is brought to the model's size differs in sharpness


def known_drawings(seed: int, count: int | None = None) -> Iterator[np.ndarray]:
    """Images of the training stream, HxWx3 uint8, of any object, difficulty and size; half are distorted as there."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xDE9]))
    for number in range(NUM_DRAWINGS if count is None else count):
        longest = int(rng.integers(SIZES[0], SIZES[1] + 1))
        size_hw = (longest, round(longest * rng.uniform(0.75, 1.0)))
        size_hw = size_hw if rng.random() < 0.5 else size_hw[::-1]
        drawn = drawings.draw(stream_seed("train", seed, number), size_hw=size_hw)
        yield (distorted(drawn, rng) if number % 2 else drawn).image


def fit_folder(folder: Path, seed: int = 0) -> Reference:
    """Fits a checkpoint's reference on drawings and writes it beside the weights.

    Raises `CheckpointError` for the checkpoint, `InputError` where it was not trained on drawings.
    """
    model, config, _ = load_checkpoint(folder)
    if config.data_version != drawings.VERSION:
        raise InputError(
            f"{folder}: trained on {config.data_version or 'data that its config does not name'}, so drawings are no "
            f"reference for it; expected {drawings.VERSION}"
        )
    reference = fit(model, config, known_drawings(seed))
    save_reference(folder, reference)
    return reference


def refit(
    folder: Path,
    model: CalicoModel,
    config: CalicoConfig,
    tokenizer: CalicoTokenizer,
    groups: Sequence[CorrectedGroup],
) -> None:
    """A `Finisher`: what a finetune was taught is known from then on, by `NUM_DRAWINGS` of its images at most. Nothing
    for a base that knows no drawings, or where these weights have one: a run that was killed after it ends the same."""
    if config.data_version == drawings.VERSION and load_reference(folder) is None:
        stride = max(1, math.ceil(sum(group.num_images for group in outlines_of(groups)) / NUM_DRAWINGS))
        some = (item.image for item in islice((item for group in groups for item in group.images), 0, None, stride))
        save_reference(folder, fit(model, config, known_drawings(0), some))
