"""`calico weights doctor`: a whole checkpoint passes every check, each fault is found by the check that is for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import save_micro
from real_kinds import save_real_kinds
from safetensors.torch import load_file, save_file
from torch import Tensor

from calico.checkpoints.adapter import AdapterCard, attach, choose_spec, save_adapter, trained
from calico.checkpoints.files import load_checkpoint
from calico.checkpoints.fingerprint import weights_version
from calico.errors import InputError
from calico.model.memory import MemoryEstimate
from calico.training import weights_doctor
from calico.training.weights_doctor import Check, examine
from scripts import weights


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_real_kinds(tmp_path_factory.mktemp("doctor") / "base")


def by_name(folder: Path, **options: object) -> dict[str, Check]:
    return {check.name: check for check in examine(folder, "cpu", **options)}  # type: ignore[arg-type]


def test_a_whole_checkpoint_is_well(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert weights.main(["doctor", str(base), "--device", "cpu", "--bits", "8", "--json", str(report)]) == 0
    checks = {check["name"]: check for check in json.loads(report.read_text())["checks"]}
    assert list(checks) == [
        "config", "names", "numbers", "tokens", "prompt", "load", "encoders", "answer", "masks", "serving", "training",
        "memory",
    ]  # fmt: skip
    assert all(check["ok"] for check in checks.values())
    assert "eva_clip at 28 px, dinov2 at 42 px, sam at 64 px" in checks["config"]["detail"]
    assert "language model in 8 bits" in checks["load"]["detail"]
    assert "5x32 + 9x24 tokens, 16x4x4" in checks["encoders"]["detail"]
    assert "and no other" in checks["training"]["detail"]
    assert len(capsys.readouterr().out.splitlines()) == len(checks)


def test_an_adapter_and_a_small_model_too(base: Path, tmp_path: Path) -> None:
    model, config, _ = load_checkpoint(base)
    spec = choose_spec(model, config)
    attach(model, spec)
    save_adapter(tmp_path / "adapter", AdapterCard(config.preset, weights_version(base), spec), trained(model))
    found = by_name(tmp_path / "adapter", base=base, trains=False)
    assert all(check.ok for check in found.values())
    assert f"an adapter over {base}" in found["config"].detail
    assert all(check.ok for check in by_name(save_micro(tmp_path / "micro")).values())


def spoilt(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return apply


def other_config(**fields: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        content["llm"] |= fields
        path.write_text(json.dumps(content))

    return apply


def alike(weights: dict[str, Tensor]) -> None:
    """An encoder that sees nothing: the same tokens for every picture."""
    weights["global_encoder.model.embeddings.patch_embedding.weight"].mul_(0).add_(1e-30)
    weights["global_encoder.model.embeddings.patch_embedding.weight"].view(-1)[0] = 1e-20


NORM = "global_encoder.model.post_layernorm.weight"
FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a weight is missing": (spoilt(lambda w: w.pop(NORM)), "names", "1 missing"),
    "not a number": (spoilt(lambda w: w[NORM].fill_(float("nan"))), "numbers", "what is no number"),
    "a matrix of zeros": (spoilt(lambda w: w["llm.lm_head.weight"].zero_()), "numbers", "1 matrices are all zeros"),
    "too large for its numbers": (spoilt(lambda w: w[NORM].fill_(3e38)), "encoders", "is no number, in torch.float32"),
    "blind": (spoilt(alike), "encoders", "two pictures look the same"),
    "no room for a prompt": (other_config(max_position_embeddings=20), "prompt", "room for 20"),
    "another tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"), "tokens", "not a tokenizer.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_check(
    base: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base, tmp_path / "base")
    spoil, name, says = FAULTS[fault]
    spoil(tmp_path / "base")
    found = by_name(tmp_path / "base", trains=False)
    wrong = [check for check in found.values() if check.ok is False]
    assert wrong[0].name == name
    assert says in wrong[0].detail
    assert len(wrong[0].line.splitlines()) == 1


def test_gradients_where_they_should_not_be_and_none_where_they_should_are_found(base: Path) -> None:
    model, config, _ = load_checkpoint(base)
    attach(model, choose_spec(model, config))
    own = trained(model)
    with pytest.raises(weights_doctor.Wrong, match=f"{len(own)} weights should train and get no gradient: cam_queries"):
        weights_doctor._check_gradients(model)
    sum(parameter.sum() for parameter in own.values()).backward()
    weights_doctor._check_gradients(model)
    own["cam_queries"].requires_grad = False
    with pytest.raises(weights_doctor.Wrong, match="1 frozen weights get a gradient: cam_queries"):
        weights_doctor._check_gradients(model)


def test_too_much_memory_and_what_cannot_be_looked_at(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patient = weights_doctor._Patient(base, torch.device("cpu"), None, None)
    with pytest.raises(weights_doctor.Wrong, match=r"3.00 GiB at its most, 1.00 GiB estimated: more than twice"):
        patient._compared(MemoryEstimate({"a": 2**30}), 3 * 2**30)
    with pytest.raises(InputError, match="expected cpu or cuda"):
        list(examine(base, "mps"))
    assert weights.main(["doctor", str(base / "nowhere"), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "config: the lines above say what is wrong" in captured.err
    assert captured.out.count("not looked at: ") == 11
