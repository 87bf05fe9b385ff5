"""An adapter trained over a language model in fewer bits, and with gradient checkpointing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import leave_out_curves, micro, save_micro, shorten_answers
from test_finetune import QUICK, write

from calico.checkpoints.adapter import load_adapted, load_over_base, load_trained, read_adapter
from calico.checkpoints.fingerprint import ADAPTER
from calico.errors import InputError
from calico.model.precision import Int8Linear, quantise_llm
from calico.snapshots.store import Snapshot
from calico.training.finetune import Finetune
from scripts import finetune as verb

EIGHT = replace(QUICK, bits=8, learning_rate=3e-3)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shorten_answers(patch)
        leave_out_curves(patch)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_micro(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write(tmp_path_factory.mktemp("feedback") / "s", range(8))


def test_int8_linears_pass_the_gradient_of_what_they_compute() -> None:
    torch.manual_seed(0)
    linear = Int8Linear(torch.nn.Linear(6, 4))
    x = torch.randn(2, 3, 6, requires_grad=True)
    wide = linear.weight.float() * linear.scale[:, None]
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, wide, linear.bias))
    ours, expected = (
        torch.autograd.grad(made.square().sum(), x)[0]
        for made in (linear(x), torch.nn.functional.linear(x, wide, linear.bias))
    )
    torch.testing.assert_close(ours, expected)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(x)
    assert [t.dtype for t in kept if t.shape == linear.weight.shape] == [torch.int8]  # never widened


def test_an_adapter_over_eight_bits_loads_over_the_float_base(base: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    run = Finetune(snapshot, base, tmp_path / "run", EIGHT)
    frozen = {n: b.clone() for n, b in run.model.llm.named_buffers() if b.dtype == torch.int8}
    assert len(frozen) == 7 * micro().llm["num_hidden_layers"]
    assert {p.dtype for p in run.trained.values()} == {torch.float32}
    start = {name: p.detach().clone() for name, p in run.trained.items()}
    run.train()
    assert all(torch.equal(run.model.llm.get_buffer(name), value) for name, value in frozen.items())
    moved = [name for name, p in run.trained.items() if not torch.equal(p, start[name])]
    assert any("layers.0.self_attn.q_proj.lora_B" in name for name in moved)
    folder = run.finish().folder
    merged, *_ = load_adapted(folder, base)
    assert not [m for m in merged.modules() if isinstance(m, Int8Linear)]
    model, _, _, _ = load_over_base(folder, base)
    tensors = read_adapter(folder)[1]
    quantise_llm(model, 8, "cpu")  # the model that was trained, from its file
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        load_trained(run.model, tensors)  # rounded as in the file
        as_trained, as_loaded, as_served = (m.llm.eval()(input_ids=ids).logits for m in (run.model, model, merged))
    torch.testing.assert_close(as_loaded, as_trained, atol=1e-5, rtol=1e-5)
    assert float((as_served - as_trained).norm() / as_trained.norm()) < 0.02  # int8 weights against float ones
    assert (folder / ADAPTER).stat().st_size < (base / "model.safetensors").stat().st_size


def test_a_finetune_with_checkpointing_takes_the_same_steps(base: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    ends = []
    for name, settings in (("plain", EIGHT), ("saved", replace(EIGHT, gradient_checkpointing=True))):
        run = Finetune(snapshot, base, tmp_path / name, settings)
        assert run.model.llm.is_gradient_checkpointing == settings.gradient_checkpointing
        run._tried_step()
        ends.append({name: p.grad.clone() for name, p in run.trained.items() if p.grad is not None})
    plain, saved = ends
    assert plain.keys() == saved.keys()
    assert any("lora_A" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, atol=1e-6, rtol=1e-5)


def test_four_bits_need_their_package(
    base: Path, snapshot: Snapshot, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="4 bits needs bitsandbytes"):
        Finetune(snapshot, base, tmp_path / "run", replace(QUICK, bits=4))
    assert not (tmp_path / "run").exists()
    options = ["--data", str(snapshot.folder), "--out", str(tmp_path / "out"), "--registry", str(tmp_path / "registry")]
    assert verb.main([*options, "--bits", "4", "--steps", "1"]) == 2
    assert "pip install -e '.[quantized]'" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_a_gpu_finetunes(base: Path, snapshot: Snapshot, tmp_path: Path, bits: int | None) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    if bits == 4 and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed: pip install -e '.[quantized]'")
    run = Finetune(snapshot, base, tmp_path / "run", replace(QUICK, bits=bits, gradient_checkpointing=True))
    start = {name: p.detach().clone() for name, p in run.trained.items()}
    run.train()
    assert any(not torch.equal(p, start[name]) for name, p in run.trained.items() if ".lora_B" in name)
    load_adapted(run.finish().folder, base, "cuda")
