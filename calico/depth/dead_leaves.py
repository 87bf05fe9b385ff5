"""Pictures with the statistics of photographs and nothing in them: what a checkpoint is shown as strange to it.

Dead leaves: ellipses of power-law sizes, each hiding what is below it, filled with coloured noise whose amplitude falls
with frequency, under slanted light. They have a photograph's edges, occlusion and texture at all scales (Lee, Mumford,
Huang 2001), and nobody's rights. Models have learnt to see from them alone (Baradad et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIZE = 160  # pixels, each side
_NUM_TEXTURES = 32
_NUM_COLOURS = 5  # of an image
_MOST_LEAVES = 200


def dead_leaves(seed: int, count: int) -> Iterator[np.ndarray]:
    """`count` images, `SIZE` x `SIZE` x 3 uint8, the same for the same seed; of a larger count these are the first."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x1EAF]))
    textures = [_coloured_noise(rng, rng.uniform(1.0, 1.8)) for _ in range(_NUM_TEXTURES)]
    for _ in range(count):
        colours = rng.uniform(20, 235, (_NUM_COLOURS, 1)) + rng.normal(0, 20, (_NUM_COLOURS, 3))
        pixels = rng.choice(colours) + textures[int(rng.integers(_NUM_TEXTURES))] * rng.uniform(3, 75)
        for _ in range(int(rng.integers(0, _MOST_LEAVES))):
            colour = rng.choice(colours) + rng.normal(0, 12, 3)
            _lay(pixels, colour, textures[int(rng.integers(_NUM_TEXTURES))], rng.uniform(3, 50), rng)
        yield np.clip(pixels, 0, 255).astype(np.uint8)


def _coloured_noise(rng: np.random.Generator, power: float) -> np.ndarray:
    """SIZE x SIZE x 3 of mean 0 and deviation 1, mostly grey, whose amplitude falls as frequency to the -power."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    frequency[0, 0] = 1.0
    planes = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE, SIZE))) / frequency**power).real for _ in range(3)]
    mixed = np.stack(planes, -1)
    mixed = 0.7 * mixed[..., :1] + 0.3 * mixed
    return np.asarray((mixed - mixed.mean()) / mixed.std())


def _lay(
    pixels: np.ndarray, colour: np.ndarray, texture: np.ndarray, contrast: float, rng: np.random.Generator
) -> None:
    """One leaf over `pixels`, in place, of any piece of `texture`; its edge is soft over one to three pixels."""
    radius = min(80.0, 6 / (rng.random() ** 0.7 + 0.03))
    (y, x), turn, stretch = rng.uniform(0, SIZE, 2), rng.uniform(0, np.pi), rng.uniform(0.3, 1)
    soft, light = rng.uniform(1, 3), rng.uniform(-40, 40, 3)
    top, left = max(0, int(y - radius)), max(0, int(x - radius))
    rows, columns = np.ogrid[top : min(SIZE, int(y + radius) + 1), left : min(SIZE, int(x + radius) + 1)]
    along = np.cos(turn) * (columns - x) + np.sin(turn) * (rows - y)
    across = (np.cos(turn) * (rows - y) - np.sin(turn) * (columns - x)) / stretch
    cover = np.clip((radius - np.hypot(along, across)) / soft, 0, 1)[..., None]
    down, aside = rng.integers(0, SIZE, 2)
    piece = texture[(rows + down) % SIZE, (columns + aside) % SIZE]
    lit = colour + piece * contrast + (along / radius)[..., None] * light
    window = (slice(top, top + cover.shape[0]), slice(left, left + cover.shape[1]))
    pixels[window] += cover * (lit - pixels[window])
