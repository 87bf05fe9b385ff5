"""How much memory serving and finetuning take, estimated before the start from the sizes alone.

Weights, gradients and AdamW's moments are counted exactly. Activations, logits and SAM's attention are formulas of what
autograd keeps; left out are what the allocator wastes, the kernels' workspace and the GPU's own context (about 1 GiB).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig, EncoderConfig
from calico.model.precision import serving_dtype
from calico.model.sizes import NUM_LEVELS

NF4_BYTES = 0.5 + 4 / 64  # half a byte, and a float32 scale for each 64 weights


@dataclass(frozen=True)
class Workload:
    """What is in memory at once. The default: one group of two, three questions, answers of 60 tokens.

    num_images: encoded together. num_rows, row_tokens: prompts with their answers, padded to the longest.
    images_per_row: pictures that a question is about. answer_tokens: predicted, over all rows. num_masks: decoded.
    """

    num_images: int = 2
    num_rows: int = 3
    row_tokens: int = 200
    images_per_row: int = 2
    answer_tokens: int = 180
    num_masks: int = 12


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. weights: of each block of the model. The rest: name and bytes of what comes on top."""

    weights: dict[str, int]
    rest: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The sum, though SAM's attention is over before most of the rest begins."""
        return sum(self.weights.values()) + sum(self.rest.values())


def weight_bytes(model: CalicoModel, dtype: torch.dtype, bits: int | None = None) -> dict[str, int]:
    """By block, as `load_checkpoint` in `dtype` and `quantise_llm` to `bits` leave them; trained weights in float32.

    The model may be on the meta device. Exact but for what bitsandbytes holds beside its 4-bit blocks.
    """
    quantised = {}
    for layer in model.llm.get_decoder().layers:
        for name, linear in layer.named_modules():
            if isinstance(linear, nn.Linear) and ".lora_" not in name:
                quantised[id(linear.weight)] = linear.out_features
    persistent = set(model.state_dict())
    blocks: dict[str, float] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        is_stored = isinstance(tensor, nn.Parameter) or name in persistent
        held = serving_dtype(name, dtype) if is_stored and tensor.is_floating_point() else tensor.dtype
        size: float = tensor.numel() * (torch.float32 if tensor.requires_grad else held).itemsize
        if bits in (4, 8) and id(tensor) in quantised:
            size = tensor.numel() * NF4_BYTES if bits == 4 else tensor.numel() + quantised[id(tensor)] * held.itemsize
        block = name.split(".")[0]
        blocks[block] = blocks.get(block, 0) + size
    return {name: round(size) for name, size in blocks.items()}


def held_bytes(model: nn.Module) -> dict[str, int]:
    """By block, of a model that is in memory."""
    blocks: dict[str, int] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        block = name.split(".")[0]
        blocks[block] = blocks.get(block, 0) + tensor.nbytes
    return blocks


def serving_memory(
    model: CalicoModel, config: CalicoConfig, dtype: torch.dtype, bits: int | None, work: Workload
) -> MemoryEstimate:
    """Keys and values: 2 x layers x key/value channels for each token of each row. Logits: of one step, in float32."""
    llm = model.llm.config
    channels = llm.num_key_value_heads * llm.hidden_size // llm.num_attention_heads
    tokens = work.num_rows * work.row_tokens
    rest = {
        "keys and values": 2 * llm.num_hidden_layers * channels * tokens * dtype.itemsize,
        "logits": work.num_rows * llm.vocab_size * 4,
        "SAM attention": sam_attention_bytes(config, work.num_images, dtype),
    }
    return MemoryEstimate(weight_bytes(model, dtype, bits), rest)


def finetuning_memory(
    model: CalicoModel,
    config: CalicoConfig,
    dtype: torch.dtype,
    bits: int | None,
    work: Workload,
    *,
    checkpointing: bool = False,
) -> MemoryEstimate:
    """Of a model with its adapter attached (mode `paper`): float32 weight, gradient and two moments for each trained
    weight, 16 bytes in all, of which 4 are among `weights`; `activation_bytes`; logits, their log-probabilities and
    gradient in float32."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    targets = [m.base_layer for m in model.llm.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
    inputs = sum(int(linear.in_features) for linear in targets)
    activations = activation_bytes(config, work, inputs, dtype.itemsize, checkpointing=checkpointing)
    if any(p.requires_grad for p in model.grounding_encoder.parameters()):
        activations += work.num_images * encoder_activation_bytes(config, dtype.itemsize)
    rest = {
        "gradients": 4 * trained,
        "AdamW moments": 8 * trained,
        "activations": activations,
        "logits": 12 * work.answer_tokens * config.llm["vocab_size"],
        "SAM attention": sam_attention_bytes(config, work.num_images, dtype),
    }
    return MemoryEstimate(weight_bytes(model, dtype, bits), rest)


def activation_bytes(
    config: CalicoConfig, work: Workload, lora_inputs: int, itemsize: int, *, checkpointing: bool = False
) -> int:
    """What autograd keeps from forward to backward in mode `paper`. Frozen linears keep no input, frozen encoders
    nothing at all (else see `encoder_activation_bytes`). `b` is `itemsize`, `lora_inputs` the input channels of all
    linears of the language model with LoRA together.

    Language model, per token and layer of D channels and F inner ones: two norms in float32 8D, queries, keys, values
    and their result 4Db, the gated feed-forward 3Fb; per channel of a LoRA input 5 (float32 and a dropout mask).
    With checkpointing: Db per token and layer, and one layer in full while it is repeated.
    CAM, per layer of the Q-Former and (row, image): Q queries of (8 D_q + F_q) b; with cross-attention also
    (4 Q + 2 T) D_q b for the image's T tokens. CEM, per image: (4 T D_g + S (D_s + 2 D_g)) b.
    Mask decoder, float32, per mask: 23 P C + 128 P for a grounding embedding of P cells and C channels.
    """
    llm, qformer = config.llm, config.qformer
    size, inner, layers = llm["hidden_size"], llm["intermediate_size"], llm["num_hidden_layers"]
    tokens = work.num_rows * work.row_tokens
    in_layers = tokens * (layers * (8 * size + itemsize * (4 * size + 3 * inner)) + 5 * lora_inputs)
    if checkpointing:
        in_layers = tokens * layers * size * itemsize + in_layers // layers
    seen, own = num_tokens(config.global_encoder), num_tokens(config.semantic_encoder)
    width, num_queries = qformer["hidden_size"], config.num_queries
    in_cam = num_queries * (8 * width + qformer["intermediate_size"]) * qformer["num_hidden_layers"]
    num_cross = -(-qformer["num_hidden_layers"] // qformer["cross_attention_frequency"])
    in_cam += num_cross * (4 * num_queries + 2 * seen) * width
    num_cams = 0 if "cam" in config.without else len(config.cam_layers)
    in_cams = num_cams * work.num_rows * work.images_per_row * in_cam * itemsize
    channels, own_channels = config.global_encoder.hidden_size, config.semantic_encoder.hidden_size
    in_cem = work.num_images * (4 * seen * channels + own * (own_channels + 2 * channels)) * itemsize
    cells = (config.num_mask_grid // 4) ** 2
    in_masks = 4 * work.num_masks * cells * (23 * config.grounding_encoder.hidden_size + 128)
    return in_layers + in_cams + (0 if "cem" in config.without else in_cem) + in_masks


def encoder_activation_bytes(config: CalicoConfig, itemsize: int) -> int:
    """Per image, of compact encoders and a Q-Former that train with LoRA; a trunk under them is frozen, keeps nothing.

    Convolutional: three maps per convolution of the pyramids (before and after the norm, LoRA's own); in the grounding
    encoder six of its width at stride 4. On a trunk: these of the convolutions beside it, and two maps and six more per
    residual block at each level that is read. Both: the context maps at the strides of the fine ones; the Q-Former's
    layers as in `activation_bytes`.
    """
    count = sum(_kept_values(encoder) for encoder in (config.global_encoder, config.semantic_encoder))
    count += _kept_values(config.grounding_encoder, is_grounding=True)
    qformer = config.qformer
    per_layer = config.num_queries * (8 * qformer["hidden_size"] + qformer["intermediate_size"])
    count += qformer["num_hidden_layers"] * per_layer
    return count * itemsize


def _kept_values(encoder: EncoderConfig, is_grounding: bool = False) -> int:
    """Numbers of one compact encoder; of one on a trunk, those of its own convolutions too."""
    options, size = encoder.options, encoder.image_size
    count = 0
    for width, num_blocks, level in _levels(encoder):
        maps = 2 + 6 * num_blocks if encoder.kind == "trunk" else 3 * (1 + 2 * num_blocks)
        count += maps * width * (size >> level) ** 2
    if is_grounding:
        level, context = options.get("level", 2), options.get("context_width", 0)
        if encoder.kind == "conv":
            count += 6 * encoder.hidden_size * (size // 4) ** 2
        for below, share in ((1, 6), (2, 3)):
            count += share * context * (size >> (level - below)) ** 2
    if encoder.kind == "trunk":
        own = EncoderConfig("conv", size // options["own_stride"], encoder.hidden_size, options["own"])
        count += _kept_values(own, is_grounding)
    return count


def _levels(encoder: EncoderConfig) -> list[tuple[int, int, int]]:
    """(width, residual blocks, level) of the maps that a compact encoder computes at stride 2^level; none of others."""
    options = encoder.options
    if encoder.kind == "conv":
        return [(w, n, k + 1) for k, (w, n) in enumerate(zip(options["widths"], options["num_blocks"], strict=True))]
    if encoder.kind != "trunk":
        return []
    last = NUM_LEVELS if "num_blocks" in options else options["level"]  # top-down, or one level alone
    return [(options["width"], options.get("num_blocks", 1), k) for k in range(options["level"], last + 1)]


def num_tokens(encoder: EncoderConfig) -> int:
    """Tokens of a picture that an encoder gives (EVA-CLIP's class token is one)."""
    if encoder.kind == "conv":
        return (encoder.image_size >> len(encoder.options["widths"])) ** 2
    if encoder.kind == "trunk":
        return (encoder.image_size >> encoder.options["level"]) ** 2
    return (encoder.image_size // encoder.options["patch_size"]) ** 2 + (encoder.kind == "eva_clip")


def sam_attention_bytes(config: CalicoConfig, num_images: int, dtype: torch.dtype) -> int:
    """At its most: a global layer's position bias, heads x T x T per image, and as much again for the attention."""
    encoder = config.grounding_encoder
    if encoder.kind != "sam":
        return 0
    return 2 * num_images * encoder.options["num_attention_heads"] * num_tokens(encoder) ** 2 * dtype.itemsize


def images_that_fit(config: CalicoConfig, device: torch.device, dtype: torch.dtype, most: int) -> int:
    """Images that go through the encoders together, `most` at most: SAM's attention may take half of what is free on a
    GPU (eight at 1,024 pixels take 8.6 GB)."""
    per_image = sam_attention_bytes(config, 1, dtype)
    free = free_bytes(device) if device.type == "cuda" else None
    return most if not per_image or free is None else max(1, min(most, free // 2 // per_image))


def free_bytes(device: torch.device) -> int | None:
    """That the device could still give; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def table(estimates: Iterable[tuple[str, MemoryEstimate]]) -> list[str]:
    """Lines of GiB: a row for each block and item, a column for each estimate."""
    named = list(estimates)
    lines = [f"{'GiB':<20}" + "".join(f"{name:>14}" for name, _ in named)]
    rows: dict[str, None] = {}
    for _, estimate in named:
        rows |= dict.fromkeys((*estimate.weights, *estimate.rest))
    for row in rows:
        values = [{**estimate.weights, **estimate.rest}.get(row) for _, estimate in named]
        lines.append(f"{row:<20}" + "".join(f"{'-' if v is None else f'{v / 2**30:.2f}':>14}" for v in values))
    return [*lines, f"{'total':<20}" + "".join(f"{estimate.total / 2**30:>14.2f}" for _, estimate in named)]
