"""Checkpoints: there and back, and every way they can be wrong is one line that names the file and the remedy."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import micro as micro_model
import pytest
import torch
from micro import micro, save_micro
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from calico.checkpoints import files as checkpoint_module
from calico.checkpoints.files import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    load_checkpoint,
    load_grown,
    made_for,
    read_safetensors,
    save_checkpoint,
    write_safetensors,
)
from calico.errors import CheckpointError
from calico.files import write_text
from calico.model.builder import build
from calico.model.config import CalicoConfig, calico_7b, calico_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_micro(tmp_path / "checkpoint")


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    model, config, tokenizer = load_checkpoint(folder)
    save_checkpoint(tmp_path / "again", model, config, tokenizer)
    first, second = load_file(folder / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "llm.lm_head.weight" not in first
    assert model.llm.lm_head.weight is model.llm.model.embed_tokens.weight
    assert config == micro()
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    assert {path.name for path in folder.iterdir()} == {CONFIG, TOKENIZER, WEIGHTS}


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    """safetensors alone writes metadata in an order of chance, and a version is a hash of files."""
    path = tmp_path / "a.safetensors"
    written = set()
    for _ in range(12):
        write_safetensors(path, {"a": torch.ones(2), "b": torch.zeros(3)}, {"weights": "1", "card": "2", "name": "ü"})
        written.add(path.read_bytes())
    assert len(written) == 1
    assert made_for(path) == "1"
    assert torch.equal(read_safetensors(path)["a"], torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_loaded_model_does_not_hang_on_its_file(tmp_path: Path, dtype: torch.dtype) -> None:
    """Written over in place it would be other weights under the old version's name, cut short the process' end."""
    model, config, tokenizer = load_checkpoint(save_micro(tmp_path / "made"))
    folder = tmp_path / "served"
    save_checkpoint(folder, model, config, tokenizer, dtype)
    model, _, _ = load_checkpoint(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(folder / WEIGHTS) not in maps.read_text()
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\xff" * (folder / WEIGHTS).stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    os.truncate(folder / WEIGHTS, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def _killed_while_writing(folder: Path) -> None:
    def dying(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(weights: Any, path: Path, metadata: Any) -> None:
        (path.parent / f".tmp{os.getpid()}").write_bytes(b"half of it")  # as safetensors does
        dying()

    patch = pytest.MonkeyPatch()
    patch.setattr(checkpoint_module, "save_file", half)
    if (folder / WEIGHTS).exists():
        write_safetensors(folder / WEIGHTS, {}, {})
    patch.setattr(os, "fsync", dying)
    write_text(folder / CONFIG, "new")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_kill_leaves_the_old_file_and_one_hidden_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=_killed_while_writing, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left = tmp_path / f".{name}.new"
        assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, name]
        assert len(list(left.iterdir())) == 1
        assert (tmp_path / name).read_text() == "old"
    write_safetensors(tmp_path / WEIGHTS, {"a": torch.ones(1)}, {})
    write_text(tmp_path / CONFIG, "new")
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, CONFIG}
    assert load_file(tmp_path / WEIGHTS).keys() == {"a"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    (tmp_path / WEIGHTS).write_text("old")
    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: not written \(No space left.*make room"):
        write_safetensors(tmp_path / WEIGHTS, {}, {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_full_size_config_there_and_back(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(calico_7b().to_json())
    assert CalicoConfig.from_file(tmp_path / CONFIG) == calico_7b()


def change_weights(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def change_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


def make_pickle(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"a": 1}))


def make_zip_pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / WEIGHTS)


def only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


FAULTS = {
    "missing key": (lambda f: change_weights(f, lambda w: w.pop("cam_queries")), r"1 missing \(first: cam_queries\)"),
    "extra key": (lambda f: change_weights(f, lambda w: w.update(stray=torch.zeros(1))), r"1 unknown \(first: stray\)"),
    "misshaped": (lambda f: change_weights(f, lambda w: w.update(cam_queries=torch.zeros(1))), "1 misshaped"),
    "quantised": (
        lambda f: change_weights(f, lambda w: w.update(cam_queries=w["cam_queries"].to(torch.int8))),
        r"1 of another kind of number \(first: cam_queries is int8\)",
    ),
    "8-bit floats": (
        lambda f: change_weights(f, lambda w: w.update(cam_queries=w["cam_queries"].to(torch.float8_e4m3fn))),
        "cam_queries is float8_e4m3fn",
    ),
    "pickle": (make_pickle, "pickle, which may hold code"),
    "torch.save": (make_zip_pickle, "pickle, which may hold code"),
    "no safetensors": (only_a_pickle, "pytorch_model.bin may hold code and is not read"),
    "truncated": (truncate, "truncated or not a safetensors file"),
    "no tokenizer": (lambda f: (f / TOKENIZER).unlink(), "tokenizer.json"),
    "no config": (lambda f: (f / CONFIG).unlink(), "no config there"),
    "broken config": (lambda f: (f / CONFIG).write_text("{"), "not readable as JSON"),
    "other format": (lambda f: change_config(f, format_version=99), "format 99, expected 1"),
    "unknown field": (lambda f: change_config(f, colour="red"), "unknown fields colour"),
    "other preset": (lambda f: (f / CONFIG).write_text(calico_7b().to_json()), "do not fit a calico-7b model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_checkpoint_is_refused_in_one_line(folder: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_missing_folder_says_what_a_checkpoint_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a checkpoint is a folder with"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_grown_model_starts_as_the_one_that_it_grew_from(tmp_path: Path) -> None:
    tokenizer = micro_model.TOKENIZER
    large = calico_tiny(len(tokenizer))
    encoder = large.grounding_encoder
    options = {"widths": encoder.options["widths"], "num_blocks": [0, 1, 0, 1, 1]}
    small = dataclasses.replace(large, grounding_encoder=dataclasses.replace(encoder, options=options))
    save_checkpoint(tmp_path, build(small), small, tokenizer)
    before, _, _ = load_checkpoint(tmp_path)
    after, _ = load_grown(tmp_path, large)
    assert sum(p.numel() for p in after.parameters()) > sum(p.numel() for p in before.parameters())
    after.eval()
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        was, now = before.grounding_encoder(pixels), after.grounding_encoder(pixels)
        assert torch.equal(before.global_encoder(pixels), after.global_encoder(pixels))
    assert torch.equal(was.embedding, now.embedding)
    assert all(torch.equal(a, b) for a, b in zip(was.fine, now.fine, strict=True))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_grown(tmp_path, dataclasses.replace(large, num_queries=9))


def test_text_goes_through_a_link_and_into_a_pipe_and_leaves_them_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "{}")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "{}"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "told")
    assert os.read(reader, 10) == b"told"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
