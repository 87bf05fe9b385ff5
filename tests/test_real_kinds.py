"""calico-7b's kinds of encoders train, finetune and serve: three input sizes, frozen weights in any width."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_kinds import TOKENIZER, real_kinds, save_real_kinds
from test_finetune import QUICK, write

from calico.checkpoints.adapter import load_over_base
from calico.data.groups import draw_group
from calico.errors import InputError
from calico.inference import segmenter
from calico.inference.segmenter import CoSegmenter
from calico.model.builder import build
from calico.model.calico import Pixels, Seen
from calico.model.config import CalicoConfig, calico_tiny
from calico.model.encoders import GroundingFeatures
from calico.model.inputs import ModelInputs
from calico.model.preprocessing import Preprocessor
from calico.snapshots.store import Snapshot
from calico.training.batches import TrainingBatch
from calico.training.finetune import Finetune
from calico.training.kept_seen import KeptSeen
from calico.training.losses import LossWeights
from calico.training.sources import Batches, DrawnImages
from calico.training.step import TrainingStep
from calico.training.trainer import Phase, Trainer, TrainingSettings
from calico.values import ImageGroup
from scripts import train as train_verb

SHORT = replace(QUICK, steps=2, num_validations=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows nothing talks on and on."""
    real = segmenter.generate

    def generate(*args: Any, max_new_tokens: list[int], **options: Any) -> Any:
        return real(*args, max_new_tokens=[4] * len(max_new_tokens), **options)

    monkeypatch.setattr(segmenter, "generate", generate)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_real_kinds(tmp_path_factory.mktemp("real") / "base")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write(tmp_path_factory.mktemp("feedback") / "s", range(6))


def one_batch() -> TrainingBatch:
    inputs = ModelInputs.from_config(real_kinds())
    return Batches(DrawnImages(), TOKENIZER, SHORT.batch, inputs, seed=1).batch(0)


def group(seed: int = 5) -> ImageGroup:
    return ImageGroup(tuple(item.image for item in draw_group(seed, group_size=2, size=48)))


def test_each_branch_gets_its_own_size() -> None:
    batch = one_batch()
    assert [view.shape[-1] for view in batch.pixels] == [28, 42, 64]
    assert batch.part_maps.shape[1:] == (64, 64)
    with pytest.raises(InputError, match=r"32 px: encoders of kind dinov2, eva_clip, sam take their own size only"):
        Preprocessor.from_config(real_kinds(), 32)


def test_every_click_lies_on_what_it_means() -> None:
    """Masks are on a grid of 16, clicks in pixels of 64: a second one must be where the first mask was wrong."""
    step = TrainingStep(build(real_kinds()), None, LossWeights(), 64, 4)
    decoder, seen = step.model.pixel_decoder, []
    real = decoder.prompts
    decoder.prompts = lambda points, labels: seen.append((points, labels)) or real(points, labels)  # type: ignore
    batch = one_batch()
    maps = torch.zeros_like(batch.part_maps)
    maps[:, 32:, 32:] = 2
    clicks = replace(batch.points, points=torch.full_like(batch.points.points, 40.0), num_clicks=2)
    clicks = replace(clicks, value=torch.full_like(clicks.value, 2))
    with torch.no_grad():
        for parameter in decoder.mask_decoder.parameters():
            parameter.zero_()  # every logit is 0: nothing found, all of the square is missing
        step.click_masks(step.model.encode(batch.pixels), clicks, maps[clicks.image])
    points, labels = seen[-1]
    assert labels[:, 1].tolist() == [1] * len(points)
    assert ((points[:, 1] >= 32) & (points[:, 1] < 64)).all()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_frozen_weights_of_half_the_width_train_the_same(base: Path, tmp_path: Path, precision: str) -> None:
    """The rule of calico.model.precision: in and outside of autocast, in training and to look something up."""
    snapshot = write(tmp_path / "s", range(3))
    halved = Finetune(snapshot, base, tmp_path / "bf16", replace(SHORT, precision="bf16"))
    halved.settings = replace(halved.settings, precision=precision)
    whole = Finetune(snapshot, base, tmp_path / "float", replace(SHORT, precision="no"))
    assert (halved.model.dtype, whole.model.dtype) == (torch.bfloat16, torch.float32)
    assert {p.dtype for p in halved.trained.values()} == {torch.float32}
    narrow = {n.split(".")[0] for n, p in halved.model.named_parameters() if p.dtype == torch.bfloat16}
    assert narrow >= {"llm", "global_encoder", "semantic_encoder", "grounding_encoder", "qformer"}
    assert not narrow & {"pixel_decoder", "seg_projection"}
    gradients = []
    for run in (halved, whole):
        torch.manual_seed(0)
        run.model.eval()
        run._loss(run.batches.batch(0)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in run.trained.values() if p.grad is not None]))
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.98


@pytest.mark.parametrize(("bits", "precision"), [(None, "no"), (None, "bf16"), (8, "no"), (8, "bf16"), (4, "bf16")])
def test_a_finetune_of_real_kinds_ends_as_a_version_that_serves(
    base: Path, snapshot: Snapshot, tmp_path: Path, bits: int | None, precision: str
) -> None:
    if bits == 4:
        pytest.importorskip("bitsandbytes")
    run = Finetune(snapshot, base, tmp_path / "run", replace(SHORT, bits=bits, precision=precision))
    start = {name: p.detach().clone() for name, p in run.trained.items()}
    state = run.train()
    assert state.best_validation is not None
    moved = {name for name, p in run.trained.items() if not torch.equal(p, start[name])}
    assert any("q_proj.lora_B" in name for name in moved)
    assert any(name.startswith("cem.") for name in moved)
    folder = run.finish().folder
    served = CoSegmenter.from_checkpoint(folder, base=base)
    served.answer(group(), candidates=["dog", "leg"])
    click = served.segment_prompts(np.zeros((40, 30, 3), np.uint8), [(5, 5), (9, 9)], [True, False])
    assert click.mask.shape == (40, 30)
    again, *_ = load_over_base(folder, base)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in run.model.named_parameters() if p.requires_grad
    }


def test_frozen_encoders_run_once_for_an_image_and_a_step_and_for_one_that_comes_again(
    base: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    run = Finetune(snapshot, base, tmp_path / "run", replace(SHORT, steps=3, num_validations=3, anchored=True))
    seen: list[int] = []
    for encoder in (run.model.global_encoder, run.model.semantic_encoder, run.model.grounding_encoder):
        encoder.register_forward_hook(lambda module, args, result: seen.append(len(args[0])))
    assert run.validation is not None
    again = sum(len(batch.part_maps) for batch in run.validation(1))
    state = run.train()
    assert state.num_looks >= 3
    assert sum(seen) == 3 * (state.images + again)
    assert run._kept_seen.num_bytes > 0


def test_what_does_not_fit_is_encoded_anew() -> None:
    kept, made = KeptSeen(1), []
    seen = Seen(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), GroundingFeatures(torch.zeros(1, 1, 2, 2)))
    for _ in range(2):
        found = kept("a", lambda: made.append(1) or seen, torch.device("cpu"))
        assert torch.equal(found.grounding.embedding, seen.grounding.embedding)
    assert (len(made), kept.num_bytes) == (2, 0)


@pytest.mark.parametrize("mode", ["paper", "all"])
def test_training_goes_on_from_a_checkpoint_of_real_kinds(base: Path, tmp_path: Path, mode: str) -> None:
    settings = TrainingSettings(
        steps=2, mode=mode, batch=SHORT.batch, phases=(Phase(1.0, 64),), num_workers=0, max_seg_prompts=4
    )
    trainer = Trainer(tmp_path / "run", settings, real_kinds(), TOKENIZER, base)
    trainer.run()
    served = CoSegmenter.from_checkpoint(tmp_path / "run" / "checkpoint")
    assert served.config.semantic_encoder.image_size == 42
    served.answer(group(), candidates=["dog", "leg"])


def test_the_verb_trains_from_a_checkpoint_of_real_kinds(base: Path, tmp_path: Path) -> None:
    options = ["--steps", "1", "--num-images", "4", "--from", str(base), "--out", str(tmp_path / "run")]
    assert train_verb.main(options) == 0


@pytest.mark.parametrize("config", [real_kinds(), calico_tiny()], ids=lambda config: config.preset)
def test_a_model_is_freed_when_it_is_dropped(config: CalicoConfig) -> None:
    """By its last reference, not by the collector of cycles; so is a segmenter, and what a call left."""
    gc.disable()
    try:
        model = build(config)
        served = CoSegmenter(model, config, TOKENIZER)
        served.answer(group())
        served.segment_prompts(np.zeros((40, 30, 3), np.uint8), [(5, 5)], [True])
        kept = weakref.ref(model), weakref.ref(model.pixel_decoder), weakref.ref(served)
        del model, served
        assert [ref() for ref in kept] == [None] * 3
    finally:
        gc.enable()


def test_the_bare_model_is_safe_under_threads() -> None:
    """No call keeps anything on a module: image features and clicks in threads are what they are alone."""
    torch.manual_seed(0)
    config = calico_tiny()
    model = build(config).eval().requires_grad_(False)
    pixels = [Pixels(*(torch.randn(1, 3, 128, 128) for _ in range(3))) for _ in range(4)]
    features = [model.encode(one) for one in pixels]
    sparse = torch.randn(1, 2, 64)
    alone = [model.pixel_decoder(one.grounding, sparse).logits for one in features]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(lambda one: model.pixel_decoder(one.grounding, sparse).logits, features))
            assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_any_width_takes_pixels_of_float32(base: Path, dtype: torch.dtype) -> None:
    from calico.checkpoints.files import load_checkpoint

    model, config, _ = load_checkpoint(base, dtype=dtype)
    views = Preprocessor.from_config(config)(np.zeros((20, 30, 3), np.uint8))
    features = model.encode(Pixels(*(torch.from_numpy(view)[None] for view in views)))
    assert features.refined_tokens.dtype == features.image_tokens.dtype == dtype
