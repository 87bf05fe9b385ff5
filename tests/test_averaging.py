"""The mean of checkpoints: of every weight, loadable, and never of what does not belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import TOKENIZER, micro, save_micro
from safetensors.torch import load_file

from calico.checkpoints import files
from calico.checkpoints.averaging import average_checkpoints
from calico.checkpoints.files import CONFIG, load_checkpoint, save_checkpoint
from calico.checkpoints.fingerprint import WEIGHTS
from calico.errors import CheckpointError, InputError
from calico.model.builder import build
from scripts.average import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints of other weights."""
    config = replace(micro(), data_version="")
    folders = [tmp_path_factory.mktemp("runs") / name for name in "ab"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        model = build(config)
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(10 + seed)
        save_checkpoint(folder, model, config, TOKENIZER)
    return folders


def test_every_weight_is_the_mean_and_what_counts_is_the_first_ones(runs: list[Path], tmp_path: Path) -> None:
    average_checkpoints(runs, tmp_path)
    first, second, mean = (load_file(folder / WEIGHTS) for folder in (*runs, tmp_path))
    assert mean.keys() == first.keys()
    for key, value in mean.items():
        assert value.dtype == first[key].dtype
        if value.is_floating_point():
            expected = (first[key].double() + second[key].double()) / 2
            assert torch.allclose(value.double(), expected, rtol=1e-3, atol=1e-6), key
        else:
            assert torch.equal(value, first[key]), key
    assert not torch.equal(mean["cam_queries"], first["cam_queries"])
    assert any(key.endswith("num_batches_tracked") and int(value) == 10 for key, value in mean.items())
    load_checkpoint(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="is there already"):
        average_checkpoints(runs, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before


def test_shares_say_how_much_each_counts(runs: list[Path], tmp_path: Path) -> None:
    assert main([*map(str, runs), "--shares", "3", "1", "--out", str(tmp_path / "mean")]) == 0
    first, second, mean = (load_file(folder / WEIGHTS)["cam_queries"].double() for folder in (*runs, tmp_path / "mean"))
    assert torch.allclose(mean, 0.75 * first + 0.25 * second, rtol=1e-3, atol=1e-4)
    for shares in ([1.0], [1.0, 0.0]):
        with pytest.raises(InputError, match="each of 2 checkpoints"):
            average_checkpoints(runs, tmp_path / "other", shares)


@pytest.mark.parametrize("which", [(0,), (0, 1, 0)])
def test_too_few_or_twice_the_same(runs: list[Path], tmp_path: Path, which: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two or more different checkpoints"):
        average_checkpoints([runs[k] for k in which], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", [CONFIG, files.TOKENIZER, WEIGHTS])
def test_what_differs_is_named(runs: list[Path], tmp_path: Path, file: str) -> None:
    config = replace(micro(), data_version="")
    other = replace(config, data_version="drawings-v0") if file == CONFIG else config
    save_checkpoint(tmp_path / "other", build(other), other, TOKENIZER)
    if file == files.TOKENIZER:
        (tmp_path / "other" / files.TOKENIZER).write_bytes((runs[0] / files.TOKENIZER).read_bytes() + b"\n")
    if file == WEIGHTS:
        (tmp_path / "other" / WEIGHTS).write_bytes((runs[0] / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=str(tmp_path / "other" / file)):
        average_checkpoints([runs[0], tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_averages_and_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (str(save_micro(tmp_path / str(seed), seed)) for seed in (0, 1))
    assert main([one, other, "--out", str(tmp_path / "mean")]) == 0
    assert "measure it before you use it" in capsys.readouterr().out
    assert (tmp_path / "mean" / WEIGHTS).exists()
    assert main([one, str(tmp_path / "nowhere"), "--out", str(tmp_path / "no")]) == 2
    assert "nowhere" in capsys.readouterr().err
