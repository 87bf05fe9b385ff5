"""What stands where and who looks at it from where, drawn by lot: one `Shot` a picture. numpy only.

Lengths are in sizes of the main thing, whose longest side is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rendering.generators.finishes import paint
from rendering.model import Finish, Model, Part

SENSOR_MM = 36.0
FLOORS = ("plain", "planks", "tiles", "carpet", "checker", "concrete")
IN_A_WALL = ("door", "window")  # classes that stand in one


class Placed(NamedTuple):
    """size: of its longest side. yaw: degrees about z. at: where the middle of its foot stands."""

    model: Model
    size: float
    yaw: float
    at: tuple[float, float, float]


class Camera(NamedTuple):
    """matrix: 4 x 4, from the camera's frame (looking along -z, y up) to the world's. focal: in millimetres.

    f_number: of the aperture; small ones blur what is off `distance`.
    """

    matrix: np.ndarray
    focal: float
    f_number: float
    distance: float


@dataclass(frozen=True)
class Shot:
    """All that a picture shows. floor, wall: pattern and two colours. wall_at: y of a wall behind, None: none.

    light: turn of the environment in degrees, and the sun's strength.
    """

    things: tuple[Placed, ...]
    camera: Camera
    environment: int
    light: tuple[float, float]
    floor: tuple[str, Finish, Finish]
    wall: tuple[str, Finish, Finish]
    wall_at: float | None
    seed: int


def lay_out(main: Model, clutter: Model | None, rng: np.random.Generator, num_environments: int) -> Shot:
    """clutter: a second thing beside the first, which is looked at."""
    own = _recoloured(main.in_unit_box(), rng)
    stands_in_wall = main.mount == "wall" or main.object_name in IN_A_WALL
    yaw = float(
        rng.normal(0, 12) if stands_in_wall else rng.uniform(-75, 75) if rng.random() < 0.8 else rng.uniform(0, 360)
    )
    yaw = 0.0 if stands_in_wall else yaw
    things = [Placed(own, 1.0, yaw, (0.0, 0.0, 0.8 if main.mount == "wall" else 0.0))]
    if clutter is not None:
        things.append(_beside(things[0], _recoloured(clutter.in_unit_box(), rng), rng))
    low, high = _box(things[0])
    wall_at = float(high[1]) + 0.002 if stands_in_wall else None
    if wall_at is None and rng.random() < 0.4:
        wall_at = max(float(_box(thing)[1][1]) for thing in things) + float(rng.uniform(0.05, 1.2))
    return Shot(
        tuple(things),
        _camera(low, high, stands_in_wall or wall_at is not None, rng),
        int(rng.integers(num_environments)),
        (float(rng.uniform(0, 360)), float(rng.uniform(0, 3))),
        _pattern(rng),
        _pattern(rng),
        wall_at,
        int(rng.integers(2**31)),
    )


def _beside(main: Placed, model: Model, rng: np.random.Generator) -> Placed:
    """On the floor, close to the main thing without touching it."""
    size, yaw = float(rng.uniform(0.35, 0.9)), float(rng.uniform(0, 360))
    low, high = _box(Placed(model, size, yaw, (0.0, 0.0, 0.0)))
    reach = float(np.hypot(*(high - low)[:2])) / 2
    start, end = _box(main)
    radius = float(np.hypot(*(end - start)[:2])) / 2
    angle = rng.uniform(-0.3, np.pi + 0.3) if rng.random() < 0.8 else rng.uniform(np.pi, 2 * np.pi)
    far = radius * 0.9 + reach + float(rng.uniform(0.02, 0.2))
    return Placed(model, size, yaw, (float(far * np.cos(angle)), float(far * np.sin(angle)), 0.0))


def _box(thing: Placed) -> tuple[np.ndarray, np.ndarray]:
    """The corners of what is placed, in the world."""
    corners = _corners(thing)
    return corners.min(0), corners.max(0)


def _corners(thing: Placed) -> np.ndarray:
    low, high = thing.model.box
    every = np.array([(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    angle = np.deg2rad(thing.yaw)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return every * thing.size @ turn.T + np.array(thing.at)


def _camera(low: np.ndarray, high: np.ndarray, has_wall: bool, rng: np.random.Generator) -> Camera:
    """Where the box fills 55 to 95 % of the frame; of an eighth of all pictures more than that."""
    middle, size = (low + high) / 2, high - low
    flat = 1 - min(1.0, float(size[2]) / 0.5)
    elevation = np.deg2rad(rng.uniform(6, 42) + 33 * flat)
    azimuth = np.deg2rad(rng.uniform(-50, 50) if has_wall else rng.uniform(-180, 180))
    focal = float(np.exp(rng.uniform(np.log(28), np.log(85))))
    fills = rng.uniform(1.15, 1.5) if rng.random() < 0.125 else rng.uniform(0.55, 0.95)
    back = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    roll = np.deg2rad(rng.normal(0, 3))
    up = np.cross(back, right)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    corners = (
        np.array([(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]) - middle
    )
    across, upwards, deep = corners @ right, corners @ up, corners @ back
    near, far = float(deep.max()) + 0.05, 60.0
    for _ in range(40):  # how much of the frame it fills falls with the distance
        distance = (near + far) / 2
        shown = np.maximum(np.abs(across), np.abs(upwards)) / (distance - deep) * focal / (SENSOR_MM / 2)
        near, far = (distance, far) if shown.max() > fills else (near, distance)
    shift = rng.uniform(-0.12, 0.12, 2) * distance * SENSOR_MM / 2 / focal * max(0.0, 1 - fills)
    place = middle + back * distance + right * shift[0] + up * shift[1]
    place[2] = max(place[2], 0.03)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2], matrix[:3, 3] = right, up, back, place
    return Camera(matrix, focal, float(np.exp(rng.uniform(np.log(2.0), np.log(22)))), distance)


def _pattern(rng: np.random.Generator) -> tuple[str, Finish, Finish]:
    return str(rng.choice(FLOORS)), _muted(rng), _muted(rng)


def _muted(rng: np.random.Generator) -> Finish:
    """Walls and floors are mostly grey and brown."""
    grey = rng.uniform(0.03, 0.8)
    tint = rng.normal(0, 0.12, 3) + np.array([0.05, 0.0, -0.05])
    red, green, blue = np.clip(grey * (1 + tint), 0.01, 0.9)
    return Finish("floor", (float(red), float(green), float(blue)))


def _recoloured(model: Model, rng: np.random.Generator) -> Model:
    """Half of all models have other colours where they have no pictures; ones that were alike stay so."""
    if rng.random() < 0.5 or model.key.startswith("procedural/"):
        return model
    others: dict[Finish, Finish] = {}

    def other(part: Part) -> Part:
        if part.finish.texture is not None or part.finish.kind in ("glass", "light"):
            return part
        new = others.setdefault(part.finish, part.finish._replace(rgb=paint(rng).rgb))
        return replace(part, finish=new)

    return replace(model, parts=tuple(other(part) for part in model.parts))


def weights_of(counts: Sequence[int]) -> np.ndarray:
    """How often each class is drawn: by the square root of its models, one with a single model half as often."""
    found = np.sqrt(np.array(counts, float)) * np.where(np.array(counts) == 1, 0.5, 1.0)
    return found / found.sum()
