"""Will a checkpoint serve and train here? The first thing to run on a GPU server: `calico weights doctor`.

Files, numbers and tokens are looked at first; then one group is answered, and one training step taken, with the
memory of both held against its estimate. Drawings stand in for pictures: nothing is said about how well it sees.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calico.checkpoints.adapter import read_adapter, trained
from calico.checkpoints.files import TOKENIZER, check_keys, read_config, read_weights, tied_keys
from calico.checkpoints.fingerprint import ADAPTER, WEIGHTS, is_adapter
from calico.correspondence import truth_of
from calico.data.groups import draw_group
from calico.errors import CalicoError, CheckpointError
from calico.inference.answered_masks import Asked
from calico.inference.options import ServingOptions
from calico.inference.segmenter import CoSegmenter
from calico.language import IMAGE_TAGS, SEG
from calico.language.answers import parse_answer, render_answer
from calico.language.questions import canonical_question, render_prompt
from calico.language.tokenizer import CalicoTokenizer, fold_spaces
from calico.model.builder import build
from calico.model.calico import CalicoModel, Pixels
from calico.model.config import CalicoConfig
from calico.model.inputs import ModelInputs
from calico.model.memory import (
    MemoryEstimate,
    Workload,
    finetuning_memory,
    held_bytes,
    num_tokens,
    serving_memory,
)
from calico.model.modes import train_mode, trained_share
from calico.model.out_of_memory import give_back_memory
from calico.model.precision import check_bits, check_device, uses_bf16
from calico.training.batches import BatchSettings
from calico.training.preflight import workload_of
from calico.training.recipe import finetune_settings
from calico.training.sources import Batches, DrawnImages
from calico.training.starting_model import open_start, start_folder
from calico.training.step import TrainingStep
from calico.values import ImageGroup, SubTask

NUM_NEW_TOKENS = 8  # of each answer: a model that was never trained as a whole would talk on and on
MAX_FINDINGS = 3  # of a kind, that are named
SEED = 12


@dataclass(frozen=True)
class Check:
    """detail: what was found, or what is wrong. ok: None where it could not be looked at."""

    name: str
    ok: bool | None
    detail: str

    @property
    def line(self) -> str:
        return f"{'-' if self.ok is None else 'ok' if self.ok else 'NO':<4}{self.name:<12}{self.detail}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Wrong(CalicoError):
    """What a check found."""


def examine(
    folder: Path, device: str | None = None, bits: int | None = None, base: Path | None = None, *, trains: bool = True
) -> Iterator[Check]:
    """Checks in the order in which things depend on each other.

    folder: a checkpoint's or an adapter's, with `base` where it does not find its own. bits: of the language model's
    linears. Raises `InputError` for a device or bits that cannot be had here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    check_bits(bits, device)
    patient = _Patient(folder, torch.device(device), bits, base)
    steps: list[tuple[str, tuple[str, ...], Callable[[], str]]] = [
        ("config", (), patient.config_is_readable),
        ("names", ("config",), patient.names_fit),
        ("numbers", ("names",), patient.numbers_are_numbers),
        ("tokens", ("config",), patient.tokens_fit),
        ("prompt", ("tokens",), patient.prompt_fits),
        ("load", ("names", "tokens"), patient.loads),
        ("encoders", ("load",), patient.encoders_see),
        ("answer", ("encoders",), patient.answers),
        ("masks", ("encoders",), patient.draws_masks),
        ("serving", ("answer",), patient.serving_memory_is_as_estimated),
    ]
    if trains:
        steps += [
            ("training", ("names", "tokens"), patient.takes_a_step),
            ("memory", ("training",), patient.training_memory_is_as_estimated),
        ]
    failed: set[str] = set()
    for name, needed, call in steps:
        if missing := [other for other in needed if other in failed]:
            failed.add(name)
            yield Check(name, None, f"not looked at: {missing[0]} comes first")
            continue
        if name == "training":
            patient.release()
        try:
            yield Check(name, True, call())
        except Exception as error:  # whatever breaks is what is looked for
            failed.add(name)
            kind = "" if isinstance(error, CalicoError) else f"{type(error).__name__}: "
            yield Check(name, False, f"{kind}{' '.join(str(error).split()) or 'no message'}")
    patient.release()


class _Patient:
    """One checkpoint; each method is a check that tells what it found or raises."""

    config: CalicoConfig
    tokenizer: CalicoTokenizer
    segmenter: CoSegmenter | None = None
    expected: MemoryEstimate
    peak: int | None = None

    def __init__(self, folder: Path, device: torch.device, bits: int | None, base: Path | None) -> None:
        self.folder, self.device, self.bits, self.base = folder, device, bits, base
        drawn = draw_group(SEED, group_size=2)
        self.group, self.truth = ImageGroup(tuple(item.image for item in drawn)), truth_of(drawn)

    # -- files --------------------------------------------------------------------------------------------------------

    def config_is_readable(self) -> str:
        self.checkpoint = start_folder(self.folder, self.base)
        config = self.config = read_config(self.checkpoint)
        kinds = (config.global_encoder, config.semantic_encoder, config.grounding_encoder)
        eyes = ", ".join(f"{own.kind} at {own.image_size} px" for own in kinds)
        learnt = f"; learnt from: {config.data_version}" if config.data_version else ""
        over = f", an adapter over {self.checkpoint}" if is_adapter(self.folder) else ""
        return f"{config.preset}{over}: {eyes}, {config.llm['num_hidden_layers']} layers of language{learnt}"

    def names_fit(self) -> str:
        self.weights = read_weights(self.checkpoint)
        with torch.device("meta"):
            model = build(self.config)
        check_keys(self.checkpoint / WEIGHTS, model.state_dict(), self.weights, tied_keys(model), self.config.preset)
        kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in self.weights.values())
        count = sum(tensor.numel() for tensor in self.weights.values())
        return f"{len(self.weights)} tensors, {count:,} numbers: {_listed(kinds)}"

    def numbers_are_numbers(self) -> str:
        weights = dict(self.weights)
        if is_adapter(self.folder):
            weights |= {f"{ADAPTER}: {name}": tensor for name, tensor in read_adapter(self.folder)[1].items()}
        del self.weights  # mapped files, which nothing else needs
        if wrong := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
            raise Wrong(f"{len(wrong)} tensors hold what is no number: {_first(wrong)}; copy or convert them again")
        matrices = {name: tensor for name, tensor in weights.items() if name.endswith("weight") and tensor.dim() > 1}
        zeros = [name for name, tensor in matrices.items() if not tensor.any()]
        if odd := [name for name in zeros if not name.startswith(("cem.", "cams.")) and "lora_B" not in name]:
            raise Wrong(f"{len(odd)} matrices are all zeros: {_first(odd)}; nothing passes through them")
        born = sorted({name.split(".")[0] for name in zeros})
        new = f"; still as born: {', '.join(born)}" if born else ""
        return f"all finite{new}"

    def tokens_fit(self) -> str:
        tokenizer = self.tokenizer = CalicoTokenizer.from_file(self.checkpoint / TOKENIZER)
        rows = self.config.llm["vocab_size"]
        if len(tokenizer) > rows:
            raise Wrong(f"{len(tokenizer)} tokens for {rows} rows; use the {TOKENIZER} that was saved with the weights")
        for sub_task in SubTask:
            text = render_answer(self.truth, sub_task).text
            again = tokenizer.text(tokenizer.ids(text))
            if parse_answer(again, sub_task, 2).mentions != parse_answer(fold_spaces(text), sub_task, 2).mentions:
                raise Wrong(f"an answer is another after a way through the tokenizer: {text!r} became {again!r}")
        new = len(self.config.new_tokens)
        line = f"{len(tokenizer)} of {rows} rows; {SEG} is {tokenizer.seg_id}, {IMAGE_TAGS[0]} "
        line += f"{len(tokenizer.image_tag_ids[0])} tokens"
        return line + (f"; {new} rows no base has trained" if new else "")

    def prompt_fits(self) -> str:
        config, room = self.config, self.config.llm.get("max_position_embeddings", 2048)
        text = render_prompt(canonical_question(SubTask.COMMON_PARTS, 2).text, 2, system=config.system_prompt)
        prompt = self.tokenizer.encode_prompt(text, config.num_queries)
        places = [len(own) for own in prompt.image_positions]
        if places != [config.num_queries] * 2:
            raise Wrong(f"expected {config.num_queries} places for each of 2 images, got {places}")
        if len(prompt.ids) >= room:
            raise Wrong(f"a prompt over 2 images has {len(prompt.ids)} tokens, the language model room for {room}")
        return f"{len(prompt.ids)} tokens over 2 images, {room - len(prompt.ids)} left for an answer"

    # -- serving ------------------------------------------------------------------------------------------------------

    def loads(self) -> str:
        started = time.monotonic()
        self._reset_peak()
        self.segmenter = CoSegmenter.from_checkpoint(
            self.folder, self.device.type if self.device.index is None else str(self.device), base=self.base,
            options=ServingOptions(llm_bits=self.bits),
        )  # fmt: skip
        model, taken = self.segmenter.model, time.monotonic() - started
        with torch.device("meta"):
            bare = build(self.config).requires_grad_(False)
        self.expected = serving_memory(bare, self.config, model.dtype, self.bits, Workload())
        held, expected = sum(held_bytes(model).values()), sum(self.expected.weights.values())
        if not 0.95 < held / expected < 1.05:
            raise Wrong(f"weights take {held / 2**30:.2f} GiB, {expected / 2**30:.2f} were estimated")
        in_bits = f", language model in {self.bits} bits" if self.bits else ""
        return f"{taken:.1f} s, {str(model.dtype).removeprefix('torch.')}{in_bits}: {held / 2**30:.2f} GiB as estimated"

    @torch.inference_mode()
    def encoders_see(self) -> str:
        model, config = self._serving.model, self.config
        preprocess = ModelInputs.from_config(config).preprocess
        pixels = zip(*(preprocess(image) for image in self.group.images), strict=True)
        views = [torch.from_numpy(np.stack(view)).to(model.device) for view in pixels]
        started = self._now()
        seen = model.see(Pixels(*views))
        taken = self._now() - started
        for what, tokens, encoder in (
            ("global", seen.global_tokens, config.global_encoder),
            ("semantic", seen.semantic_tokens, config.semantic_encoder),
        ):
            if encoder.kind != "trunk" and tokens.shape != (2, num_tokens(encoder), encoder.hidden_size):
                raise Wrong(f"{encoder.kind} gave {tuple(tokens.shape)}, expected 2 x {num_tokens(encoder)} tokens")
            _check_finite(f"{what} encoder ({encoder.kind})", tokens)
        _check_finite(f"grounding encoder ({config.grounding_encoder.kind})", seen.grounding.embedding)
        if seen.global_tokens.float().std() == 0 or torch.equal(seen.global_tokens[0], seen.global_tokens[1]):
            raise Wrong("two pictures look the same to the global encoder")
        features, _ = model.features_of(seen)
        _check_finite("Q-Former and projection", features.image_tokens)
        _check_finite("CEM", features.refined_tokens)
        shapes = " + ".join("x".join(map(str, own.shape[1:])) for own in (seen.global_tokens, seen.semantic_tokens))
        return f"{taken:.2f} s for 2 images: {shapes} tokens, {'x'.join(map(str, seen.grounding.embedding.shape[1:]))}"

    @torch.inference_mode()
    def answers(self) -> str:
        served = self._serving
        started = self._now()
        features, places = served._encode(self.group.images, self.group.digests)
        questions = [Asked(0, sub_task, places, self.group.sizes_hw) for sub_task in SubTask]
        answers = served._generate(
            questions, features, [()] * len(questions), [None] * len(questions), limit=NUM_NEW_TOKENS
        )
        taken = self._now() - started
        for answer in answers:
            if not np.isfinite(answer.log_probs).all():
                raise Wrong("the language model's scores are no numbers; serve it in bfloat16, not float16")
            _check_finite("states of the language model", answer.states)
        text = self.tokenizer.text(answers[0].ids)
        return f"{taken:.2f} s for 3 questions and {sum(len(own.ids) for own in answers)} tokens; begins {text[:40]!r}"

    @torch.inference_mode()
    def draws_masks(self) -> str:
        served = self._serving
        features, _ = served._encode(self.group.images, self.group.digests)
        states = torch.zeros(1, self.config.llm["hidden_size"], device=served.model.device, dtype=served.model.dtype)
        masks = served.model.segment(features.grounding, states, torch.zeros(1, dtype=torch.long, device=states.device))
        _check_finite("mask decoder", masks.logits)
        height, width = self.group.sizes_hw[0]
        click = served.segment_prompts(self.group.images[0], [(width / 2, height / 2)], [True])
        grid = masks.logits.shape[-1]
        return f"{grid} x {grid}; a click in the middle marks {100 * click.mask.mean():.0f} % of {width} x {height} px"

    def serving_memory_is_as_estimated(self) -> str:
        return self._compared(self.expected)

    # -- training -----------------------------------------------------------------------------------------------------

    def takes_a_step(self) -> str:
        settings = finetune_settings(self.config)
        is_bf16 = (self.bits is not None and self.device.type == "cuda") or uses_bf16("auto", self.device)
        self._reset_peak()
        model, config, _, _ = open_start(self.folder, self.base, self.device, self.bits, halved=is_bf16)
        if settings.gradient_checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        small = BatchSettings(2, 3, 2, 2, dropout_share=settings.batch.dropout_share, distorted_share=0.0)
        data = Batches(DrawnImages(), self.tokenizer, small, ModelInputs.from_config(config), SEED)
        batch = data.batch(0).to(self.device)
        work = workload_of(batch, settings.max_seg_prompts)
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        self.expected = finetuning_memory(
            model, config, dtype, None, work, checkpointing=settings.gradient_checkpointing
        )
        self.expected = replace(self.expected, weights=held_bytes(model))
        size = config.grounding_encoder.image_size
        step = TrainingStep(model, None, settings.weights, size, settings.max_seg_prompts).to(self.device)
        train_mode(model, "paper")
        own = trained(model)
        optimizer = torch.optim.AdamW(own.values(), lr=settings.learning_rate)
        started = self._now()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            loss = step(batch).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(own.values()), settings.clip_norm)
        value = float(loss.detach())
        if not np.isfinite(value) or not torch.isfinite(norm):
            raise Wrong(f"the loss is {value:.3g}, its gradient {float(norm):.3g}")
        _check_gradients(model)
        optimizer.step()
        taken = self._now() - started
        self.peak = self._peak()
        num_trained, num_weights = trained_share(model)
        share = f"{num_trained:,} of {num_weights:,} weights ({100 * num_trained / num_weights:.2f} %)"
        in_numbers = "bfloat16" if is_bf16 else "float32"
        return f"{taken:.2f} s in {in_numbers}, loss {value:.2f}; gradients reach {share} and no other"

    def training_memory_is_as_estimated(self) -> str:
        return self._compared(self.expected, self.peak)

    # -- what they share ----------------------------------------------------------------------------------------------

    def release(self) -> None:
        """One model in memory at a time."""
        self.segmenter = None
        give_back_memory()

    @property
    def _serving(self) -> CoSegmenter:
        if self.segmenter is None:
            raise CheckpointError(f"{self.folder}: not loaded")
        return self.segmenter

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else None

    def _compared(self, estimate: MemoryEstimate, peak: int | None = None) -> str:
        expected, peak = f"{estimate.total / 2**30:.2f} GiB estimated", peak or self._peak()
        if peak is None:
            return f"{expected}; what is taken is measured on a GPU only"
        if peak > 2 * estimate.total:
            raise Wrong(f"{peak / 2**30:.2f} GiB at its most, {expected}: more than twice; tell us")
        total = torch.cuda.get_device_properties(self.device).total_memory
        return f"{peak / 2**30:.2f} GiB at its most, {expected}, the card has {total / 2**30:.1f}"


def _check_gradients(model: CalicoModel) -> None:
    """A gradient for each weight that trains and for no other."""
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if missed := sorted(trainable - reached):
        raise Wrong(f"{len(missed)} weights should train and get no gradient: {_first(missed)}")
    if stray := sorted(reached - trainable):
        raise Wrong(f"{len(stray)} frozen weights get a gradient: {_first(stray)}")


def _check_finite(what: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        share = 100 * float((~tensor.isfinite()).float().mean())
        raise Wrong(f"{what}: {share:.1f} % of what it gives is no number, in {tensor.dtype}")


def _first(names: list[str]) -> str:
    more = len(names) - MAX_FINDINGS
    return ", ".join(names[:MAX_FINDINGS]) + (f" and {more} more" if more > 0 else "")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
