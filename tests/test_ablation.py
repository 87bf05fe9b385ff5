"""Ablations: what is left out is gone from weights and answers, and the comparison trains, resumes and reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import TOKENIZER, micro

from benchmarks import ablation
from benchmarks.ablation import FIGURES, VARIANTS, AblationPlan, run_ablation
from calico.checkpoints.files import load_checkpoint, save_checkpoint
from calico.checkpoints.fingerprint import weights_version
from calico.errors import CheckpointError, InputError
from calico.model.builder import build
from calico.model.calico import CalicoModel, Pixels
from calico.model.config import CalicoConfig
from calico.model.inputs import ModelInputs
from calico.training.batches import BatchSettings
from calico.training.sources import Batches, DrawnImages
from calico.training.trainer import Phase, Trainer, TrainingSettings
from scripts import ablate, train

CONFIG = micro()
BATCH = BatchSettings(num_images=4, num_groups=2, num_points=2, num_boxes=2)
SETTINGS = TrainingSettings(steps=2, phases=(Phase(1.0, 32),), batch=BATCH, num_workers=0)


STARTS = ("base", "out/full/start", "out/neither/start")


def _recording(run, seen):  # type: ignore[no-untyped-def]
    def recorded(trainer, on_step):  # type: ignore[no-untyped-def]
        seen.append(trainer.settings)
        return run(trainer, on_step)

    return recorded


def built_anew() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build(CONFIG).state_dict()


def built(*without: str) -> CalicoModel:
    """With weights in the modules that start at zero, or leaving them out would change nothing."""
    torch.manual_seed(0)
    model = build(replace(CONFIG, without=without)).eval()
    with torch.no_grad():
        for module in (model.cem, model.cams):
            for parameter in module.parameters():
                parameter.normal_(std=0.1)
    return model


@torch.no_grad()
def answer_states(model: CalicoModel, semantic: float) -> torch.Tensor:
    """What the language model makes of one batch whose semantic view is a constant."""
    data = Batches(DrawnImages(), TOKENIZER, BATCH, ModelInputs.from_config(CONFIG, 32), seed=1)
    batch = data.batch(0)
    pixels = batch.pixels._replace(semantic_view=torch.full_like(batch.pixels.semantic_view, semantic))
    return model.hidden_states(model.encode(Pixels(*pixels)), batch.prompts)


@pytest.mark.parametrize(
    ("without", "reads_semantic"), [((), True), (("cem",), False), (("cam",), False), (("cam", "cem"), False)]
)
def test_the_semantic_view_reaches_an_answer_through_cem_and_cam_only(
    without: tuple[str, ...], reads_semantic: bool
) -> None:
    model = built(*without)
    same = torch.equal(answer_states(model, 0.0), answer_states(model, 1.0))
    assert same != reads_semantic


def test_cam_alone_still_adapts() -> None:
    model = built("cem")
    before = answer_states(model, 0.0)
    with torch.no_grad():
        model.cams[0].reintegration.weight.zero_()
        model.cams[0].reintegration.bias.zero_()
    assert not torch.equal(before, answer_states(model, 0.0))
    assert not list(built("cam").cams.parameters())


def test_a_checkpoint_says_what_it_is_without(tmp_path: Path) -> None:
    config = replace(CONFIG, without=("cam", "cem"))
    model = build(config)
    save_checkpoint(tmp_path, model, config, TOKENIZER)
    loaded, found, _ = load_checkpoint(tmp_path)
    assert found == config
    assert not [name for name in loaded.state_dict() if name.startswith(("cem.", "cams."))]
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with pytest.raises(CheckpointError, match=r"missing \(first: cams"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(config.to_json().replace('"cem"', '"qformer"'))
    with pytest.raises(CheckpointError, match="expected some of cem, cam, auxiliary, got qformer"):
        CalicoConfig.from_file(tmp_path / "config.json")


def test_without_auxiliary_there_are_no_auxiliary_losses(tmp_path: Path) -> None:
    terms: dict[str, set[str]] = {}
    for name, without in (("full", ()), ("none", ("auxiliary",))):
        settings = replace(SETTINGS, steps=1)
        trainer = Trainer(tmp_path / name, settings, replace(CONFIG, without=without), TOKENIZER)
        trainer.run(lambda state, found, progress, name=name: terms.update({name: set(found)}))
    extra = {"dense", "dense_semantic", "local", "pooled", "queried", "refined", "compared"}
    assert terms["full"] - terms["none"] == extra


def test_from_a_checkpoint_only_cem_and_cam_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "VARIANTS", {"full": (), "neither": VARIANTS["neither"]})
    figures: dict[str, object] = dict.fromkeys(FIGURES, 0.5)
    stderr = dict.fromkeys(("strict_miou", "strict_miou_parts", "strict_miou_objects"), 0.01)
    found = {"overall": {**figures, "n": dict.fromkeys(FIGURES, 1), "stderr": stderr}}
    monkeypatch.setattr(ablation, "evaluate_drawings", lambda *_: iter([(5, found)]))
    base = built()
    with torch.no_grad():
        base.cam_queries.add_(1.0)
    save_checkpoint(tmp_path / "base", base, CONFIG, TOKENIZER)
    plan = AblationPlan(steps=1, num_images=4, num_groups=5, learning_rate=1e-4)
    seen = []
    settings = replace(SETTINGS, phases=(Phase(0.9, 16), Phase(0.1, 32)))
    monkeypatch.setattr(Trainer, "run", _recording(Trainer.run, seen))
    report = run_ablation(tmp_path / "out", plan, CONFIG, TOKENIZER, settings, start=tmp_path / "base")
    assert report["plan"]["start"] == weights_version(tmp_path / "base")
    assert [(s.phases, s.learning_rate) for s in seen] == [((Phase(0.1, 32),), 1e-4)] * 2
    old, full, neither = (load_checkpoint(tmp_path / name)[0].state_dict() for name in STARTS)
    assert torch.equal(full["cam_queries"], full["qformer.queries"])
    assert not torch.equal(old["cams.0.reintegration.weight"], full["cams.0.reintegration.weight"])
    others = [name for name in full if not name.startswith(ablation.NEW)]
    assert all(torch.equal(old[name], full[name]) for name in others)
    assert set(neither) == {*others, "cam_queries"}
    new = built_anew()
    assert all(torch.allclose(full[name], new[name], atol=1e-3) for name in full if name.startswith(("cem.", "cams.")))
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"base.*model\.safetensors"):
        run_ablation(tmp_path / "other", plan, CONFIG, TOKENIZER, settings, start=tmp_path / "base")
    assert not (tmp_path / "other").exists()


def test_an_ablation_trains_what_is_missing_and_reports_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "VARIANTS", {"full": (), "neither": VARIANTS["neither"]})
    measured = []

    def evaluate(segmenter, num_groups, seed):  # type: ignore[no-untyped-def]
        assert (num_groups, seed) == (5, 7)
        measured.append(segmenter.config.without)
        yield 1, None
        figures = dict.fromkeys(FIGURES, 0.25 * len(measured)) | {"none_recall": None}
        stderr = dict.fromkeys(("strict_miou", "strict_miou_parts", "strict_miou_objects"), 0.01)
        yield 5, {"overall": {**figures, "n": dict.fromkeys(FIGURES, 9), "stderr": stderr}}

    monkeypatch.setattr(ablation, "evaluate_drawings", evaluate)
    plan = AblationPlan(steps=2, num_images=4, num_groups=5)
    stages = []
    report = run_ablation(
        tmp_path, plan, CONFIG, TOKENIZER, SETTINGS, lambda name, stage, done: stages.append((name, stage, done))
    )
    assert measured == [(), ("cam", "cem")]
    assert [s for s in stages if s[2] == 1] == [
        (name, stage, 1.0) for name in ("full", "neither") for stage in ("training", "evaluating")
    ]
    assert report["variants"]["neither"]["strict_miou"] == 0.5
    assert report["variants"]["full"]["training"]["step"] == 2
    assert "| strict_miou | 0.250 | 0.500 | 9 |" in (tmp_path / "ablation.md").read_text()
    assert "| none_recall | - | - | 9 |" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").stat().st_size > 1000

    (tmp_path / "neither" / "evaluation.json").unlink()  # as if killed while measuring
    stages.clear()
    again = run_ablation(
        tmp_path, plan, CONFIG, TOKENIZER, SETTINGS, lambda name, stage, done: stages.append((name, stage, done))
    )
    assert {(name, stage) for name, stage, _ in stages} == {("neither", "evaluating")}  # trained already
    assert again["variants"]["full"] == report["variants"]["full"]
    assert json.loads((tmp_path / "ablation.json").read_text()) == again
    with pytest.raises(InputError, match="use another --out"):
        run_ablation(tmp_path, replace(plan, steps=3), CONFIG, TOKENIZER, SETTINGS)


@pytest.mark.parametrize("main", [ablate.main, train.main])
def test_a_learning_rate_is_above_nothing(main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert main(["--out", str(tmp_path / "out"), "--steps", "1", "--learning-rate", "0"]) == 2
    assert "--learning-rate is above 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
