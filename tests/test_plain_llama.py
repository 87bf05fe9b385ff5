"""A base of a plain Llama and BLIP-2, as `calico-1b` is joined: what none of them knows trains with the adapter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from foreign_weights import blip2, dinov2, llama, llama_tokenizer, sam, small_config

from calico.checkpoints.adapter import (
    AdapterCard,
    attach,
    choose_spec,
    load_adapted,
    load_over_base,
    save_adapter,
    trained,
)
from calico.checkpoints.files import load_checkpoint
from calico.checkpoints.fingerprint import ADAPTER_CARD, weights_version
from calico.conversion.assemble import COVERAGE
from calico.errors import CheckpointError
from calico.model.builder import build
from calico.model.config import FULL_SIZE, PRESETS, CalicoConfig
from calico.model.inputs import ModelInputs
from calico.model.memory import Workload, finetuning_memory, serving_memory
from calico.model.modes import merge_lora, trained_share
from calico.model.token_rows import TokenRows
from calico.training.batches import BatchSettings
from calico.training.losses import PAPER_WEIGHTS
from calico.training.recipe import finetune_settings
from calico.training.sources import Batches, DrawnImages
from calico.training.step import TrainingStep
from scripts import weights

NEW = ("<im_start>", "<im_end>", "[SEG]", "<p>", "</p>")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    for name, model in (("blip2", blip2()), ("sam", sam()), ("dinov2", dinov2())):
        model.save_pretrained(root / name)
    tokenizer = llama_tokenizer()
    llama(tokenizer.get_vocab_size()).save_pretrained(root / "llama")
    tokenizer.save(str(root / "llama" / "tokenizer.json"))
    sizes = dataclasses.replace(small_config(), preset="calico-1b", fresh=PRESETS["calico-1b"]().fresh)
    (root / "sizes.json").write_text(sizes.to_json())
    places = {"instructblip": "blip2", "llama": "llama", "dinov2": "dinov2"}
    named = [word for name, place in places.items() for word in (f"--{name}", str(root / place))]
    options = ["assemble", "--out", str(root / "base"), "--config", str(root / "sizes.json"), *named]
    assert weights.main(options) == 2  # no SAM
    assert weights.main([*options, "--sam", str(root / "sam")]) == 0
    return root / "base"


def test_what_no_base_has_is_written_down(base: Path) -> None:
    config = CalicoConfig.from_file(base / "config.json")
    size = llama_tokenizer().get_vocab_size()
    assert config.new_tokens == tuple(range(size, size + len(NEW)))
    assert config.fresh == ("image_projection.", "seg_projection.")
    report = json.loads((base / COVERAGE).read_text())
    assert set(report["new_tokens"]) == set(NEW)
    assert {name.partition(".")[0] for name in report["coverage"]["started"]} == {
        "cem", "cams", "image_projection", "seg_projection",
    }  # fmt: skip


@torch.no_grad()
def test_blip2_sees_as_before(base: Path) -> None:
    model, _, _ = load_checkpoint(base)
    theirs = blip2().bfloat16().float()
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(6))
    image = theirs.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(model.global_encoder(pixels), image, atol=1e-5, rtol=1e-5)
    states = theirs.qformer(query_embeds=theirs.query_tokens.expand(2, -1, -1), encoder_hidden_states=image)
    found = model.qformer(model.qformer.queries.expand(2, -1, -1), image)
    torch.testing.assert_close(found, states.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_new_rows_and_projections_train_are_saved_and_folded(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, config, tokenizer = load_checkpoint(base, dtype=torch.bfloat16)
    spec = choose_spec(model, config)
    attach(model, spec)
    for parameter in trained(model).values():
        parameter.data = parameter.data.float()
    names = set(trained(model))
    assert {"token_rows.input", "token_rows.output", "image_projection.weight", "seg_projection.2.bias"} <= names
    assert finetune_settings(config).learning_rate == 4e-4
    settings = BatchSettings(2, 3, 2, 2, dropout_share=0.0)
    batches = Batches(DrawnImages(), tokenizer, settings, ModelInputs.from_config(config), 0)
    step = TrainingStep(model, None, PAPER_WEIGHTS, config.grounding_encoder.image_size, 8)
    optimizer = torch.optim.AdamW(list(trained(model).values()), lr=0.02)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for number in range(3):  # what starts as zero passes no gradient back before it has moved
        step(batches.batch(number)).loss.backward()
        optimizer.step()
        if number < 2:
            optimizer.zero_grad()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    assert not [name for name, p in frozen.items() if not torch.equal(p, before[name])]
    rows = trained(model)["token_rows.input"]
    is_used = [tokenizer.vocabulary[token] - config.new_tokens[0] for token in NEW]
    assert (rows - before["token_rows.input"])[is_used].abs().amax(1).gt(0).all()

    save_adapter(tmp_path, AdapterCard(config.preset, weights_version(base), spec), trained(model))
    assert AdapterCard.from_file(tmp_path / ADAPTER_CARD).spec.tokens == config.new_tokens
    attached, *_ = load_over_base(tmp_path, base)
    served, *_ = load_adapted(tmp_path, base)
    assert served.token_rows is None
    ids = torch.tensor([[5, 9, *config.new_tokens, 7]])
    with torch.no_grad():
        expected, found = (one.eval().llm(input_ids=ids).logits for one in (attached, served))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        plain, *_ = load_checkpoint(base)
        assert not torch.allclose(plain.llm(input_ids=ids).logits, expected, atol=1e-2)


def test_tied_rows_and_ids_that_are_none() -> None:
    config = dataclasses.replace(small_config(), llm={**small_config().llm, "tie_word_embeddings": True})
    torch.manual_seed(0)
    model = build(config)
    rows = model.token_rows = TokenRows(model.llm, (3, 298))
    assert rows.output is None
    rows.input.data += 1
    ids = torch.tensor([[1, 3, 298, 4]])
    with torch.no_grad():
        before = model.llm(input_ids=ids).logits
        merge_lora(model)
        torch.testing.assert_close(model.llm(input_ids=ids).logits, before)
    for wrong in ((3, 3), (300,), (-1,)):
        with pytest.raises(CheckpointError, match="expected different rows of 300"):
            TokenRows(model.llm, wrong)


def test_the_smaller_preset_differs_in_sizes_only_and_fits_a_small_card() -> None:
    full, small = (PRESETS[name]() for name in FULL_SIZE)
    for name in ("global_encoder", "semantic_encoder", "grounding_encoder"):
        ours, theirs = getattr(small, name), getattr(full, name)
        assert (ours.kind, ours.image_size, set(ours.options)) == (theirs.kind, theirs.image_size, set(theirs.options))
    same = ("lora", "mask_decoder", "num_mask_grid", "mask_prompt", "system_prompt", "qformer", "num_queries")
    assert all(getattr(small, name) == getattr(full, name) for name in same)
    with torch.device("meta"):
        model = build(small).requires_grad_(False)
        serving = serving_memory(model, small, torch.bfloat16, None, Workload())
        attach(model, choose_spec(model, small))
        finetuning = finetuning_memory(model, small, torch.bfloat16, None, Workload(), checkpointing=True)
    num_trained, num_weights = trained_share(model)
    assert 2.2e9 < num_weights < 2.5e9
    assert num_trained < 0.02 * num_weights
    assert serving.total < finetuning.total < 11 * 2**30  # of 12 GB, the GPU's own context left
