"""Sizes of a CALICO model. Only the builder reads this; modules take numbers and modules.

Presets: `calico-7b` has the paper's sizes, `calico-1b` the same kinds of blocks smaller; `calico-tiny` and
`calico-small` are the same architecture with compact encoders, small enough to be trained and served on two CPU cores:
convolutions of their own; with one pretrained trunk.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calico.errors import CheckpointError
from calico.language.questions import VICUNA_SYSTEM
from calico.model.sizes import TRUNKS, MeanStd

FORMAT_VERSION = 1
FULL_SIZE = ("calico-7b", "calico-1b")  # presets that are joined from published weights and trained as the paper says
ABLATABLE = ("cem", "cam", "auxiliary")  # what `CalicoConfig.without` may name


@dataclass(frozen=True)
class EncoderConfig:
    """One image encoder.

    kind: `conv` (tiny), `trunk` (conv, to which the maps of `CalicoConfig.trunk` add), or the library's own:
    `eva_clip`, `dinov2`, `sam`.
    image_size: pixels of the square input. hidden_size: channels of what it gives.
    options: keyword arguments of the library's config, or of the convolutional network.
    """

    kind: str
    image_size: int
    hidden_size: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CalicoConfig:
    """Everything needed to build a model of one preset, written beside its weights."""

    preset: str
    global_encoder: EncoderConfig
    semantic_encoder: EncoderConfig
    grounding_encoder: EncoderConfig
    num_queries: int  # Q-Former queries, so image tokens, per image
    qformer: dict[str, Any]  # InstructBlipQFormerConfig
    llm: dict[str, Any]  # LlamaConfig
    cem_num_heads: int
    cam_layers: tuple[int, ...]  # 0-based decoder layers that a CAM stands before
    mask_decoder: dict[str, Any]  # SamMaskDecoderConfig
    num_mask_grid: int  # side of the mask logits in pixels, four times the grounding embedding's
    mask_prompt: bool = False  # whether each click after the first also sees the mask before it, as SAM's do
    lora: dict[str, Any] = field(default_factory=lambda: {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05})
    trunk: str = ""  # of `calico.model.sizes.TRUNKS`, or by the name of `backbone`, which the encoders then share
    backbone: dict[str, Any] = field(default_factory=dict)  # `calico.model.sizes.BackboneLevels` of another trunk
    system_prompt: str = ""  # before the first turn, for a language model that was trained with one
    fresh: tuple[str, ...] = ()  # beginnings of names of weights that no base has trained, beside CEM and CAM
    new_tokens: tuple[int, ...] = ()  # of the tokenizer, that no base has rows for
    data_version: str = ""  # what the weights were trained on
    without: tuple[str, ...] = ()  # of `ABLATABLE`: modules left out, or the auxiliary losses, for an ablation
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.without) - set(ABLATABLE)):
            raise ValueError(f"without: expected some of {', '.join(ABLATABLE)}, got {', '.join(unknown)}")
        kinds = {encoder.kind for encoder in (self.global_encoder, self.semantic_encoder, self.grounding_encoder)}
        if bool(self.trunk) != (kinds == {"trunk"}) or (not self.trunk and "trunk" in kinds):
            raise ValueError(f"trunk: {self.trunk!r} does not go with encoders of kind {', '.join(sorted(kinds))}")

    @property
    def trunk_widths(self) -> tuple[int, ...]:
        """Channels of the trunk's maps at strides 2, 4, 8, ..."""
        return tuple(self.backbone["widths"]) if self.backbone else TRUNKS[self.trunk].widths

    @property
    def trunk_mean_std(self) -> MeanStd:
        """What the trunk's pixels, from 0 to 1, are normalised with."""
        if not self.backbone:
            return TRUNKS[self.trunk].mean_std
        mean, std = self.backbone["mean_std"]
        return tuple(mean), tuple(std)

    @property
    def is_full_size(self) -> bool:
        """Of a preset that starts from published weights; others are born and finetuned by recipes of their own."""
        return self.preset in FULL_SIZE

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> CalicoConfig:
        """Raises `CheckpointError` naming the file for anything that is not a config of this format."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: no config there; a checkpoint folder holds config.json, model.safetensors and tokenizer.json"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path}: not readable as JSON ({error}); copy the checkpoint again") from None
        names = {f.name for f in dataclasses.fields(cls)}
        required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
        if not isinstance(raw, dict) or (wrong := sorted((set(raw) - names) | (required - set(raw)))):
            what = (
                f"missing or unknown fields {', '.join(wrong)}" if isinstance(raw, dict) else f"a {type(raw).__name__}"
            )
            raise CheckpointError(f"{path}: not a CALICO config ({what}); expected one written by this version")
        if raw.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: format {raw.get('format_version')}, expected {FORMAT_VERSION}; "
                "use the version of calico that wrote it"
            )
        try:
            for name in ("global_encoder", "semantic_encoder", "grounding_encoder"):
                raw[name] = EncoderConfig(**raw[name])
            raw["cam_layers"] = tuple(raw["cam_layers"])
            for name in ("without", "fresh", "new_tokens"):
                raw[name] = tuple(raw.get(name, ()))
            return cls(**raw)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a CALICO config ({error})") from None


def calico_7b() -> CalicoConfig:
    """The paper's sizes: EVA-CLIP-g, InstructBLIP's Q-Former, Vicuna-7B, DINOv2 ViT-B/14 with registers, SAM ViT-H."""
    return CalicoConfig(
        preset="calico-7b",
        global_encoder=EncoderConfig(
            "eva_clip",
            224,
            1408,
            {
                "hidden_size": 1408,
                "intermediate_size": 6144,
                "num_hidden_layers": 39,
                "num_attention_heads": 16,
                "patch_size": 14,
                "image_size": 224,
                "qkv_bias": True,
            },
        ),
        semantic_encoder=EncoderConfig(
            "dinov2",
            518,
            768,
            {
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "patch_size": 14,
                "image_size": 518,
                "num_register_tokens": 4,
            },
        ),
        grounding_encoder=EncoderConfig(
            "sam",
            1024,
            256,
            {
                "hidden_size": 1280,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "global_attn_indexes": [7, 15, 23, 31],
                "image_size": 1024,
                "patch_size": 16,
                "output_channels": 256,
                "mlp_dim": 5120,
            },
        ),
        num_queries=32,
        qformer={
            "vocab_size": 30523,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "cross_attention_frequency": 2,
            "encoder_hidden_size": 1408,
        },
        llm={
            "vocab_size": 32016,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
        cem_num_heads=16,
        cam_layers=(11, 22),
        mask_decoder={"hidden_size": 256},
        num_mask_grid=256,
        mask_prompt=True,
        system_prompt=VICUNA_SYSTEM,
    )


def calico_1b() -> CalicoConfig:
    """`calico-7b` in smaller sizes, of bases whose licences allow commercial use: BLIP-2's EVA-CLIP-g and Q-Former,
    TinyLlama-1.1B, DINOv2 ViT-S/14 with registers, SAM ViT-B. What joins them was never trained."""
    full = calico_7b()
    semantic, grounding = full.semantic_encoder, full.grounding_encoder
    smaller: dict[str, Any] = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "vocab_size": 32005,
    }
    vit_b: dict[str, Any] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "global_attn_indexes": [2, 5, 8, 11],
        "mlp_dim": 3072,
    }
    return replace(
        full,
        preset="calico-1b",
        semantic_encoder=replace(
            semantic, hidden_size=384, options={**semantic.options, "hidden_size": 384, "num_attention_heads": 6}
        ),
        grounding_encoder=replace(grounding, options={**grounding.options, **vit_b}),
        llm={**full.llm, **smaller},
        cam_layers=(8, 15),
        fresh=("image_projection.", "seg_projection."),
        new_tokens=tuple(range(32000, 32005)),
    )


def calico_tiny(vocab_size: int = 768) -> CalicoConfig:
    """The embedded default's sizes: 128 px in, masks on a 128 x 128 grid."""
    return CalicoConfig(
        preset="calico-tiny",
        global_encoder=EncoderConfig("conv", 128, 192, {"widths": [24, 48, 96, 192], "num_blocks": [0, 1, 2, 2]}),
        semantic_encoder=EncoderConfig("conv", 128, 96, {"widths": [24, 48, 96], "num_blocks": [0, 1, 2]}),
        grounding_encoder=EncoderConfig(
            "conv", 128, 64, {"widths": [16, 32, 64, 128, 192], "num_blocks": [0, 1, 1, 2, 2], "context_width": 16}
        ),
        num_queries=8,
        qformer={
            "vocab_size": 4,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "cross_attention_frequency": 2,
            "encoder_hidden_size": 192,
            "max_position_embeddings": 4,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        llm={
            "vocab_size": vocab_size,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
        cem_num_heads=4,
        cam_layers=(1, 2),
        mask_decoder={
            "hidden_size": 64,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "num_multimask_outputs": 0,
            "iou_head_hidden_dim": 64,
        },
        num_mask_grid=128,
        mask_prompt=True,
    )


def calico_small(
    vocab_size: int = 1280, trunk: str = "efficientnet-lite0", backbone: dict[str, Any] | None = None
) -> CalicoConfig:
    """`calico-tiny` with one pretrained trunk beside its three encoders: 256 px in, masks on a 128 x 128 grid.

    backbone: of a trunk that is none of ours.
    """
    tiny = calico_tiny(vocab_size)
    return replace(
        tiny,
        preset="calico-small",
        trunk=trunk,
        backbone=backbone or {},
        global_encoder=on_trunk(tiny.global_encoder, level=5, width=128),
        semantic_encoder=on_trunk(tiny.semantic_encoder, level=4, width=96),
        grounding_encoder=on_trunk(tiny.grounding_encoder, level=3, width=64, num_blocks=1, context_width=32),
    )


def on_trunk(own: EncoderConfig, **options: int) -> EncoderConfig:
    """`own` on an image of half the trunk's side, with what the trunk adds to it."""
    return EncoderConfig("trunk", 2 * own.image_size, own.hidden_size, {"own": own.options, "own_stride": 2, **options})


PRESETS = {"calico-7b": calico_7b, "calico-1b": calico_1b, "calico-tiny": calico_tiny, "calico-small": calico_small}
