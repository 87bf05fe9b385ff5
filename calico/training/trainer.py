"""Training of a whole model: stages of growing resolution, from fresh weights or a checkpoint's.

`Trainer` says what trains on which batches; how a run goes, is resumed and distributed: `calico.training.run`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from calico.checkpoints.files import TOKENIZER, load_checkpoint, load_grown, save_checkpoint
from calico.checkpoints.fingerprint import weights_version
from calico.drawings import VERSION
from calico.language.tokenizer import CalicoTokenizer
from calico.mixedparts.index import MixedParts
from calico.model.builder import build
from calico.model.config import CalicoConfig
from calico.model.inputs import ModelInputs
from calico.model.modes import add_lora, merge_lora, set_mode
from calico.training.auxiliary import AuxiliaryHeads
from calico.training.batches import DRAWN, BatchSettings, Vocabulary
from calico.training.curves import plot_curves
from calico.training.losses import LossWeights
from calico.training.mixture import Mixture
from calico.training.new_trunk import TrunkStart, with_trunk
from calico.training.processes import Processes
from calico.training.run import OnStep, Run, Stage
from calico.training.run_folder import LOG, STATE, RunState
from calico.training.run_settings import RunSettings
from calico.training.sources import Batches, DrawnImages, IndexSamples, Source
from calico.training.step import TrainingStep
from calico.training.watch import Watch

CHECKPOINT, CURVES = "checkpoint", "curves.png"
MAY_CHANGE = ("minutes", "cpu_minutes", "steps", "save_seconds")  # of a run's settings: it may be lengthened


@dataclass(frozen=True)
class Phase:
    """A share of the run at one input size. scale: how many times the images, groups and prompts of full size.

    asks: False where the encoders alone train, by the auxiliary heads, and nothing is asked about the images.
    """

    share: float
    size: int
    scale: float = 1.0
    asks: bool = True

    def of(self, batch: BatchSettings) -> BatchSettings:
        """The settings of its batches: where nothing is asked, of as many classes as images, to tell them apart by."""
        scaled = batch.scaled(self.scale)
        return scaled if self.asks else replace(scaled, num_groups=1, num_points=1, num_boxes=1, images_per_class=1.0)


@dataclass(frozen=True)
class TrainingSettings(RunSettings):
    """Of a whole model. mode: which weights train, as `set_mode` takes it."""

    mode: str = "all"
    weight_decay: float = 0.01
    phases: tuple[Phase, ...] = (Phase(0.35, 64, 2.0), Phase(0.65, 128))


class Trainer(Run[TrainingSettings]):
    """Builds or resumes a run in `folder`; `run` trains to its end and leaves a checkpoint in `folder/checkpoint`.

    Raises `InputError` for a folder of a run with other options; its length may be another.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        config: CalicoConfig,
        tokenizer: CalicoTokenizer,
        start: Path | None = None,
        grow: bool = False,
        data: MixedParts | Mixture | None = None,
        trunk_start: TrunkStart | None = None,
        watch: MixedParts | None = None,
    ) -> None:
        """start: a checkpoint folder to begin from, with its own sizes; or, with `grow`, inside those of `config`.

        data: an index to train on instead of drawings, for which there are no auxiliary heads; or a mixture of sources.
        watch: pictures never trained on, whose clicks and boxes are measured at each save, into the log.
        trunk_start: a checkpoint, and the trunk that `config` puts beside it, instead of `start`.
        """
        self.folder, self.config, self.tokenizer, self.data = Path(folder), config, tokenizer, data
        torch.manual_seed(settings.seed)
        processes = Processes()
        processes.on_main(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        is_resumed = processes.on_main((self.folder / STATE).exists)
        if trunk_start is not None and is_resumed:
            model = build(config)
        elif trunk_start is not None:
            model = with_trunk(config, tokenizer, *trunk_start)
        elif start is None:
            model = build(config)
        elif grow:
            model, self.tokenizer = load_grown(start, config)
        else:
            model, self.config, self.tokenizer = load_checkpoint(start)
        if data is not None:
            self.config = replace(self.config, data_version=config.data_version)
        if is_resumed and (self.folder / TOKENIZER).exists():  # the one that its weights were trained with
            self.tokenizer = CalicoTokenizer.from_file(self.folder / TOKENIZER)
        if settings.mode == "paper":
            add_lora(model, self.config.lora, new_tokens=self.config.new_tokens)
        set_mode(model, settings.mode, self.config.fresh)
        if settings.gradient_checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        source = source_of(data)
        has_heads = not isinstance(data, MixedParts) and with_auxiliary(settings.weights, self.config)
        heads = auxiliary_heads(self.config, source.vocabulary) if has_heads else None
        model.to(processes.device)  # before it is asked where it is: attention is another on a GPU
        size = self.config.grounding_encoder.image_size
        step_module = TrainingStep(model, heads, settings.weights, size, settings.max_seg_prompts)
        step_module.to(processes.device)
        optimizer = torch.optim.AdamW(
            [p for p in step_module.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=settings.weight_decay,
        )
        super().__init__(
            self.folder,
            self._note(settings, trunk_start.checkpoint if trunk_start else start, grow),
            settings,
            step_module,
            optimizer,
            step_module.state_dict(keep_vars=True),
            [self._stage_of(phase, source, settings) for phase in settings.phases],
            processes,
            mode=settings.mode,
        )
        if not is_resumed:
            processes.on_main(lambda: self.tokenizer.save(self.folder / TOKENIZER))
        self.watch = None if watch is None else Watch(watch, self.tokenizer, ModelInputs.from_config(self.config))

    def _note(self, settings: TrainingSettings, start: Path | None, grow: bool) -> dict[str, Any]:
        """What makes this run another than others. start: by its weights, wherever the folder lies."""
        return {
            "start": None if start is None else weights_version(start),
            "grow": grow,
            "data": VERSION if self.data is None else self.data.version,
            "settings": {name: value for name, value in asdict(settings).items() if name not in MAY_CHANGE},
            "config": asdict(self.config),
        }

    def _stage_of(self, phase: Phase, source: Source, settings: TrainingSettings) -> Stage:
        inputs = ModelInputs.from_config(self.config, phase.size)
        batches = Batches(source, self.tokenizer, phase.of(settings.batch), inputs, settings.seed)
        return Stage(phase.share, batches.batch, phase.size, round(settings.max_seg_prompts * phase.scale), phase.asks)

    def run(self, on_step: OnStep | None = None) -> RunState:
        """Trains to the end and leaves the checkpoint. on_step: called after each step."""
        state = self.train(on_step)
        if self.processes.is_main:
            if self.settings.mode == "paper":
                merge_lora(self.model)
            self._export()
        return state

    def save(self) -> None:
        """What the next start resumes from; and the curves and the checkpoint so far."""
        super().save()
        if not self.processes.is_main:
            return
        if self.watch is not None:
            self.files.log(self.state, [self.watch.look(self.step_module)])
        plot_curves(self.folder / LOG, self.folder / CURVES)
        if self.settings.mode == "all":  # adapters would have to be merged, and training could not go on
            self._export()

    def _export(self) -> None:
        save_checkpoint(self.folder / CHECKPOINT, self.model, self.config, self.tokenizer)


def source_of(data: MixedParts | Mixture | None) -> Source:
    """None: drawings."""
    if data is None:
        return DrawnImages()
    return IndexSamples(data) if isinstance(data, MixedParts) else data


def with_auxiliary(weights: LossWeights, config: CalicoConfig) -> bool:
    return weights.auxiliary > 0 and "auxiliary" not in config.without and not config.is_full_size


def auxiliary_heads(config: CalicoConfig, vocabulary: Vocabulary = DRAWN) -> AuxiliaryHeads:
    return AuxiliaryHeads(
        config.global_encoder.hidden_size,
        config.qformer["hidden_size"],
        config.semantic_encoder.hidden_size,
        config.grounding_encoder.hidden_size,
        config.llm["hidden_size"],
        len(vocabulary.classes),
        len(vocabulary.parts),
        one_view=bool(config.trunk),
    )
