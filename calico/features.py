"""One vector per image, for finding similar images: the encoders' tokens, averaged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from calico.model.calico import CalicoModel, Pixels
from calico.model.config import CalicoConfig
from calico.preprocessing import Preprocessor


@torch.inference_mode()
def image_features(model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray]) -> np.ndarray:
    """N x D float32, to be compared by cosine. images: HxWx3 uint8 RGB each, read one at a time.

    The means over an image's global and its semantic tokens, each of length 1, side by side.
    """
    preprocess = Preprocessor.from_config(config)
    rows = []
    for image in images:
        pixels = Pixels(*(torch.from_numpy(view)[None].to(model.device) for view in preprocess(image)))
        means = model.global_encoder(pixels.global_view).mean(1), model.semantic_encoder(pixels.semantic_view).mean(1)
        rows.append(torch.cat([torch.nn.functional.normalize(mean.float()) for mean in means], dim=1)[0].cpu().numpy())
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
