"""What no checkpoint of ours was trained on, to see what it makes of it and what a finetune learns: styles and classes.

`style`: the objects of drawings-v1, hatched with chalk. `icons`: the same classes by another hand. `umbrella` and
`guitar`: other objects in the known looks, with part names that are new beside one that is known. `VERSION` names the
data, as `calico.drawings.VERSION` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from calico import drawings
from calico.data import groups as sampler
from calico.drawings.chalk import render_chalk
from calico.drawings.icons import GEOMETRY, LOOKS, render_icon
from calico.drawings.pose import place
from calico.drawings.rendering import keep_visible, render
from calico.drawings.style import choose_style
from calico.drawings.unseen_objects import guitar, umbrella
from calico.errors import InputError
from calico.values import AnnotatedImage

VERSION = "unseen-v1"
STYLE, ICONS = "style", "icons"
STYLES = (STYLE, ICONS)  # of the classes that are known
_OBJECTS = {
    "umbrella": drawings.Kind(umbrella, ("canopy", "shaft", "handle"), 25.0),
    "guitar": drawings.Kind(guitar, ("body", "neck", "headstock", "sound hole"), 40.0),
}
CLASSES = tuple(_OBJECTS)
DOMAINS = (*STYLES, *CLASSES)
PARTS_OF = {name: kind.parts for name, kind in _OBJECTS.items()}


def draw(
    seed: int, *, domain: str, size_hw: tuple[int, int] = (128, 128), object_name: str | None = None
) -> AnnotatedImage:
    """One drawing, the same for the same arguments.

    Args:
        seed: any non-negative integer.
        domain: one of `DOMAINS`.
        size_hw: (height, width) in pixels.
        object_name: for `STYLES`, one of `drawings.CLASSES`, else by chance.
    """
    if seed < 0:
        raise InputError(f"seed: expected a non-negative integer, got {seed}")
    if domain not in DOMAINS:
        raise InputError(f"domain: expected one of {', '.join(DOMAINS)}, got {domain!r}")
    source = f"{VERSION}/{domain}/{seed}"
    rng = Random(source)
    by_chance = rng.choice(drawings.CLASSES), drawings.choose_difficulty(rng)
    is_style = domain in STYLES
    name = object_name or by_chance[0] if is_style else domain
    kinds = drawings.KINDS if is_style else _OBJECTS
    if name not in kinds or object_name not in (None, name):
        expected = ", ".join(drawings.CLASSES) if is_style else domain
        raise InputError(f"object_name: expected one of {expected}, got {object_name!r}")
    kind = kinds[name]
    geometry = GEOMETRY[name] if domain == ICONS else kind.geometry
    shapes = place(geometry(rng), rng, size_hw, kind.max_turn)
    if domain == STYLE:
        difficulty = "chalk"
        image, part_map = render_chalk(rng, shapes, kind.parts, size_hw)
    elif domain == ICONS:
        difficulty = rng.choice(LOOKS)
        image, part_map = render_icon(rng, shapes, kind.parts, size_hw, difficulty)
    else:
        difficulty = by_chance[1]
        style = choose_style(rng, [shape.part for shape in shapes], difficulty)
        image, part_map = render(rng, shapes, kind.parts, style, size_hw, difficulty)
    part_map, part_names = keep_visible(part_map, kind.parts)
    return AnnotatedImage(image, name, part_names, part_map, difficulty, source)


def draw_group(
    seed: int, *, domain: str, stream: str, group_size: int = 2, size: int | None = None
) -> list[AnnotatedImage]:
    """A group of one of `STYLES` as `sampler.draw_group` composes them, or of one unseen class only.

    stream: "train" for what is corrected and learnt, "eval" for what is held out; no drawing is ever in both.
    """

    def draw_one(seed: int, *, size_hw: tuple[int, int], object_name: str) -> AnnotatedImage:
        return draw(seed, domain=domain, size_hw=size_hw, object_name=object_name)

    classes = drawings.CLASSES if domain in STYLES else (domain,)
    return sampler.draw_group(seed, group_size=group_size, size=size, stream=stream, draw_one=draw_one, classes=classes)


def draw_groups(
    seed: int, num_groups: int, *, domain: str, stream: str, group_size: int = 2, size: int | None = None
) -> Iterator[list[AnnotatedImage]]:
    """The same for the same seed, whatever num_groups."""
    for number in range(num_groups):
        group_seed = sampler.stream_seed(stream, seed, number)
        yield draw_group(group_seed, domain=domain, stream=stream, group_size=group_size, size=size)
