"""Serving many groups at once gives what the plain path gives: batched, cached, compiled, in halves, in fewer bits."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import is_required
from torch import nn

from benchmarks.plain import PlainPath
from benchmarks.workload import shared_groups
from calico.errors import InputError
from calico.inference.answered_masks import restored_masks
from calico.inference.encodings import EncodingCache, join_features, num_bytes, split_features
from calico.inference.options import ServingOptions
from calico.inference.segmenter import CoSegmenter
from calico.language.constraint import AnswerConstraint
from calico.language.tokenizer import CalicoTokenizer
from calico.masks import iou
from calico.model import generation, kv_cache
from calico.model.builder import build
from calico.model.config import calico_tiny
from calico.model.generation import Answer, LanguageSteps, Prompt, generate
from calico.model.out_of_memory import OutOfMemory, in_halves, is_out_of_memory
from calico.model.precision import Int8Linear, check_bits
from calico.values import CoSegmentation, ImageGroup, SubTask

NAMES = ("dog", "chair", "leg", "seat")
GROUPS = shared_groups(3, sizes=(2, 3, 2), images_per_group=1)
CANDIDATES = [None, NAMES, None]
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def embedded() -> CoSegmenter:
    """Without its memory, which weighs scores after the paths that are compared here."""
    segmenter = CoSegmenter.from_checkpoint(device="cpu")
    segmenter.base_memory = None
    return segmenter


@pytest.fixture(scope="module")
def together(embedded: CoSegmenter) -> list[CoSegmentation]:
    return embedded.segment_many(GROUPS, candidates=CANDIDATES)


def assert_same(found: list[CoSegmentation], expected: list[CoSegmentation]) -> None:
    """Same names, images and order; masks of IoU 0.999 at least."""
    for one, other in zip(found, expected, strict=True):
        assert [r.key for r in one.regions] == [r.key for r in other.regions]
        assert one.answers == other.answers
        for a, b in zip(one.regions, other.regions, strict=True):
            assert iou(a.mask, b.mask) >= 0.999
            assert a.score == pytest.approx(b.score, abs=1e-4)


def test_groups_together_give_what_the_plain_path_gives(embedded: CoSegmenter, together: list[CoSegmentation]) -> None:
    plain = PlainPath(embedded.model, embedded.config, embedded.tokenizer)
    assert sum(len(result.regions) for result in together) > 10
    assert_same(together, [plain.segment(group, names) for group, names in zip(GROUPS, CANDIDATES, strict=True)])


class Questions:
    """Two groups' questions, with and without a vocabulary, ready to be answered in several ways."""

    def __init__(self, segmenter: CoSegmenter) -> None:
        self.segmenter = segmenter
        images = [image for group in GROUPS[:2] for image in group.images]
        digests = [digest for group in GROUPS[:2] for digest in group.digests]
        with torch.inference_mode():
            self.features, places = segmenter._encode(images, digests)
        self.asked: list[tuple[Prompt, SubTask, list[int], tuple[str, ...] | None]] = []
        for own, names in ((places[:2], None), (places[2:], NAMES)):
            for task in (SubTask.COMMON_OBJECT, SubTask.UNIQUE_PARTS):
                prompt = segmenter._prompt(task, len(own), names or ())._replace(images=own)
                self.asked.append((prompt, task, own, names))

    def answers(self, steps: LanguageSteps | None = None) -> list[Answer]:
        tokenizer = self.segmenter.tokenizer
        return generate(
            self.segmenter.model,
            self.features,
            [prompt for prompt, *_ in self.asked],
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            max_new_tokens=[512] * len(self.asked),
            constraints=[
                AnswerConstraint(tokenizer, task, len(own), names).allowed if names else None
                for _, task, own, names in self.asked
            ],
            steps=steps,
        )

    def assert_equal(self, found: list[Answer], expected: list[Answer]) -> None:
        """Tokens, and logits within 1e-4: of the vocabulary and of the masks."""
        model = self.segmenter.model
        head = model.llm.get_output_embeddings()
        for (_, _, own, _), one, other in zip(self.asked, found, expected, strict=True):
            assert one.ids == other.ids
            assert one.finished
            torch.testing.assert_close(head(one.states), head(other.states), **TOLERANCE)
            image = torch.full((1,), own[0])
            masks, same = (model.segment(self.features.grounding, a.states[-1:], image) for a in (one, other))
            torch.testing.assert_close(masks.logits, same.logits, atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def questions(embedded: CoSegmenter) -> Questions:
    return Questions(embedded)


@pytest.fixture(scope="module")
def answers(questions: Questions) -> list[Answer]:
    with torch.inference_mode():
        return questions.answers()


@torch.inference_mode()
def test_logits_are_those_of_transformers_generate(questions: Questions, answers: list[Answer]) -> None:
    plain = PlainPath(questions.segmenter.model, questions.segmenter.config, questions.segmenter.tokenizer)
    parts = split_features(questions.features)
    alone = [
        plain.answer(join_features([parts[i] for i in own]), task, len(own), names)
        for _, task, own, names in questions.asked
    ]
    questions.assert_equal(answers, alone)


@torch.inference_mode()
@pytest.mark.parametrize("keep_above", [0.0, 1.0])
def test_rows_that_ended_may_leave_and_room_may_grow(
    questions: Questions, answers: list[Answer], keep_above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len({len(answer.ids) for answer in answers}) > 1
    monkeypatch.setattr(generation, "KEEP_ABOVE", keep_above)
    monkeypatch.setattr(kv_cache, "BLOCK", 7)
    questions.assert_equal(questions.answers(), answers)


@torch.inference_mode()
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_steps_give_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One decoder layer, for each is compiled anew; rows of two lengths, and room that grows while they are written."""
    if backend == "inductor" and not is_required("compiler"):
        pytest.skip("generating and compiling C++ takes a minute: CALICO_REQUIRE=compiler asks for it")
    monkeypatch.setattr(kv_cache, "BLOCK", 32)
    tokenizer = CalicoTokenizer.train()
    config = calico_tiny(len(tokenizer))
    config = replace(config, llm={**config.llm, "num_hidden_layers": 1}, cam_layers=(0,))
    torch.manual_seed(0)
    segmenter = CoSegmenter(build(config), config, tokenizer)
    group = GROUPS[0]
    features, places = segmenter._encode(group.images, group.digests)
    prompts = [
        segmenter._prompt(task, 2, names)._replace(images=places)
        for task, names in ((SubTask.COMMON_OBJECT, ()), (SubTask.UNIQUE_PARTS, NAMES))
    ]
    options = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id, "max_new_tokens": [40, 40]}
    steps = LanguageSteps(segmenter.model, compiled=True, backend=backend)
    found = generate(segmenter.model, features, prompts, steps=steps, **options)
    expected = generate(segmenter.model, features, prompts, **options)
    assert steps.compile_failure == ""
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(one.states, other.states, **TOLERANCE)


@torch.inference_mode()
def test_steps_that_do_not_compile_run_uncompiled_and_say_so(
    questions: Questions, answers: list[Answer], caplog: pytest.LogCaptureFixture
) -> None:
    steps = LanguageSteps(questions.segmenter.model)

    def broken(*args: Any) -> Any:
        raise RuntimeError("no compiler here")

    steps._compiled = broken
    questions.assert_equal(questions.answers(steps), answers)
    assert [record.getMessage() for record in caplog.records] == [
        "steps are not compiled: RuntimeError: no compiler here"
    ]


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, size: Callable[..., int]) -> list[int]:
    calls: list[int] = []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: calls.append(size(*args)) or original(*args))
    return calls


def test_images_are_encoded_once_and_masks_decoded_together(
    embedded: CoSegmenter, together: list[CoSegmentation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(options: ServingOptions) -> tuple[list[int], list[int]]:
        segmenter = CoSegmenter(embedded.model, embedded.config, embedded.tokenizer, options=options)
        with monkeypatch.context() as patch:
            encoded = counting(patch, embedded.model, "views", lambda pixels: len(pixels[0]))
            masks = counting(patch, embedded.model, "segment", lambda grounding, states, image: len(image))
            assert_same(segmenter.segment_many(GROUPS, candidates=CANDIDATES), together)
        return encoded, masks

    num_images = len({digest for group in GROUPS for digest in group.digests})
    assert num_images < sum(map(len, GROUPS))
    encoded, masks = run(ServingOptions(mask_bytes=2**30))
    assert encoded == [num_images]
    assert len(masks) == 1
    encoded, few = run(ServingOptions(images_at_once=2, mask_bytes=40 * 2**20, groups_at_once=2))
    assert max(encoded) == 2
    assert max(few) < max(masks)


def test_encodings_leave_the_device_for_the_host_and_come_back(questions: Questions) -> None:
    features = split_features(questions.features)[0]
    size = num_bytes(features)
    cache = EncodingCache(max_bytes=size, host_bytes=2 * size)
    for name in "abcd":
        cache.put(name, features)
    assert cache.num_bytes == size
    assert cache._far.num_bytes == 2 * size
    assert [name for name in "abcd" if cache.get(name) is not None] == ["b", "c", "d"]
    assert cache.num_bytes + cache._far.num_bytes <= 3 * size
    small = EncodingCache(max_bytes=size - 1)
    small.put("a", features)
    assert small.get("a") is None


def failing(times: int) -> Callable[[], None]:
    left = [times]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("injected")

    return fail


@pytest.mark.parametrize("stage", ["views", "segment"])
def test_what_does_not_fit_is_halved_tried_once_more_and_reported(
    embedded: CoSegmenter, together: list[CoSegmentation], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail, original = failing(1), getattr(embedded.model, stage)
    monkeypatch.setattr(embedded.model, stage, lambda *args: fail() or original(*args))
    segmenter = CoSegmenter(embedded.model, embedded.config, embedded.tokenizer)
    found = segmenter.segment_many(GROUPS, candidates=CANDIDATES)
    assert_same(found, together)
    said = [[p.message for p in result.problems if p.code == "out_of_memory"] for result in found]
    assert all(len(messages) == 1 and "tried again with" in messages[0] for messages in said)


def test_questions_are_halved_too(
    embedded: CoSegmenter, together: list[CoSegmentation], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    prefill = embedded.steps.prefill

    def limited(features: Any, batch: Any, cache: Any) -> torch.Tensor:
        rows.append(len(batch.token_ids))
        if rows[-1] > 5:
            raise torch.OutOfMemoryError("injected")
        return prefill(features, batch, cache)

    monkeypatch.setattr(embedded.steps, "prefill", limited)
    assert_same(embedded.segment_many(GROUPS, candidates=CANDIDATES), together)
    assert rows == [9, 5, 4]


def test_half_a_batch_that_does_not_fit_is_an_error() -> None:
    notices: list[str] = []
    with pytest.raises(OutOfMemory, match="over 4 groups, and over 2"):
        in_halves(lambda some: failing(1)() or [], [1, 2, 3, 4], "groups", notices)
    assert notices == ["memory ran out over 4 groups; tried again with 2 at once"]
    with pytest.raises(ZeroDivisionError):
        in_halves(lambda some: [1 // 0], [1, 2], "groups", notices)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_known_in_all_its_words(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_masks_of_several_sizes_are_restored_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = [(20, 30), (20, 30), (20, 30), (30, 20), (20, 30)]
    monkeypatch.setattr("calico.inference.answered_masks.RESTORED_BYTES", 2 * 4 * 20 * 30)
    for mask, one, size in zip(restored_masks(logits, sizes, 16), logits, sizes, strict=True):
        assert mask.shape == size
        assert np.array_equal(mask, restored_masks(one[None], [size], 16)[0])
        assert mask.base is None


def test_warming_up_leaves_nothing_behind(embedded: CoSegmenter) -> None:
    segmenter = CoSegmenter(embedded.model, embedded.config, embedded.tokenizer)
    segmenter.warm_up()
    assert segmenter._encodings.num_bytes == 0


def test_bfloat16_leaves_the_mask_decoder_in_float32(together: list[CoSegmentation]) -> None:
    segmenter = CoSegmenter.from_checkpoint(device="cpu", options=ServingOptions(dtype="bfloat16"))
    kinds = {
        name: {p.dtype for p in getattr(segmenter.model, name).parameters()}
        for name in ("global_encoder", "llm", "cem", "seg_projection", "pixel_decoder")
    }
    assert kinds.pop("seg_projection") == kinds.pop("pixel_decoder") == {torch.float32}
    assert set().union(*kinds.values()) == {torch.bfloat16}
    assert_close_masks(segmenter.segment(GROUPS[0]), together[0])


def assert_close_masks(found: CoSegmentation, expected: CoSegmentation) -> None:
    """The tolerance of fewer bits: nine of ten names the same, their masks at a mean IoU of 0.9 at least."""
    same = found.by_key.keys() & expected.by_key.keys()
    assert len(same) >= 0.9 * len(expected.by_key)
    assert np.mean([iou(found.by_key[key].mask, expected.by_key[key].mask) for key in same]) >= 0.9


def test_eight_bits_round_the_weights_and_little_else(together: list[CoSegmentation]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    small = Int8Linear(linear)
    x = torch.randn(5, 64)
    bound = x.abs().sum(1, keepdim=True) * linear.weight.abs().amax(1) / 254 + 1e-5
    assert ((small(x) - linear(x)).abs() <= bound).all()
    assert small.weight.dtype == torch.int8

    segmenter = CoSegmenter.from_checkpoint(device="cpu", options=ServingOptions(llm_bits=8))
    layers = segmenter.model.llm.get_decoder().layers
    assert not [module for module in layers.modules() if isinstance(module, nn.Linear)]
    assert_close_masks(segmenter.segment(GROUPS[0]), together[0])


def test_bits_that_cannot_be_had_are_refused_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="4 bits needs bitsandbytes"):
        CoSegmenter.from_checkpoint(device="cpu", options=ServingOptions(llm_bits=4))
    with pytest.raises(InputError, match="expected 8 or 4"):
        check_bits(3, "cuda")
    with pytest.raises(InputError, match="expected float32 or bfloat16"):
        CoSegmenter.from_checkpoint(device="cpu", options=ServingOptions(dtype="float16"))


def test_a_gpu_serves_what_the_cpu_serves(together: list[CoSegmentation]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    options = ServingOptions(dtype="float32", encoding_bytes=2**20, compiled=True)
    segmenter = CoSegmenter.from_checkpoint(device="cuda", options=options)
    segmenter.warm_up()
    for found, expected in zip(segmenter.segment_many(GROUPS, candidates=CANDIDATES), together, strict=True):
        assert_close_masks(found, expected)
    assert segmenter._encodings._far.num_bytes > 0
    for bits in (None, 8, 4) if importlib.util.find_spec("bitsandbytes") else (None, 8):
        served = CoSegmenter.from_checkpoint(device="cuda", options=ServingOptions(dtype="bfloat16", llm_bits=bits))
        assert served.segment(ImageGroup(GROUPS[0].images)).regions
