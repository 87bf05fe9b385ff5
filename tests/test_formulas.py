"""CEM and CAM held against the paper's formulas, written out once more in numpy: the same numbers, not only the same
properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from micro import TOKENIZER, micro
from torch import nn

from calico.model.builder import build
from calico.model.calico import CalicoModel, Pixels
from calico.model.cem import CorrespondenceExtraction
from calico.model.generation import Prompt, collate_prompts

Array = np.ndarray


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shake(*modules: nn.Module) -> None:
    """Give every weight a value that is seen in the result, those that start at zero too."""
    torch.manual_seed(3)
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)


def array(tensor: torch.Tensor | None) -> Array:
    assert tensor is not None
    return tensor.detach().double().numpy()


def linear(x: Array, module: nn.Linear) -> Array:
    return x @ array(module.weight).T + array(module.bias)


def softmax(x: Array) -> Array:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def attention(queries: Array, keys: Array, values: Array, num_heads: int) -> Array:
    """softmax(q k^T / sqrt(d)) v by heads. queries: T x D; keys, values: S x D. Returns T x D."""
    heads = []
    for q, k, v in zip(*(np.split(x, num_heads, axis=1) for x in (queries, keys, values)), strict=True):
        heads.append(softmax(q @ k.T / math.sqrt(q.shape[1])) @ v)
    return np.concatenate(heads, axis=1)


@torch.no_grad()
@pytest.mark.parametrize("semantic_size", [20, 12])
def test_cem_is_one_cross_attention_with_a_residual(semantic_size: int) -> None:
    """X'_global = X_global + Attention(X_global, X_sem, X_sem), each image over its own tokens (section 4.2)."""
    cem = CorrespondenceExtraction(12, semantic_size, num_heads=3)
    shake(cem)
    global_tokens, semantic_tokens = random(2, 5, 12), random(2, 7, semantic_size, seed=1)
    module = cem.attention
    if module.in_proj_weight is not None:  # torch packs the three where their widths are the same
        weights = np.split(array(module.in_proj_weight), 3)
    else:
        weights = [array(w) for w in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)]
    biases = np.split(array(module.in_proj_bias), 3)
    for image, found in enumerate(cem(global_tokens, semantic_tokens)):
        x, semantic = array(global_tokens[image]), array(semantic_tokens[image])
        q, k, v = (
            side @ weight.T + bias for side, weight, bias in zip((x, semantic, semantic), weights, biases, strict=True)
        )
        expected = x + linear(attention(q, k, v, 3), module.out_proj)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4, rtol=1e-4)


def layer_norm(x: Array, module: nn.LayerNorm) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + module.eps)
    return scaled * array(module.weight) + array(module.bias)


def gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def qformer(model: CalicoModel, queries: Array, image_tokens: Array) -> Array:
    """BERT's layers, each normalised after its residual: self-attention of the queries, in every second layer
    cross-attention to the image, then the queries' feed-forward. queries: Q x D_q; image_tokens: T x D_g."""

    def attended(block: Any, x: Array, other: Array) -> Array:
        inner = block.attention
        mixed = attention(
            linear(x, inner.query), linear(other, inner.key), linear(other, inner.value), inner.num_attention_heads
        )
        return layer_norm(x + linear(mixed, block.output.dense), block.output.LayerNorm)

    module: Any = model.qformer.model
    x = layer_norm(queries, module.embeddings.layernorm)
    for number, layer in enumerate(module.encoder.layer):
        x = attended(layer.attention, x, x)
        if number % 2 == 0:
            x = attended(layer.crossattention, x, image_tokens)
        wide = gelu(linear(x, layer.intermediate_query.dense))
        x = layer_norm(x + linear(wide, layer.output_query.dense), layer.output_query.LayerNorm)
    return x


@torch.no_grad()
def test_cam_shifts_the_queries_by_the_instruction_and_adds_what_they_find_at_the_image() -> None:
    """q' = q_cam + W_e h_instruction; h_image += W_r QFormer(q', X'_global) before its layer, and nothing else
    changes (section 4.3)."""
    config = micro()
    model = build(config).eval()
    shake(model.cem, model.cams, model.qformer)
    model.cam_queries.copy_(random(*model.cam_queries.shape, seed=5))
    features = model.encode(Pixels(*(random(3, 3, 32, 32, seed=k) for k in range(3))))
    prompts = []
    for images, text in (([0, 1], "Segment the common parts."), ([2, 0], "Which object is common to all of them?")):
        pictures = ", ".join(f"<im_start><image><im_end> (IMAGE{k + 1})" for k in range(2))
        encoded = TOKENIZER.encode_prompt(f"USER: {pictures}. {text} ASSISTANT:", config.num_queries)
        prompts.append(Prompt(encoded.ids, encoded.image_positions, images))

    before: dict[int, Array] = {}
    after: dict[int, Array] = {}
    for number in config.cam_layers:
        layer = model.llm.model.layers[number]

        def keep(module: nn.Module, args: Any, kwargs: Any, *, kept: dict[int, Array], number: int = number) -> None:
            kept[number] = array(args[0])

        layer.register_forward_pre_hook(lambda *a, k=keep: k(*a, kept=before), with_kwargs=True, prepend=True)
        layer.register_forward_pre_hook(lambda *a, k=keep: k(*a, kept=after), with_kwargs=True)
    batch = collate_prompts(prompts, TOKENIZER.pad_id, model.device, left=False)
    model.hidden_states(features, batch)
    for cam, number in zip(model.cams, config.cam_layers, strict=True):
        expected = before[number].copy()
        for row, prompt in enumerate(prompts):
            instruction = before[number][row, len(prompt.ids) - 1]
            queries = array(model.cam_queries) + linear(instruction, cam.extraction)
            for image, positions in zip(prompt.images, prompt.image_positions, strict=True):
                states = qformer(model, queries, array(features.refined_tokens[image]))
                expected[row, positions] += linear(states, cam.reintegration)
        assert np.abs(expected - before[number]).max() > 0.1
        np.testing.assert_allclose(after[number], expected, atol=1e-4, rtol=1e-3)
