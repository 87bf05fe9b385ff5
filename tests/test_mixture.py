"""Mixed training data: scenes keep their masks true, a step draws from every source, a new trunk starts and resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from calico.checkpoints.files import load_checkpoint, save_checkpoint
from calico.checkpoints.fingerprint import EMBEDDED
from calico.data.scenes import SceneSettings, varied_scene
from calico.drawings import PART_NAMES
from calico.errors import InputError
from calico.model.builder import build
from calico.model.inputs import ModelInputs
from calico.training import trainer as module
from calico.training.batches import BatchSettings
from calico.training.mixture import Mixture
from calico.training.new_trunk import TrunkStart
from calico.training.pools import DrawnPool
from calico.training.run_folder import RunState
from calico.training.sources import Batches
from calico.training.step import TrainingStep
from calico.training.trainer import Phase, Trainer, TrainingSettings
from calico.values import AnnotatedImage
from scripts import train
from tests.test_trunk import SIZE, TOKENIZER, micro_small, micro_tiny

BATCH = BatchSettings(num_images=4, num_groups=3, num_points=2, num_boxes=2, images_per_class=2)
COLOURS = np.array([[250, 250, 250], [0, 0, 0], [220, 30, 30], [30, 30, 220]], np.uint8)  # by part map value


def stool(size: int = 48) -> AnnotatedImage:
    """A flat red seat on two blue legs; every pixel's colour says what its part map should."""
    part_map = np.zeros((size, size), np.uint8)
    part_map[size // 4 : size // 2, size // 6 : -size // 6] = 2
    for left in (size // 5, size - size // 5 - 6):
        part_map[size // 2 : -size // 8, left : left + 6] = 3
    return AnnotatedImage(COLOURS[part_map], "stool", ("seat", "leg"), part_map, "test", "stool")


@dataclass
class StoolPool:
    """A source beside drawings: it knows stools, which are drawn too, and gongs."""

    version: str = "stools-1"
    parts: Sequence[str] = ("seat", "leg")
    keys: Mapping[str, Sequence[int]] = field(default_factory=lambda: {"gong": [0, 1], "stool": [2, 3]})
    weights: Mapping[str, np.ndarray] = field(default_factory=lambda: dict.fromkeys(("gong", "stool"), np.full(2, 0.5)))

    def image(self, key: int) -> AnnotatedImage:
        return replace(stool(), object_name="gong" if key < 2 else "stool", source=f"stools/{key}")


class FakeWatch:
    def look(self, step: TrainingStep) -> dict[str, float]:
        return {"watch_box_iou": 0.25}


def mixture() -> Mixture:
    return Mixture((DrawnPool(SIZE, num_each=2), StoolPool()), (0.5, 0.5))


def batches(seed: int) -> Batches:
    return Batches(mixture(), TOKENIZER, BATCH, ModelInputs.from_config(micro_small()), seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_moves_image_and_masks_together(seed: int) -> None:
    still = SceneSettings(background=0, occluder=0, photometric=0)
    found = varied_scene(stool(), np.random.default_rng(seed), SIZE, stool, still)
    assert max(found.part_map.shape) == SIZE
    assert set(found.part_names) <= {"seat", "leg"}
    values = [2 if name == "seat" else 3 for name in found.part_names]
    true = np.array([0, 1, *values], np.uint8)[found.part_map]
    nearest = np.abs(found.image[..., None, :].astype(int) - COLOURS.astype(int)).sum(-1).argmin(-1)
    assert (nearest == true)[found.part_map > 0].mean() > 0.85  # edges are mixed


def test_a_background_changes_and_the_object_stays() -> None:
    settings = SceneSettings(background=1, occluder=0, photometric=0, turn=0)
    found = [varied_scene(stool(), np.random.default_rng(seed), SIZE, stool, settings) for seed in range(4)]
    behind = [item.image[item.part_map == 0].mean(0) for item in found]
    assert np.ptp(np.array(behind), axis=0).max() > 20
    assert all(np.median(item.image[item.part_map == 2][:, 0]) > 180 for item in found)


def test_what_stands_in_front_is_of_no_part() -> None:
    settings = SceneSettings(background=0, occluder=1, photometric=0, turn=0)
    plain = replace(settings, occluder=0)
    areas = [
        [(varied_scene(stool(), np.random.default_rng(s), SIZE, stool, chosen).part_map > 0).sum() for s in range(8)]
        for chosen in (settings, plain)
    ]
    assert np.sum(areas[0]) < np.sum(areas[1])
    assert all(hidden >= 0.4 * whole for hidden, whole in zip(*areas, strict=True))


def test_a_step_is_a_function_of_seed_and_number_and_sees_every_source() -> None:
    first, again, other = batches(3).batch(5), batches(3).batch(5), batches(4).batch(5)
    assert torch.equal(first.pixels.grounding_view, again.pixels.grounding_view)
    assert torch.equal(first.prompts.token_ids, again.prompts.token_ids)
    assert not torch.equal(first.pixels.grounding_view, other.pixels.grounding_view)
    assert first.pixels.global_view is first.pixels.grounding_view
    assert first.seg_weight is not None
    mixed, eight = mixture(), replace(BATCH, num_images=8)
    images = [item for k in range(3) for item in mixed.images(np.random.default_rng(k), eight, SIZE)]
    names = {item.source.split("/")[0] for item in images}
    assert names == {"drawings-v1", "stools"}
    assert mixed.version == "drawings-v1+stools-1"
    assert "gong" in mixed.vocabulary.classes
    assert set(mixed.vocabulary.parts) == set(PART_NAMES)


def test_the_run_starts_from_a_checkpoint_trains_and_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = micro_tiny()
    teacher = build(tiny)
    save_checkpoint(tmp_path / "tiny", teacher, tiny, TOKENIZER)
    settings = TrainingSettings(
        steps=1,
        phases=(Phase(0.5, SIZE, 1.5, asks=False), Phase(0.5, SIZE)),
        batch=BATCH,
        max_seg_prompts=2,
        num_workers=0,
        warmup_steps=1,
    )

    def trainer(steps: int) -> Trainer:
        length = replace(settings, steps=steps)
        start = TrunkStart(tmp_path / "tiny", "micro")
        return Trainer(tmp_path / "run", length, micro_small(), TOKENIZER, None, False, mixture(), start)

    first = trainer(2)
    assert first.model.trunk is not None
    before = [p.clone() for p in first.model.trunk.parameters()]
    torch.testing.assert_close(first.model.qformer.queries, teacher.qformer.queries, atol=1e-3, rtol=1e-2)
    first.watch = FakeWatch()  # type: ignore[assignment]
    language = first.model.llm.get_input_embeddings().weight.clone()
    seen: list[tuple[bool, bool]] = []

    def on_step(state: RunState, terms: dict[str, float], progress: float) -> None:
        same = torch.equal(language, first.model.llm.get_input_embeddings().weight)
        seen.append((math.isnan(terms["text"]), same))

    assert first.run(on_step).step == 2
    assert seen == [(True, True), (False, False)]  # the encoders first
    assert all(torch.equal(a, b) for a, b in zip(before, first.model.trunk.parameters(), strict=True))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["watch_box_iou"] for row in rows] == [0.25]
    assert trainer(3).state.step == 2


def test_no_steps_keep_what_a_trunk_starts_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny", build(micro_tiny()), micro_tiny(), TOKENIZER)
    settings = TrainingSettings(steps=0, phases=(Phase(1.0, SIZE),), batch=BATCH, num_workers=0)
    start = tmp_path / "tiny"
    trunk = TrunkStart(start, "micro")
    Trainer(tmp_path / "run", settings, micro_small(), TOKENIZER, None, False, mixture(), trunk).run()
    made, _, _ = load_checkpoint(tmp_path / "run" / "checkpoint")
    own = load_checkpoint(start)[0].state_dict()
    for name, value in made.state_dict().items():
        key = name.replace(".own.", ".", 1)
        if ".own." in name or name.startswith(("qformer.", "llm.", "pixel_decoder.")):
            torch.testing.assert_close(value, own[key], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trunk", "efficientnet-lite0"], "--from"),
        (["--trunk", "./none", "--from", str(EMBEDDED), "--data", "drawings", "--shares", "1"], "no folder"),
        (["--trunk", "efficientnet-lite0", "--from", "x"], "--shares"),
        (["--data", "drawings", "x"], "--shares"),
        (["--data", "drawings", "x", "--shares", "1"], "each of 2"),
        (["--data", "drawings", "x", "--shares", "1", "-1"], "above 0"),
        (["--data", "drawings", "drawings", "--shares", "1", "1"], "twice"),
        (["--encoders-first", "0.2"], "--shares"),
        (["--trunk", "efficientnet-lite0", "--grow", "--from", "y"], "--trunk"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--out", str(tmp_path), "--steps", "1", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_a_step_names_no_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoTrainer:
        processes = SimpleNamespace(is_main=True)

        def __init__(self, *_: object) -> None:
            pass

        def run(self, show: object) -> RunState:
            return RunState()

    monkeypatch.setattr(module, "Trainer", NoTrainer)
    start = ["--from", str(EMBEDDED), "--trunk", "efficientnet-lite0", "--data", "drawings", "--shares", "1"]
    assert train.main(["--out", str(tmp_path), "--steps", "0", *start]) == 0
    said = capsys.readouterr().out
    assert "checkpoint in" in said
    assert "curves" not in said


def test_encoders_first_is_a_phase_without_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[TrainingSettings] = []

    def trainer(out: Path, settings: TrainingSettings, *_: object) -> None:
        begun.append(settings)
        raise InputError("seen enough")

    monkeypatch.setattr(module, "Trainer", trainer)
    common = ["--out", str(tmp_path), "--steps", "1", "--data", "drawings", "--shares", "1"]
    assert train.main([*common, "--from", str(EMBEDDED), "--trunk", "efficientnet-lite0"]) == 2
    assert train.main([*common, "--from", str(EMBEDDED), "--encoders-first", "0.25"]) == 2
    assert train.main([*common, "--from", str(EMBEDDED)]) == 2
    shares = [[(phase.share, phase.asks) for phase in settings.phases] for settings in begun]
    assert shares == [[(0.15, False), (0.85, True)], [(0.25, False), (0.75, True)], [(1.0, True)]]
    assert begun[0].phases[0].of(begun[0].batch).images_per_class == 1
    assert train.main([*common, "--from", str(EMBEDDED), "--mask-term", "focal"]) == 2
    assert [settings.weights.mask_term for settings in begun] == ["bce", "bce", "bce", "focal"]
