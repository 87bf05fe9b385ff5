"""In which numbers a model is served, or frozen under an adapter in training.

One rule for all devices, which holds outside of autocast too:

1. Frozen weights are in the model's own dtype (`CalicoModel.dtype`): float32, or bfloat16 where the files hold it and
   the device computes in it. The language model's linears may be in 8 or 4 bits instead.
2. The mask decoder, its prompts and the [SEG] projection are float32 (`FULL_PRECISION`), under autocast too.
3. What trains is float32 (`widen_trained`).
4. A module whose weights may be of another dtype than its inputs (CEM, CAM, the Q-Former, the projection, new tokens'
   rows, the mask decoder) casts what it is given to its weights' dtype and gives back that of the stream it adds to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.errors import InputError
from calico.model.calico import CalicoModel

FULL_PRECISION = ("seg_projection.", "pixel_decoder.")
"""Where names of weights start that stay float32: in bfloat16 mask edges move."""


def serving_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Of the weight with this name in a model that is served in `dtype`."""
    return torch.float32 if name.startswith(FULL_PRECISION) else dtype


def widen_trained(model: nn.Module) -> None:
    """In place: weights that train become float32, in which small steps are not lost."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def trains_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 autocast makes training faster there: on a GPU that has it and on a CPU that multiplies in it
    (AVX-512 BF16 or AMX). Elsewhere it is emulated, several times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class _Int8Product(torch.autograd.Function):
    """x @ weight.T for a frozen int8 weight: widened again for the backward pass rather than kept widened."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return gradient @ weight.to(gradient.dtype), None


class Int8Linear(nn.Module):
    """A frozen linear as int8 rows with a scale each, widened when used: half of bfloat16's memory, on any device.

    The activations are not rounded, so the error is that of the weights: at most 1/254 of a row's largest.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = (weight.float().abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight.float() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale[:, 0].to(weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x: ... x in_features. Returns ... x out_features."""
        if x.requires_grad:
            product = _Int8Product.apply(x, self.weight)
        else:
            product = F.linear(x, self.weight.to(x.dtype))
        return product * self.scale.to(product.dtype) + (0 if self.bias is None else self.bias)


def uses_bf16(choice: str, device: torch.device) -> bool:
    """asked: `bf16`, `no`, or `auto` for what is faster on the device."""
    return trains_in_bf16(device) if choice == "auto" else choice == "bf16"


def check_device(device: torch.device | str) -> None:
    """Raises `InputError` for a device that torch does not have here, before any weights are read."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    if kind not in ("cpu", "cuda"):  # Apple's, for one, has no float64 and was never tried
        raise InputError(f"device {device}: expected cpu or cuda; leave the device out to take what is there")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device}: torch {torch.__version__} finds no NVIDIA GPU here; leave the device out, or install "
            "the driver and torch's CUDA build"
        )


def check_bits(bits: int | None, device: torch.device | str) -> None:
    """Raises `InputError` for what cannot be had on this device, before any weights are read."""
    if bits is None or bits == 8:
        return
    if bits != 4:
        raise InputError(f"a language model in {bits} bits: expected 8 or 4, or none for its own numbers")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"a language model in 4 bits needs bitsandbytes ({error}); pip install -e '.[quantized]'"
        ) from None


def quantise_llm(model: CalicoModel, bits: int, device: torch.device | str) -> None:
    """In place: the linears of the decoder layers, one after the other; embedding and output rows stay as they are.

    8 bits: `Int8Linear`. 4 bits: bitsandbytes' NF4, made for GPUs and slow elsewhere. The language model ends on
    `device`; it may come from the host's memory, so that the GPU never holds it unquantised. Attached adapters stay as
    they are, to be trained over frozen linears; who serves merges them first. Raises as `check_bits`.
    """
    check_bits(bits, device)
    for layer in model.llm.get_decoder().layers:
        for name, linear in list(layer.named_modules()):
            if isinstance(linear, nn.Linear) and ".lora_" not in name:
                parent = layer.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], (_int8 if bits == 8 else _nf4)(linear, device))
    model.llm.to(device)


def _int8(linear: nn.Linear, device: torch.device | str) -> nn.Module:
    return Int8Linear(linear.to(device))


def _nf4(linear: nn.Linear, device: torch.device | str) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    small = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    small.weight = Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4", module=small)
    if linear.bias is not None:
        small.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    small.support_avx512bf16_for_cpu = False  # once used without gradients it would pack itself, and pass none back
    return small.to(device)
