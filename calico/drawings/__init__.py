"""Drawn objects with exact part masks: procedural, seeded, vector-described, at any resolution.

A drawing is data to train and to evaluate on without any download. `VERSION` names the data: a change that alters any
drawing needs a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from calico.drawings.aircraft import airplane
from calico.drawings.animals import bird, dog
from calico.drawings.furniture import chair, lamp, stool, table
from calico.drawings.kitchen import knife, mug, scissors, teapot
from calico.drawings.pose import place
from calico.drawings.rendering import keep_visible, render
from calico.drawings.shapes import Primitive
from calico.drawings.style import choose_style
from calico.drawings.vehicles import bicycle, car, truck
from calico.errors import InputError
from calico.values import AnnotatedImage

VERSION = "drawings-v1"
DIFFICULTIES = ("clean", "clutter", "occluded", "outline")
_DIFFICULTY_WEIGHTS = (40, 25, 15, 20)


class Kind(NamedTuple):
    """How a class is drawn: its outline in a unit frame, its part names, its largest rotation."""

    geometry: Callable[[Random], list[Primitive]]
    parts: tuple[str, ...]  # in the order in which they are named
    max_turn: float = 15.0  # degrees


KINDS: dict[str, Kind] = {
    "chair": Kind(chair, ("seat", "back", "leg", "arm")),
    "stool": Kind(stool, ("seat", "leg")),
    "table": Kind(table, ("top", "leg", "drawer")),
    "lamp": Kind(lamp, ("shade", "pole", "base")),
    "mug": Kind(mug, ("body", "handle"), 20.0),
    "teapot": Kind(teapot, ("body", "handle", "spout", "lid")),
    "car": Kind(car, ("body", "wheel", "window", "light"), 12.0),
    "truck": Kind(truck, ("body", "cab", "wheel", "window", "light"), 12.0),
    "bicycle": Kind(bicycle, ("wheel", "frame", "seat", "handlebar")),
    "bird": Kind(bird, ("body", "head", "beak", "wing", "tail", "leg"), 20.0),
    "dog": Kind(dog, ("body", "head", "leg", "tail", "ear")),
    "airplane": Kind(airplane, ("body", "wing", "tail", "window"), 35.0),
    "knife": Kind(knife, ("blade", "handle"), 180.0),
    "scissors": Kind(scissors, ("blade", "handle"), 180.0),
}

CLASSES: tuple[str, ...] = tuple(KINDS)
PART_NAMES: tuple[str, ...] = tuple(dict.fromkeys(part for kind in KINDS.values() for part in kind.parts))
PARTS_OF: dict[str, tuple[str, ...]] = {name: kind.parts for name, kind in KINDS.items()}


def choose_difficulty(rng: Random) -> str:
    """By chance, 40 / 25 / 15 / 20 %."""
    return rng.choices(DIFFICULTIES, _DIFFICULTY_WEIGHTS)[0]


def draw(
    seed: int, *, size_hw: tuple[int, int] = (128, 128), object_name: str | None = None, difficulty: str | None = None
) -> AnnotatedImage:
    """One drawing, the same for the same arguments; the same object and style at every size.

    seed: any non-negative integer. size_hw: (height, width) in pixels; the object is fitted to the shorter side.
    object_name: one of `CLASSES`, else drawn by chance. difficulty: one of `DIFFICULTIES`, else 40 / 25 / 15 / 20 %.
    """
    if seed < 0:
        raise InputError(f"seed: expected a non-negative integer, got {seed}")
    if min(size_hw) < 1:
        raise InputError(f"size_hw: expected a positive height and width, got {size_hw}")
    rng = Random(f"{VERSION}/{seed}")  # a text seed is hashed, so neighbouring seeds have nothing in common
    by_chance = rng.choice(CLASSES), choose_difficulty(rng)
    object_name, difficulty = object_name or by_chance[0], difficulty or by_chance[1]
    if object_name not in KINDS:
        raise InputError(f"object_name: expected one of {', '.join(CLASSES)}, got {object_name!r}")
    if difficulty not in DIFFICULTIES:
        raise InputError(f"difficulty: expected one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    kind = KINDS[object_name]
    shapes = place(kind.geometry(rng), rng, size_hw, kind.max_turn)
    style = choose_style(rng, [shape.part for shape in shapes], difficulty)
    image, part_map = render(rng, shapes, kind.parts, style, size_hw, difficulty)
    part_map, part_names = keep_visible(part_map, kind.parts)
    return AnnotatedImage(image, object_name, part_names, part_map, difficulty, f"{VERSION}/{seed}")
