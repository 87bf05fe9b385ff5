"""What the colours around a box say about what is in it: a mask decoder knows what it was trained on, colours anything.

As GrabCut (Rother et al., SIGGRAPH 2004): what lies around a box is background, what lies in it may be either, and a
model of the colours and the labels in the box are found in turn. Here a logistic regression over colours and their
products stands for its two mixtures, and a few mean-field steps for its cuts. It takes some milliseconds, and nothing
is trained before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from calico.inference.closer import pixels_of
from calico.mean_field import hearing

# Chosen on held-out renders and drawings, see docs/decisions.md ("A box also asks the colours around it").
LONGEST = 512  # pixels of a cut-out's longer side; the colours of a larger one are looked at in this size
RING = 0.15  # of a box's height and width: how far around it background is looked at
LEAST_RING = 0.05  # of a box's pixels, that the ring must have at least
MOST_PIXELS = 4096  # of the box, and as many of the ring, on which the regression is fitted
RIDGE = 1e-4
NUM_FITS = 4
THING_SHARE = 0.7  # of a box's pixels, that are of the thing: the prior of each
PRIOR = float(np.log(THING_SHARE / (1 - THING_SHARE)))
DECODER_FACTOR = 0.5  # of the mask decoder's log-odds, which are added to those of the colours


def with_colours(logits: np.ndarray, cutout: np.ndarray, box_xyxy: Sequence[float] | np.ndarray) -> np.ndarray:
    """HxW float32: log-odds of the thing, in its box those of mask decoder and colours together.

    logits: HxW float32, the mask decoder's. cutout: HxWx3 uint8, in which the box lies. A box that has hardly anything
    around it stays with the mask decoder's.
    """
    size_hw = (logits.shape[0], logits.shape[1])
    scale = min(1.0, LONGEST / max(size_hw))
    small_hw = (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))
    colours = np.asarray(_resized(Image.fromarray(cutout), small_hw), np.float32) / 255
    small_box = np.asarray(box_xyxy, float) * np.tile([small_hw[1] / size_hw[1], small_hw[0] / size_hw[0]], 2)
    box = pixels_of(small_box, small_hw)
    evidence = colour_logits(colours, box)
    if evidence is None:
        return logits
    top, bottom, left, right = box
    decoded = np.asarray(_resized(Image.fromarray(logits), small_hw))[top:bottom, left:right]
    both = smoothed(DECODER_FACTOR * decoded + evidence + PRIOR, colours[top:bottom, left:right])
    top, bottom, left, right = pixels_of(box_xyxy, size_hw)
    result = logits.copy()
    result[top:bottom, left:right] = _resized(Image.fromarray(both), (bottom - top, right - left))
    return result


def _resized(image: Image.Image, size_hw: tuple[int, int]) -> Image.Image:
    return image.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR)


def colour_logits(colours: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray | None:
    """h x w float32 of the box: how much likelier (log) its colours are of the thing than of the background.

    colours: HxWx3 float32 from 0 to 1. box: top, bottom, left, right. None where hardly anything lies around the box.
    """
    top, bottom, left, right = box
    down, across = (max(2, round(RING * side)) for side in (bottom - top, right - left))
    is_ring = np.zeros(colours.shape[:2], bool)
    is_ring[max(0, top - down) : bottom + down, max(0, left - across) : right + across] = True
    is_ring[top:bottom, left:right] = False
    terms = _terms(colours[top:bottom, left:right].reshape(-1, 3))
    ring = _terms(colours[is_ring])
    if len(ring) < LEAST_RING * len(terms):
        return None
    inside, around = (rows[:: -(-len(rows) // MOST_PIXELS)] for rows in (terms, ring))
    rows = np.concatenate([inside, around])
    center, spread = rows.mean(0), rows.std(0) + 1e-3
    center[-1], spread[-1] = 0, 1  # the constant
    rows, count = (rows - center) / spread, len(inside)
    weights = np.repeat([1 / count, 1 / len(around)], [count, len(around)])
    labels = np.repeat([1.0, 0.0], [count, len(around)])
    slopes = np.zeros(rows.shape[1])
    for k in range(NUM_FITS):
        slopes = _regression(rows, labels, weights, slopes, num_steps=1 if k else 4)
        labels[:count] = _sigmoid(rows[:count] @ slopes + PRIOR)
    evidence = (terms - center) / spread @ slopes
    return evidence.reshape(bottom - top, right - left).astype(np.float32)


def _terms(colours: np.ndarray) -> np.ndarray:
    """P x 3 -> P x 10: the colours, their products and 1."""
    colours = 4 * (colours.astype(float) - 0.5)
    first, second = np.triu_indices(3)
    return np.concatenate([colours, colours[:, first] * colours[:, second], np.ones((len(colours), 1))], 1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(logits / 2)


def _regression(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, slopes: np.ndarray, num_steps: int
) -> np.ndarray:
    """Logistic regression on labels from 0 to 1, some of Newton's steps on; ridge on all slopes but the constant's."""
    ridge = np.full(rows.shape[1], RIDGE)
    ridge[-1] *= 1e-3
    for _ in range(num_steps):
        chances = _sigmoid(rows @ slopes)
        curvature = weights * np.maximum(chances * (1 - chances), 1e-4)
        gradient = rows.T @ (weights * (chances - labels)) + ridge * slopes
        slopes = slopes - np.linalg.solve((rows * curvature[:, None]).T @ rows + np.diag(ridge), gradient)
    return slopes


def smoothed(logits: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """HxW float32: log-odds after every pixel has heard its neighbours (`calico.mean_field`). logits: HxW. colours:
    HxWx3."""
    thing = torch.from_numpy(np.asarray(logits, np.float32))
    heard = hearing(torch.stack([torch.zeros_like(thing), thing]), torch.from_numpy(colours).permute(2, 0, 1))
    result: np.ndarray = (heard[1] - heard[0]).numpy()
    return result
