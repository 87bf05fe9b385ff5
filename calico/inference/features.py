"""One vector per image, for finding similar images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from calico.model.calico import CalicoModel, Pixels
from calico.model.config import CalicoConfig
from calico.model.preprocessing import Preprocessor


@torch.inference_mode()
def image_features(model: CalicoModel, config: CalicoConfig, images: Iterable[np.ndarray]) -> np.ndarray:
    """N x D float32, to be compared by cosine: the mean of each image's tokens X'_global, made of both encoders by CEM.

    images: HxWx3 uint8 RGB each, read one at a time. The Q-Former's and the grounding encoder's features tell object
    classes apart less well (docs/decisions.md).
    """
    preprocess = Preprocessor.from_config(config)
    rows = []
    for image in images:
        tensors = (torch.from_numpy(view)[None].to(model.device, model.dtype) for view in preprocess(image))
        views = model.views(Pixels(*tensors))
        refined = model.cem(model.global_encoder(views.global_view), model.semantic_encoder(views.semantic_view))
        rows.append(refined.float().mean(1)[0].cpu().numpy())
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
