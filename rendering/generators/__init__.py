"""Parametric things of our own, their parts named as the renders beside this repository name them.

A generator takes a random generator and gives the parts of one model; the same number always gives the same shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from rendering.generators import furniture, household, tableware, tools
from rendering.model import Model, Part

Generator = Callable[[np.random.Generator], tuple[Part, ...]]

GENERATORS: dict[str, Generator] = {
    "bench": furniture.bench,
    "chair": furniture.chair,
    "stool": furniture.stool,
    "table": furniture.table,
    "broom": household.broom,
    "flashlight": household.flashlight,
    "ladder": household.ladder,
    "lamp": household.lamp,
    "skateboard": household.skateboard,
    "table tennis bat": household.bat,
    "trash can": household.trash_can,
    "bottle": tableware.bottle,
    "ladle": tableware.ladle,
    "mug": tableware.mug,
    "pitcher": tableware.pitcher,
    "teapot": tableware.teapot,
    "hammer": tools.hammer,
    "screwdriver": tools.screwdriver,
    "shovel": tools.shovel,
    "wheelbarrow": tools.wheelbarrow,
}
CREDIT = "procedural, by this project (Apache-2.0)"
VAL_PERCENT = 12


def make(object_name: str, number: int) -> Model:
    """The `number`th model of a class. Raises `KeyError` where there is no generator of it."""
    key = key_of(object_name, number)
    digest = hashlib.sha256(key.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return Model(object_name, key, GENERATORS[object_name](rng), CREDIT, split_of(key))


def key_of(object_name: str, number: int) -> str:
    return f"procedural/{object_name}/{number}"


def split_of(key: str) -> str:
    """Of a whole model, always the same."""
    return "val" if hashlib.sha256(key.encode()).digest()[8] * 100 // 256 < VAL_PERCENT else "train"
