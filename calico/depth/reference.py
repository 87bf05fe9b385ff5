"""Out of its depth: does an image look like what a checkpoint was trained on?

Measure: X'_global, what CEM makes of the tokens of the global and the semantic encoder, is pooled over the image to the
mean and the maximum of each channel (`description`). A logistic regression tells descriptions of images that the
checkpoint knows from those of generated pictures that it does not (`calico.depth.dead_leaves`); no photograph is
needed. An image's distance is its logit, 0 at the median of the known images and 1 where `FALSE_ALARMS` of them lie
beyond. What is farther is out of depth. Other measures that were tried: docs/decisions.md.

The reference is depth.safetensors in the checkpoint's folder. It belongs to its weights: a finetune fits it anew with
its own images among the known ones, and a checkpoint without that file has no such measure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from calico.checkpoints.files import made_for, read_safetensors, write_safetensors
from calico.checkpoints.fingerprint import DEPTH, weights_print
from calico.depth import OUT_OF_DEPTH
from calico.depth.dead_leaves import dead_leaves
from calico.errors import CheckpointError, InputError
from calico.model.calico import CalicoModel, ImageFeatures, Pixels, mean_and_maximum
from calico.model.config import CalicoConfig
from calico.model.preprocessing import Preprocessor
from calico.values import Problem

logger = logging.getLogger(__name__)
SCORE_CAP = 0.25  # scores of an image that is out of depth are scaled into 0 to this, so that their order stays
FALSE_ALARMS = 0.005  # share of the known images beyond distance 1
NUM_STRANGE = 300
NUM_FOLDS = 5  # each known image is measured by a regression that has not seen it
PENALTY = 0.1  # of the squared weights, beside a mean loss
AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Reference:
    """distance = description @ weight + bias. weight: 2 D_g float32; bias: float32 without dimensions."""

    weight: np.ndarray
    bias: np.ndarray

    def distance(self, features: ImageFeatures) -> np.ndarray:
        """N float64, beyond 1 out of depth; below 0 what is most like the known images."""
        found = description(features)
        if found.shape[1] != len(self.weight):
            raise CheckpointError(
                f"{DEPTH} is for descriptions of {len(self.weight)} numbers, this model gives {found.shape[1]}; "
                "fit it anew: calico depth fit DIR"
            )
        return found @ self.weight.astype(np.float64) + float(self.bias)


def description(features: ImageFeatures) -> np.ndarray:
    """N x 2 D_g float64: mean and maximum over the positions of X'_global."""
    return mean_and_maximum(features.refined_tokens.double()).cpu().numpy()


def fit(
    model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray], own: Iterable[np.ndarray] = ()
) -> Reference:
    """images: what the checkpoint knows, HxWx3 uint8 RGB each. own: a finetune's, likewise.

    Both weigh the same in the regression, and together as much as the strange pictures. Distance 1 is such that of
    neither more than `FALSE_ALARMS` lie beyond. Raises `InputError` for fewer images than `NUM_FOLDS`.
    """
    known = [rows for rows in (_descriptions(model, config, images), _descriptions(model, config, own)) if len(rows)]
    if sum(map(len, known)) < NUM_FOLDS:
        raise InputError(
            f"expected {NUM_FOLDS} or more images that the checkpoint knows; a thousand are a good reference"
        )
    strange = _descriptions(model, config, dead_leaves(0, NUM_STRANGE))
    parts = [*known, strange]
    rows = np.concatenate(parts)
    is_strange = np.arange(len(rows)) >= len(rows) - len(strange)
    shares = [*(0.5 / len(known) / len(part) for part in known), 0.5 / len(strange)]
    weights = np.repeat(shares, [len(part) for part in parts])
    mean = rows[~is_strange].mean(0)
    scale = rows[~is_strange].std(0) + 1e-6
    inputs = np.column_stack([(rows - mean) / scale, np.ones(len(rows))])
    fold = np.concatenate([np.arange(len(part)) % NUM_FOLDS for part in parts])
    logits = np.zeros(len(rows))
    for number in range(NUM_FOLDS):
        out = fold == number
        logits[out] = inputs[out] @ _regression(inputs[~out], is_strange[~out], weights[~out])
    of_known = np.split(logits[~is_strange], np.cumsum([len(part) for part in known])[:-1])
    middle = float(np.median(logits[~is_strange]))
    reach = max(1e-6, *(float(np.quantile(found, 1 - FALSE_ALARMS)) - middle for found in of_known))
    *slope, constant = _regression(inputs, is_strange, weights) / reach
    weight = np.array(slope) / scale
    bias = constant - weight @ mean - middle / reach
    return Reference(weight.astype(np.float32), np.array(bias, np.float32))


def _regression(inputs: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Penalised logistic regression by Newton's method. inputs: M x D, the last column ones, whose weight is free;
    truth: M bool; weights: M. Returns D."""
    penalty = np.full(inputs.shape[1], PENALTY)
    penalty[-1] = 0.0
    weights = weights / weights.sum()
    found = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-(inputs @ found)))
        slope = inputs.T @ (weights * (chance - truth)) + penalty * found
        bend = (inputs * (weights * chance * (1 - chance))[:, None]).T @ inputs + np.diag(penalty + 1e-9)
        step = np.linalg.solve(bend, slope)
        found -= step
        if np.abs(step).max() < 1e-8:
            break
    return found


@torch.inference_mode()
def _descriptions(model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray]) -> np.ndarray:
    preprocess = Preprocessor.from_config(config)
    was_training = model.training
    model.eval()
    found, waiting = [], []
    for image in images:
        waiting.append(preprocess(image))
        if len(waiting) == AT_ONCE:
            found.append(_encoded(model, waiting))
            waiting = []
    if waiting:
        found.append(_encoded(model, waiting))
    model.train(was_training)
    return np.concatenate(found) if found else np.zeros((0, 0))


def _encoded(model: CalicoModel, views: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    stacked = (torch.from_numpy(np.stack(view)).to(model.device, model.dtype) for view in zip(*views, strict=True))
    return description(model.encode(Pixels(*stacked)))


def save_reference(folder: Path, reference: Reference) -> None:
    """Beside the weights that it was fitted on, whose fingerprint it carries."""
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in vars(reference).items()}
    write_safetensors(folder / DEPTH, tensors, {"weights": weights_print(folder)})


def load_reference(folder: Path) -> Reference | None:
    """None where the folder has none, or one of other weights, which is said in the log.

    Raises `CheckpointError` for a file that is not such a reference.
    """
    path = folder / DEPTH
    if not path.is_file():
        return None
    tensors = read_safetensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if set(shapes) != {"weight", "bias"} or len(shapes["weight"]) != 1 or shapes["bias"]:
        raise CheckpointError(f"{path}: not a depth reference; delete it, or fit it anew: calico depth fit {folder}")
    if made_for(path) != weights_print(folder):
        logger.warning("%s: fitted on other weights, so not used; fit it anew: calico depth fit %s", path, folder)
        return None
    return Reference(tensors["weight"].clone().numpy(), tensors["bias"].clone().numpy())


def problem_of(image: int, distance: float) -> Problem:
    """image: its index in the group."""
    return Problem(
        OUT_OF_DEPTH,
        f"image {image + 1} looks unlike what this checkpoint was trained on (distance {distance:.1f}, known images "
        f"are below 1), so its scores are at most {SCORE_CAP}: use the full-size weights (docs/full_size.md), or "
        "finetune on corrected groups of such images (docs/loop.md)",
        image,
    )
