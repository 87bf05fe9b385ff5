"""The architecture's promises, on the tiny preset with random weights: one property each."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from micro import TOKENIZER
from torch import nn

from calico.checkpoints.adapter import ENCODERS
from calico.model.builder import build
from calico.model.calico import CalicoModel, ImageFeatures, Pixels
from calico.model.cam import CAM_BATCH
from calico.model.config import calico_7b, calico_tiny
from calico.model.encoders import Dinov2Tokens
from calico.model.generation import Prompt, collate_prompts, generate
from calico.model.modes import add_lora, is_trained_in_paper, merge_lora, set_mode, trained_share
from calico.model.segmentation import seg_state_positions

CONFIG = calico_tiny(len(TOKENIZER))


@pytest.fixture
def model() -> CalicoModel:
    torch.manual_seed(0)
    return build(CONFIG).eval()


def shake(*modules: nn.Module) -> None:
    """Give zero-started weights a value."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)


def random_pixels(num_images: int, size: int = 64) -> Pixels:
    generator = torch.Generator().manual_seed(7)
    return Pixels(*(torch.randn(num_images, 3, size, size, generator=generator) for _ in range(3)))


def prompt(images: list[int], text: str = "Segment the common parts.") -> Prompt:
    pictures = ", ".join(f"<im_start><image><im_end> (IMAGE{i + 1})" for i in range(len(images)))
    encoded = TOKENIZER.encode_prompt(f"USER: {pictures}. {text} ASSISTANT:", CONFIG.num_queries)
    return Prompt(encoded.ids, encoded.image_positions, images)


def states(model: CalicoModel, features: ImageFeatures, prompts: list[Prompt], *, left: bool = False) -> torch.Tensor:
    return model.hidden_states(features, collate_prompts(prompts, TOKENIZER.pad_id, model.device, left=left))


@torch.no_grad()
def test_zero_started_cem_and_cam_change_nothing(model: CalicoModel) -> None:
    features, encoded = model.encode_with_states(random_pixels(2))
    torch.testing.assert_close(features.refined_tokens, encoded.global_tokens, rtol=0, atol=0)
    batch = collate_prompts([prompt([0, 1])], TOKENIZER.pad_id, model.device, left=False)
    plain = model.llm.get_decoder()(inputs_embeds=model.embed(features, batch)).last_hidden_state
    torch.testing.assert_close(states(model, features, [prompt([0, 1])]), plain, rtol=0, atol=0)


@torch.no_grad()
def test_cam_changes_nothing_before_its_image_and_the_question_reaches_the_image(model: CalicoModel) -> None:
    shake(model.cem, model.cams)
    features = model.encode(random_pixels(2))
    one, other = (states(model, features, [prompt([0, 1], text)]) for text in ("Segment this.", "Segment that now."))
    first_image = prompt([0, 1]).image_positions[0][0]
    torch.testing.assert_close(one[:, :first_image], other[:, :first_image])
    # Plain causal attention could not carry a later question to an earlier image token: only CAM does.
    assert (one[:, first_image] - other[:, first_image]).abs().max() > 1e-4


@torch.no_grad()
def test_each_image_attends_to_its_own_semantic_tokens(model: CalicoModel) -> None:
    shake(model.cem)
    pixels = random_pixels(2)
    changed = pixels._replace(semantic_view=torch.cat([pixels.semantic_view[:1], pixels.semantic_view[1:] + 1]))
    one, other = model.encode(pixels).refined_tokens, model.encode(changed).refined_tokens
    torch.testing.assert_close(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 1e-4


@torch.no_grad()
def test_the_answer_does_not_leak_into_the_prompt(model: CalicoModel) -> None:
    shake(model.cams)
    features = model.encode(random_pixels(2))
    start = prompt([0, 1])
    long = start._replace(ids=[*start.ids, *TOKENIZER.ids("<p> the leg </p> [SEG] (IMAGE1).")])
    batch = collate_prompts([long], TOKENIZER.pad_id, model.device, left=False)
    batch = replace(batch, slots=replace(batch.slots, instruction=torch.tensor([len(start.ids) - 1])))
    with_answer = model.hidden_states(features, batch)[:, : len(start.ids)]
    torch.testing.assert_close(with_answer, states(model, features, [start]), atol=1e-5, rtol=1e-4)


def test_rows_of_like_length_are_read_together_and_nothing_else_changes(model: CalicoModel) -> None:
    shake(model.cem, model.cams)
    prompts = [prompt([(i + j) % 4 for j in range(2 + i % 3)], "Segment. " * (1 + i * 5 % 7)) for i in range(65)]
    batch = collate_prompts(prompts, TOKENIZER.pad_id, model.device, left=False)
    lots = batch.rows_by_length(4)
    assert len(lots) == 4
    assert torch.equal(torch.cat(lots).sort().values, torch.arange(65))
    lengths = [[len(prompts[i].ids) for i in rows] for rows in lots]
    assert all(max(short) <= min(long) for short, long in pairwise(lengths))
    assert [batch.take(rows).token_ids.shape[1] for rows in lots] == [max(lot) for lot in lengths]

    def states_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        found = model.hidden_states(model.encode(random_pixels(4)), batch) * batch.attention_mask[..., None]
        found.square().sum().backward()
        assert model.cam_queries.grad is not None
        return found.detach(), model.cam_queries.grad.clone()

    in_lots = states_and_gradient()
    model.max_lots = 1
    torch.testing.assert_close(in_lots, states_and_gradient(), atol=1e-4, rtol=1e-4)


def test_few_rows_and_rows_padded_on_the_left_are_read_at_once() -> None:
    prompts = [prompt([0, 1], "Segment. " * (1 + i % 7)) for i in range(64)]
    left = collate_prompts(prompts, TOKENIZER.pad_id, torch.device("cpu"), left=True)
    few = collate_prompts(prompts[:15], TOKENIZER.pad_id, torch.device("cpu"), left=False)
    assert [len(rows) for rows in left.rows_by_length(4)] == [64]
    assert [len(rows) for rows in few.rows_by_length(4)] == [15]


@torch.no_grad()
def test_cached_generation_equals_the_uncached_forward(model: CalicoModel) -> None:
    shake(model.cams)
    features = model.encode(random_pixels(3))
    prompts = [prompt([0, 1]), prompt([2, 0, 1], "Segment the unique parts, please.")]
    answers = generate(
        model, features, prompts, eos_id=TOKENIZER.eos_id, pad_id=TOKENIZER.pad_id, max_new_tokens=[12, 12]
    )
    for start, answer in zip(prompts, answers, strict=True):
        ids = list(start.ids)
        batch = collate_prompts([start._replace(ids=ids + answer.ids)], TOKENIZER.pad_id, model.device, left=False)
        batch = replace(batch, slots=replace(batch.slots, instruction=torch.tensor([len(ids) - 1])))
        hidden = model.hidden_states(features, batch)[0, len(ids) - 1 : -1]
        torch.testing.assert_close(answer.states, hidden, atol=1e-4, rtol=1e-4)
        assert model.llm.get_output_embeddings()(hidden).argmax(-1).tolist() == answer.ids


@torch.no_grad()
def test_generation_equals_full_forwards_step_by_step(model: CalicoModel) -> None:
    shake(model.cams)
    features = model.encode(random_pixels(2))
    start = prompt([0, 1])
    ours = generate(model, features, [start], eos_id=TOKENIZER.eos_id, pad_id=TOKENIZER.pad_id, max_new_tokens=[8])[0]
    batch = collate_prompts([start], TOKENIZER.pad_id, model.device, left=True)
    embedded = model.embed(features, batch)
    theirs: list[int] = []
    for _ in range(8):  # uncached and unhooked but for the full forward, step by step
        cam = {CAM_BATCH: model.cam_batch(features, batch.slots)}
        hidden = model.llm.get_decoder()(inputs_embeds=embedded, use_cache=False, **cam).last_hidden_state[:, -1]
        theirs.append(int(model.llm.get_output_embeddings()(hidden).argmax(-1)))
        embedded = torch.cat([embedded, model.llm.get_input_embeddings()(torch.tensor([[theirs[-1]]]))], 1)
    assert ours.ids == theirs


@torch.no_grad()
def test_a_batch_equals_its_rows_one_at_a_time(model: CalicoModel) -> None:
    shake(model.cams, model.cem)
    pixels = random_pixels(4)
    features = model.encode(pixels)
    prompts = [
        prompt([0, 1]),
        prompt([1, 2, 3], "Segment the unique parts."),
        prompt([3, 0], "Which object is common?"),
    ]
    options = {"eos_id": TOKENIZER.eos_id, "pad_id": TOKENIZER.pad_id}
    together = generate(model, features, prompts, max_new_tokens=[10] * 3, **options)
    for one, expected in zip(prompts, together, strict=True):
        own = model.encode(Pixels(*(view[list(one.images)] for view in pixels)))
        alone = generate(model, own, [one._replace(images=range(len(one.images)))], max_new_tokens=[10], **options)[0]
        assert alone.ids == expected.ids
        torch.testing.assert_close(alone.states, expected.states, atol=1e-4, rtol=1e-4)
        image = one.images[0]
        masks = model.segment(features.grounding, expected.states, torch.full((10,), image))
        own_masks = model.segment(own.grounding, alone.states, torch.zeros(10, dtype=torch.long))
        torch.testing.assert_close(own_masks.logits, masks.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_any_attention_gives_the_same_answers(model: CalicoModel) -> None:
    shake(model.cams)
    features = model.encode(random_pixels(3))
    prompts = [prompt([0, 1]), prompt([2, 0, 1], "Segment the unique parts, please."), prompt([1, 2], "Which?")]
    found = {}
    for name in ("sdpa", "eager"):
        model.llm.set_attn_implementation(name)
        found[name] = generate(
            model, features, prompts, eos_id=TOKENIZER.eos_id, pad_id=TOKENIZER.pad_id, max_new_tokens=[9] * 3
        )
    for one, other in zip(*found.values(), strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(one.states, other.states, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_swapping_the_images_of_two_segs_swaps_what_is_segmented(model: CalicoModel) -> None:
    grounding = model.encode(random_pixels(2)).grounding
    state = torch.randn(1, CONFIG.llm["hidden_size"]).expand(2, -1)
    straight = model.segment(grounding, state, torch.tensor([0, 1])).logits
    swapped = model.segment(grounding, state, torch.tensor([1, 0])).logits
    torch.testing.assert_close(straight, swapped.flip(0))
    assert (straight[0] - straight[1]).abs().max() > 1e-3


def test_the_state_of_a_seg_is_the_one_that_predicts_it() -> None:
    ids = TOKENIZER.ids("<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2)")
    positions = torch.tensor([i for i, token in enumerate(ids) if token == TOKENIZER.seg_id])
    before = [ids[i] for i in seg_state_positions(positions).tolist()]
    assert before == [TOKENIZER.phrase_close_id, *TOKENIZER.image_tag_ids[0]]


def test_full_size_trains_the_papers_share() -> None:
    config = calico_7b()
    with torch.device("meta"):
        model = build(config)
        add_lora(model, config.lora)
    set_mode(model, "paper")
    trained, total = trained_share(model)
    assert 0.0030 <= trained / total <= 0.0032
    assert 26.5e6 < trained < 29.5e6


@pytest.mark.parametrize("mode", ["paper", "all"])
def test_only_the_declared_weights_change(model: CalicoModel, mode: str) -> None:
    if mode == "paper":
        add_lora(model, CONFIG.lora)
    shake(model.cams, model.cem, model.global_encoder, model.semantic_encoder, model.grounding_encoder)  # zeros in all
    set_mode(model, mode)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    features = model.encode(random_pixels(2))
    hidden = states(model, features, [prompt([0, 1])])
    seg = model.segment(features.grounding, hidden[0, -2:], torch.tensor([0, 1]))
    decoder = model.pixel_decoder
    clicks = decoder(features.grounding, decoder.prompts(torch.rand(2, 1, 2), torch.tensor([[1], [0]])))
    boxes = decoder(features.grounding, decoder.prompts(boxes_xyxy=torch.rand(2, 4)), mask_input=seg.logits[:, None])
    loss = sum(m.logits.square().sum() + m.iou.sum() for m in (seg, clicks, boxes))
    (loss + model.llm.get_output_embeddings()(hidden).square().sum()).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.nan_to_num_().clamp_(-1, 1)
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    declared = {name for name in before if mode == "all" or is_trained_in_paper(name)}
    assert changed <= declared
    never_reached = {name for name in declared - changed if ".lora_A" not in name}  # lora_B starts at zero
    assert not {n for n in never_reached if "not_a_point" not in n}, sorted(never_reached)
    if mode == "paper":
        assert {name.split(".")[0] for name in changed} == {"cem", "cams", "cam_queries", "pixel_decoder", "llm"}


@torch.no_grad()
@pytest.mark.parametrize("blocks", [(), ENCODERS])
def test_merging_lora_keeps_the_output(model: CalicoModel, blocks: tuple[str, ...]) -> None:
    pixels = random_pixels(2)
    plain = model.eval().encode(pixels)
    add_lora(model, CONFIG.lora, blocks=blocks)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    features = model.eval().encode(pixels)
    for field, now in zip(("refined_tokens", "image_tokens"), features[:2], strict=True):
        assert torch.equal(getattr(plain, field), now) == (not blocks)
    assert torch.equal(plain.grounding.embedding, features.grounding.embedding) == (not blocks)
    before = states(model, features, [prompt([0, 1])])
    merge_lora(model)
    merged = model.encode(pixels)
    torch.testing.assert_close(merged.grounding.embedding, features.grounding.embedding, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(states(model, merged, [prompt([0, 1])]), before, atol=1e-3, rtol=1e-3)
    assert not [name for name in model.state_dict() if "lora" in name or "base_layer" in name]


def test_gradient_checkpointing_gives_the_same_gradients(model: CalicoModel) -> None:
    shake(model.cams)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()

    prompts = [prompt([0, 1], "Segment. " * (1 + i)) for i in range(16)]  # two lots
    batch = collate_prompts(prompts, TOKENIZER.pad_id, model.device, left=False)
    assert len(batch.rows_by_length(model.max_lots)) == 2

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        found = model.hidden_states(model.encode(random_pixels(2)), batch) * batch.attention_mask[..., None]
        found.square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    saved = gradients()
    assert plain.keys() == saved.keys()
    assert any(name.startswith("cams.") for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_question_of_a_padded_row_is_not_its_padding(model: CalicoModel) -> None:
    shake(model.cams)
    features = model.encode(random_pixels(2))
    short, long = prompt([0, 1], "Segment."), prompt([0, 1], "Segment all of the parts that are unique to one image.")
    for left in (False, True):
        both = states(model, features, [short, long], left=left)
        alone = states(model, features, [short])[0]
        own = both[0, -len(short.ids) :] if left else both[0, : len(short.ids)]
        torch.testing.assert_close(own, alone, atol=1e-4, rtol=1e-4)


def test_dinov2_has_the_same_keys_whatever_transformers_calls_its_linears() -> None:
    def named(*names: str) -> nn.Module:
        root = nn.Module()
        for name in names:
            *parents, last = name.split(".")
            place = root
            for parent in parents:
                if not hasattr(place, parent):
                    place.add_module(parent, nn.Module())
                place = place.get_submodule(parent)
            place.add_module(last, nn.Linear(2, 2))
        return root

    layer = "encoder.layer.0.attention"
    older = [f"{layer}.attention.{name}" for name in ("query", "key", "value")] + [f"{layer}.output.dense"]
    newer = [f"{layer}.{name}_proj" for name in "qkvo"]
    old, new = Dinov2Tokens(named(*older), 0), Dinov2Tokens(named(*newer), 0)
    assert (
        set(old.state_dict()) == set(new.state_dict()) == {f"model.{n}.{w}" for n in newer for w in ("weight", "bias")}
    )
    old.load_state_dict(new.state_dict())
    for before, after in zip(older, newer, strict=True):
        linears = old.model.get_submodule(before), new.model.get_submodule(after)
        assert torch.equal(*(linear.get_parameter("weight") for linear in linears))


def test_num_image_tokens_follow_the_config(model: CalicoModel) -> None:
    assert model.num_image_tokens == CONFIG.num_queries
    assert [len(positions) for positions in prompt([0, 1]).image_positions] == [CONFIG.num_queries] * 2
    assert np.concatenate(prompt([0, 1]).image_positions).size == 2 * CONFIG.num_queries
