"""From linear light to a photograph: exposure, white balance, a film's curve, vignette and grain. numpy only."""

from __future__ import annotations

import numpy as np

BRIGHT = 0.5  # where the 90th percentile of the picture shall lie, of white
DARK = 0.12  # and its median at least


def developed(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HxWx3 float of any exposure -> HxWx3 uint8 sRGB, neither dark nor blown out."""
    light = np.clip(np.nan_to_num(linear.astype(np.float64)), 0, None)
    grey = light @ np.array([0.2126, 0.7152, 0.0722])
    exposure = BRIGHT / max(float(np.percentile(grey, 90)), 1e-6)
    exposure = max(exposure, min(DARK / max(float(np.median(grey)), 1e-6), 3 * exposure))
    light = light * exposure * 2 ** rng.uniform(-0.4, 0.3) * rng.normal(1, 0.06, 3)
    height, width = grey.shape
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = light * (1 - rng.uniform(0, 0.25) * (down**2 + across**2)[..., None] / 2)
    curve = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)  # Narkowicz 2015, of ACES
    noise = rng.normal(0, rng.uniform(0.002, 0.02), curve.shape)
    shown = np.clip(np.clip(curve, 0, 1) ** (1 / 2.2) + noise, 0, 1)
    return (shown * 255 + 0.5).astype(np.uint8)
