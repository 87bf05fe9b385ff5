"""Out of its depth: does an image look like what a checkpoint was trained on?

Measure: what the semantic and the grounding encoder find in an image is pooled over its positions to means, spreads and
steps from one position to the next (`pooled_statistics`). Of the images that a checkpoint knows, a reference keeps the
`NUM_DIRECTIONS` directions of these statistics in which they vary least. An image is as far as it strays along these,
in units of the variation there: a Mahalanobis distance over the near-invariants. Distance 1 is where `FALSE_ALARMS` of
the known images lie beyond; what is farther is out of depth. Other measures that were tried: docs/decisions.md.

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
from torch import Tensor

from calico.errors import CheckpointError, InputError
from calico.fingerprint import DEPTH, weights_print
from calico.model.calico import CalicoModel, ImageFeatures, Pixels
from calico.model.checkpoint import read_safetensors, write_safetensors
from calico.model.config import CalicoConfig
from calico.preprocessing import Preprocessor
from calico.values import Problem

logger = logging.getLogger(__name__)
OUT_OF_DEPTH = "out_of_depth"
SCORE_CAP = 0.25  # scores of an image that is out of depth are scaled into 0 to this, so that their order stays
FALSE_ALARMS = 0.02  # share of the known images beyond distance 1
NUM_DIRECTIONS = 96
NUM_FOLDS = 5
AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Reference:
    """mean, scale: D float32, of the known images' statistics. directions: D x K float16, of the scaled statistics."""

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray

    def distance(self, features: ImageFeatures) -> np.ndarray:
        """N float64, beyond 1 out of depth."""
        statistics = pooled_statistics(features)
        if statistics.shape[1] != len(self.mean):
            raise CheckpointError(
                f"{DEPTH} is for features of {len(self.mean)} statistics, this model gives "
                f"{statistics.shape[1]}; fit it anew: calico depth fit DIR"
            )
        return np.linalg.norm((statistics - self.mean) / self.scale @ self.directions.astype(np.float64), axis=1)


def pooled_statistics(features: ImageFeatures) -> np.ndarray:
    """N x D float64, of every channel: of the semantic tokens the mean and the log of the spread over the positions; of
    the grounding embedding these and the log of the mean step to the next position, right and down."""
    mean, spread = features.semantic_pooled.float().unbind(1)  # N x D_s each
    grid = features.grounding.embedding.float()  # N x C x h x w
    corner = grid[:, :, :-1, :-1]
    steps = (grid[:, :, :-1, 1:] - corner).abs() + (grid[:, :, 1:, :-1] - corner).abs()
    found = [mean, _log(spread), grid.mean((2, 3)), _log(grid.std((2, 3))), _log(steps.mean((2, 3)))]
    return torch.cat(found, 1).double().cpu().numpy()


def _log(values: Tensor) -> Tensor:
    return (values + 0.01).log()


def fit(
    model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray], own: Iterable[np.ndarray] = ()
) -> Reference:
    """images: what the checkpoint knows, HxWx3 uint8 RGB each, many more than statistics. own: a finetune's, likewise.

    `own` weigh as much as `images` together. Distance 1 is such that of neither more than `FALSE_ALARMS` lie beyond; it
    is found on each fifth of them by the directions of the others. Raises `InputError` for fewer than four images.
    """
    known = [rows for rows in (_statistics(model, config, images), _statistics(model, config, own)) if len(rows)]
    if not known or len(known[0]) < 4:
        raise InputError("expected at least four images that the checkpoint knows; a thousand make a good reference")
    limits: list[list[np.ndarray]] = [[] for _ in known]
    for fold in range(NUM_FOLDS):
        others = [np.delete(rows, np.s_[fold::NUM_FOLDS], 0) for rows in known]
        fitted = _unscaled([rows for rows in others if len(rows)])
        for found, rows in zip(limits, known, strict=True):
            found.append(_distances(fitted, rows[fold::NUM_FOLDS]))
    limit = max(float(np.quantile(np.concatenate(found), 1 - FALSE_ALARMS)) for found in limits)
    mean, scale, directions = _unscaled(known)
    return Reference(mean.astype(np.float32), scale.astype(np.float32), (directions / limit).astype(np.float16))


_Fitted = tuple[np.ndarray, np.ndarray, np.ndarray]


def _unscaled(known: Sequence[np.ndarray]) -> _Fitted:
    """Mean and scale of the statistics, and the directions of least variation, each over its standard deviation."""
    mean = np.mean([rows.mean(0) for rows in known], 0)
    scale = np.sqrt(np.mean([((rows - mean) ** 2).mean(0) for rows in known], 0)) + 1e-6
    second_moment = np.mean([_second_moment((rows - mean) / scale) for rows in known], 0)
    variances, directions = np.linalg.eigh(second_moment)  # ascending
    kept = min(NUM_DIRECTIONS, len(variances))
    return mean, scale, directions[:, :kept] / np.sqrt(np.maximum(variances[:kept], 0) + 1e-3)


def _second_moment(rows: np.ndarray) -> np.ndarray:
    return rows.T @ rows / len(rows)


def _distances(fitted: _Fitted, rows: np.ndarray) -> np.ndarray:
    mean, scale, directions = fitted
    return np.linalg.norm((rows - mean) / scale @ directions, axis=1)


@torch.inference_mode()
def _statistics(model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray]) -> np.ndarray:
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
    stacked = (torch.from_numpy(np.stack(view)).to(model.device) for view in zip(*views, strict=True))
    return pooled_statistics(model.encode(Pixels(*stacked)))


def save_reference(folder: Path, reference: Reference) -> None:
    """Beside the weights that it was fitted on, whose fingerprint it carries."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in vars(reference).items()}
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
    size = shapes.get("mean", ())
    if set(shapes) != {"mean", "scale", "directions"} or not shapes["scale"] == size == shapes["directions"][:1]:
        raise CheckpointError(f"{path}: not a depth reference; delete it, or fit it anew: calico depth fit {folder}")
    if weights_of(path) != weights_print(folder):
        logger.warning("%s: fitted on other weights, so not used; fit it anew: calico depth fit %s", path, folder)
        return None
    return Reference(**{name: tensor.numpy() for name, tensor in tensors.items()})


def weights_of(path: Path) -> str | None:
    """The fingerprint of the weights that a reference file says it is for."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("weights")


def problem_of(image: int, distance: float) -> Problem:
    """image: its index in the group."""
    return Problem(
        OUT_OF_DEPTH,
        f"image {image + 1} looks unlike what this checkpoint was trained on (distance {distance:.1f}, known images "
        f"are below 1), so its scores are at most {SCORE_CAP}: use the full-size weights (docs/full_size.md), or "
        "finetune on corrected groups of such images (docs/loop.md)",
        image,
    )
