"""How well a checkpoint tells photographs from drawings: AUROC by folder of photographs, false alarms on drawings."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calico import drawings
from calico.data import unseen
from calico.data.groups import stream_seed
from calico.errors import InputError
from calico.images import load_image
from calico.inference.segmenter import CoSegmenter

SUFFIXES = (".jpg", ".jpeg", ".png")
SIZES = (160, 256)  # longest side of a drawing in pixels, from and to
QUALITIES = (50, 95)

OnImage = Callable[[str], None]


def find_photos(folder: Path) -> dict[str, list[Path]]:
    """Sub-folder (`.` for the folder itself) -> its photographs.

    A PNG beside a JPEG of its name, and NAME_mask.png, are taken for masks. Raises `InputError` where there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with photographs, sub-folders apart")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        is_mask = path.suffix == ".png" and (path.stem.endswith("_mask") or path.with_suffix(".jpg").exists())
        if path.suffix.lower() in SUFFIXES and path.is_file() and not is_mask:
            found.setdefault(str(path.parent.relative_to(folder)), []).append(path)
    if not found:
        raise InputError(f"{folder}: no photograph there ({', '.join(SUFFIXES)})")
    return found


def measure(
    segmenter: CoSegmenter,
    photos: Mapping[str, Collection[Path]],
    num_drawings: int,
    seed: int,
    on_image: OnImage = lambda name: None,
) -> dict[str, Any]:
    """AUROC and share found of each folder's photographs, against held-out drawings; and the false alarms on these, on
    the same as JPEGs, and on styles and classes that no training data has."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    held_out: list[float] = []
    alarms: dict[str, list[float]] = {name: [] for name in ("JPEG", *unseen.DOMAINS)}
    for number in range(num_drawings):
        size_hw = (int(rng.integers(SIZES[0], SIZES[1] + 1)), int(rng.integers(SIZES[0], SIZES[1] + 1)))
        own_seed = stream_seed("eval", seed, number)
        image = drawings.draw(own_seed, size_hw=size_hw).image
        held_out.append(segmenter.depth_of(image))
        alarms["JPEG"].append(segmenter.depth_of(as_jpeg(image, int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)))))
        for domain in unseen.DOMAINS:
            alarms[domain].append(segmenter.depth_of(unseen.draw(own_seed, domain=domain, size_hw=size_hw).image))
        on_image("drawings")
    strange: dict[str, list[float]] = {}
    for name, paths in photos.items():
        for path in paths:
            strange.setdefault(name, []).append(segmenter.depth_of(load_image(path)))
            on_image("photographs")
    return {
        "seed": seed,
        "photographs": {
            name: {"auroc": auroc(held_out, found), "share_found": share_beyond(found), "n": len(found)}
            for name, found in strange.items()
        },
        "false_alarms": {
            name: {"share": share_beyond(found), "n": len(found)}
            for name, found in (("held-out drawings", held_out), *alarms.items())
        },
        "distances": {"held-out drawings": held_out, **alarms, **strange},
    }


def auroc(known: Collection[float], strange: Collection[float]) -> float:
    """The chance that a strange image is farther than a known one, ties counted half."""
    a, b = np.asarray(known)[:, None], np.asarray(strange)[None]
    return float(((a < b) + 0.5 * (a == b)).mean())


def share_beyond(distances: Collection[float]) -> float:
    return float(np.mean([found > 1 for found in distances]))


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """HxWx3 uint8, saved and read again."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))
