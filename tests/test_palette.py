"""Part colours: far enough apart for everybody, and stable by name."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from backend.codecs.palette import COLORS, OKABE_ITO, Palette

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as a dichromat sees it.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = (0.95047, 1.0, 1.08883)


def lab(color: str, vision: str) -> np.ndarray:
    """CIE L*a*b* of `#rrggbb`."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    x = np.array(TO_XYZ) @ seen / WHITE
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """CIEDE2000 (Sharma, Wu and Dalal 2005)."""
    chroma = (np.hypot(*a[1:]) + np.hypot(*b[1:])) / 2
    g = 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25**7)))
    (a1, b1), (a2, b2) = ((1 + g) * a[1], a[2]), ((1 + g) * b[1], b[2])
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    light, chroma = (a[0] + b[0]) / 2, (c1 + c2) / 2
    hue = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    s_light = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_chroma, s_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turned = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * turned
    terms = (b[0] - a[0]) / s_light, (c2 - c1) / s_chroma, d_hue / s_hue
    return float(np.sqrt(sum(term**2 for term in terms) + rotation * terms[1] * terms[2]))


def test_the_formula_gives_the_published_numbers() -> None:
    """Pairs 1, 7 and 17 of the supplementary table of Sharma, Wu and Dalal."""
    for a, b, expected in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ):
        assert difference(np.array(a, float), np.array(b, float)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
def test_all_pairs_are_told_apart(vision: str) -> None:
    """Beyond 10 two colours are seen to differ at a glance. Common and unique were once 7 apart for deuteranopes."""
    apart = {(a, b): difference(lab(a, vision), lab(b, vision)) for a, b in combinations(COLORS, 2)}
    assert min(apart.values()) > 10, min(apart, key=lambda pair: apart[pair])


def test_a_name_keeps_its_colour() -> None:
    palette = Palette()
    first = palette.assign(["wheel", "body"])
    assert tuple(first.values()) == OKABE_ITO[:2]
    assert palette.assign(["lid", "wheel"]) == {"lid": OKABE_ITO[2], "wheel": OKABE_ITO[0]}
    again = Palette()
    again.learn([{"value": "car", "background": "#c8c8c8", "hint": "object"}, "text"])
    again.learn([{"value": "lid", "background": OKABE_ITO[2], "hint": "part"}])
    assert again.assign(["body", "lid"]) == {"body": OKABE_ITO[0], "lid": OKABE_ITO[2]}


def test_names_beyond_the_palette_share_colours_but_not_within_a_task() -> None:
    palette = Palette()
    palette.assign([f"part {i}" for i in range(12)])
    assert len({*palette.colors.values()}) == 12
    together = palette.assign(["part 0", "another", "a third"])
    assert len({*together.values()}) == 3
