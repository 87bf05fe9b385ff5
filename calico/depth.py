"""Out of its depth: does an image look like what a checkpoint was trained on?

Measure: X'_global, what CEM makes of the tokens of the global and the semantic encoder, is pooled over the image to the
mean and the maximum of each channel (`description`). A reference keeps the descriptions of images that a checkpoint
knows. An image is as far as the `NUM_NEIGHBOURS`-th nearest of these is by cosine. Distance 1 is where `FALSE_ALARMS`
of the known images lie beyond; what is farther is out of depth. Other measures that were tried: docs/decisions.md.

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

from calico.errors import CheckpointError, InputError
from calico.fingerprint import DEPTH, weights_print
from calico.model.calico import CalicoModel, ImageFeatures, Pixels, mean_and_maximum
from calico.model.checkpoint import read_safetensors, write_safetensors
from calico.model.config import CalicoConfig
from calico.preprocessing import Preprocessor
from calico.values import Problem

logger = logging.getLogger(__name__)
OUT_OF_DEPTH = "out_of_depth"
SCORE_CAP = 0.25  # scores of an image that is out of depth are scaled into 0 to this, so that their order stays
FALSE_ALARMS = 0.005  # share of the known images beyond distance 1
NUM_NEIGHBOURS = 8
AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Reference:
    """mean, scale: D float32, of the known images' descriptions. known: M x D float16, these with mean and scale taken
    off, each of length 1; M >= `NUM_NEIGHBOURS`. limit: the cosine distance that is called 1."""

    mean: np.ndarray
    scale: np.ndarray
    known: np.ndarray
    limit: float

    def distance(self, features: ImageFeatures) -> np.ndarray:
        """N float64, beyond 1 out of depth."""
        found = description(features)
        if found.shape[1] != len(self.mean):
            raise CheckpointError(
                f"{DEPTH} is for descriptions of {len(self.mean)} numbers, this model gives {found.shape[1]}; "
                "fit it anew: calico depth fit DIR"
            )
        similarities = _directions(found, self.mean, self.scale) @ self.known.astype(np.float64).T
        return (1 - _nth_largest(similarities, NUM_NEIGHBOURS)) / self.limit


def description(features: ImageFeatures) -> np.ndarray:
    """N x 2 D_g float64: mean and maximum over the positions of X'_global."""
    return mean_and_maximum(features.refined_tokens.double()).cpu().numpy()


def fit(
    model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray], own: Iterable[np.ndarray] = ()
) -> Reference:
    """images: what the checkpoint knows, HxWx3 uint8 RGB each. own: a finetune's, likewise.

    Distance 1 is such that of neither more than `FALSE_ALARMS` lie beyond, each measured by all the others. Raises
    `InputError` for no more images than `NUM_NEIGHBOURS`.
    """
    known = [rows for rows in (_descriptions(model, config, images), _descriptions(model, config, own)) if len(rows)]
    if sum(map(len, known)) <= NUM_NEIGHBOURS:
        raise InputError(
            f"expected more than {NUM_NEIGHBOURS} images that the checkpoint knows; a thousand make a good reference"
        )
    mean = np.mean([rows.mean(0) for rows in known], 0)
    scale = np.sqrt(np.mean([((rows - mean) ** 2).mean(0) for rows in known], 0)) + 1e-6
    directions = _directions(np.concatenate(known), mean, scale)
    similarities = directions @ directions.T
    np.fill_diagonal(similarities, -np.inf)
    found = np.split(1 - _nth_largest(similarities, NUM_NEIGHBOURS), np.cumsum([len(rows) for rows in known])[:-1])
    limit = max(1e-6, *(float(np.quantile(distances, 1 - FALSE_ALARMS)) for distances in found))
    return Reference(mean.astype(np.float32), scale.astype(np.float32), directions.astype(np.float16), limit)


def _directions(descriptions: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = (descriptions - mean) / scale
    return scaled / (np.linalg.norm(scaled, axis=1, keepdims=True) + 1e-12)


def _nth_largest(similarities: np.ndarray, number: int) -> np.ndarray:
    """Of each row."""
    return -np.partition(-similarities, number - 1, axis=1)[:, number - 1]


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
    stacked = (torch.from_numpy(np.stack(view)).to(model.device) for view in zip(*views, strict=True))
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
    size = shapes.get("mean", ())
    if (
        set(shapes) != {"mean", "scale", "known", "limit"}
        or len(size) != 1
        or not shapes["scale"] == size == shapes["known"][1:]
        or shapes["known"][0] < NUM_NEIGHBOURS
        or shapes["limit"]
    ):
        raise CheckpointError(f"{path}: not a depth reference; delete it, or fit it anew: calico depth fit {folder}")
    if weights_of(path) != weights_print(folder):
        logger.warning("%s: fitted on other weights, so not used; fit it anew: calico depth fit %s", path, folder)
        return None
    mean, scale, known = (tensors[name].numpy() for name in ("mean", "scale", "known"))
    return Reference(mean, scale, known, float(tensors["limit"]))


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
