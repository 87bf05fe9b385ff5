"""Other libraries' weights become a checkpoint: equal outputs of each block, all accounted for, nothing trusted."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_weights import (
    GLAMM_TOKENS,
    dinov2,
    glamm_weights,
    in_dinov2_hub,
    in_lavis,
    in_segment_anything,
    instructblip,
    llama,
    llama_tokenizer,
    num_tokens,
    randomise,
    sam,
    small_config,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from calico.checkpoints.files import load_checkpoint, read_safetensors
from calico.checkpoints.fingerprint import INDEX, checkpoint_version
from calico.conversion import writer
from calico.conversion.assemble import COVERAGE, NEW_BLOCKS, STARTING_POINT, places_of
from calico.conversion.layouts import FAMILIES, transformers
from calico.conversion.sources import open_source
from calico.errors import CheckpointError, InputError
from calico.model.config import calico_7b
from scripts import weights


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder per source, in the formats of their owners; GLaMM as two pickled shards with slow-tokenizer files."""
    root = tmp_path_factory.mktemp("sources")
    instructblip().save_pretrained(root / "instructblip")
    llama_tokenizer("[PAD]").save(str(root / "instructblip" / "tokenizer.json"))
    sam().save_pretrained(root / "sam")
    dinov2().save_pretrained(root / "dinov2")
    torch.save(in_segment_anything(sam()), root / "sam_vit_h.pth")
    torch.save({"model": in_lavis(instructblip()), "epoch": 3}, root / "instruct_blip.pth")
    torch.save(in_dinov2_hub(dinov2()), root / "dinov2_reg4.pth", _use_new_zipfile_serialization=False)
    glamm, found = root / "glamm", glamm_weights()
    glamm.mkdir()
    files = {key: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, key in enumerate(sorted(found))}
    for name in set(files.values()):
        torch.save({key: tensor.half() for key, tensor in found.items() if files[key] == name}, glamm / name)
    (glamm / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    first = num_tokens() - len(GLAMM_TOKENS)
    added = {token: first + i for i, token in enumerate(GLAMM_TOKENS)}
    (glamm / "added_tokens.json").write_text(json.dumps(added))
    (glamm / "config.json").write_text(json.dumps({"rms_norm_eps": 1e-5, "num_attention_heads": 4}))
    (root / "config.json").write_text(small_config().to_json())
    return root


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def assemble(sources: Path, out: Path, *options: str, **replaced: str) -> int:
    places = {"instructblip": "instructblip", "glamm": "glamm", "dinov2": "dinov2"} | replaced
    named = [word for name, place in places.items() for word in (f"--{name}", str(sources / place))]
    config = ["--config", str(sources / "config.json"), "--dtype", "float32"]
    return weights.main(["assemble", "--out", str(out), *config, *named, *options])


@pytest.fixture(scope="module")
def assembled(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "calico-7b"
    assert assemble(sources, out, "--shard-gb", "0.0001") == 0
    return out


@torch.no_grad()
def check_eyes(folder: Path) -> None:
    """EVA-CLIP, Q-Former and projection against InstructBLIP, DINOv2 against its own model, SAM against SamModel."""
    model, _, _ = load_checkpoint(folder)
    generator = torch.Generator().manual_seed(6)
    pixels = torch.randn(2, 3, 28, 28, generator=generator)
    theirs = instructblip()
    image = theirs.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(model.global_encoder(pixels), image, atol=1e-5, rtol=1e-5)
    query = theirs.query_tokens.expand(2, -1, -1)
    states = theirs.qformer(input_ids=None, query_embeds=query, encoder_hidden_states=image).last_hidden_state
    found = model.qformer(model.qformer.queries.expand(2, -1, -1), image)
    torch.testing.assert_close(found, states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.image_projection(states), theirs.language_projection(states))
    torch.testing.assert_close(model.cam_queries.data, theirs.query_tokens[0])
    patches = dinov2()(pixel_values=pixels).last_hidden_state[:, 5:]
    torch.testing.assert_close(model.semantic_encoder(pixels), patches, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def check_masks(folder: Path, tolerance: float) -> None:
    model, _, _ = load_checkpoint(folder)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    points, labels = torch.tensor([[[[20.0, 30.0]]]]), torch.tensor([[[1]]])
    expected = sam()(pixel_values=pixels, input_points=points, input_labels=labels, multimask_output=False)
    prompts = model.pixel_decoder.prompts(points[:, 0], labels[:, 0])
    found = model.pixel_decoder(model.grounding_encoder(pixels), prompts)
    torch.testing.assert_close(found.logits, expected.pred_masks[0, 0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.iou, expected.iou_scores[0, 0], atol=tolerance, rtol=tolerance)


def test_assembled_from_transformers_and_glamm(assembled: Path) -> None:
    check_eyes(assembled)
    check_masks(assembled, 2e-2)  # GLaMM's are halves


@torch.no_grad()
def test_the_language_model_and_the_seg_projection_are_glamms(assembled: Path) -> None:
    model, config, tokenizer = load_checkpoint(assembled)
    assert config.llm["rms_norm_eps"] == 1e-5
    theirs = llama(num_tokens())
    for name, tensor in theirs.state_dict().items():
        own = model.llm.state_dict()[name][: len(tensor)]
        torch.testing.assert_close(own, tensor.half().float(), msg=name)
    for layer in (0, 2):
        expected = glamm_weights()[f"model.text_hidden_fcs.0.{layer}.weight"].half().float()
        torch.testing.assert_close(model.seg_projection[layer].weight.data, expected)
    assert tokenizer.seg_id == num_tokens() - 3  # where GLaMM has it
    assert len(tokenizer) == config.llm["vocab_size"] == model.llm.model.embed_tokens.weight.shape[0]


def test_no_token_is_new(assembled: Path) -> None:
    """GLaMM knows what opens and closes a phrase; image identifiers are spelled with the tokens that it has."""
    _, config, tokenizer = load_checkpoint(assembled)
    assert json.loads((assembled / COVERAGE).read_text())["new_tokens"] == []
    assert config.llm["vocab_size"] == num_tokens()
    assert tokenizer.image_tag_ids[0] == tuple(
        llama_tokenizer(*GLAMM_TOKENS).encode("[SEG] (IMAGE1)", add_special_tokens=False).ids[1:]
    )


def test_what_no_base_has_starts_as_a_new_model_and_does_nothing(assembled: Path) -> None:
    model, _, _ = load_checkpoint(assembled)
    assert not model.cem.attention.out_proj.weight.any()
    assert model.cem.attention.q_proj_weight.std() > 0.01
    assert not any(parameter.any() for parameter in model.cams.parameters())


def test_it_says_what_it_is(assembled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((assembled / "config.json").read_text())["data_version"] == STARTING_POINT
    report = json.loads((assembled / COVERAGE).read_text())
    assert report["status"] == STARTING_POINT
    assert report["coverage"]["is_complete"]
    assert "not a usable model" in weights.build_parser().format_help()
    left_out = report["coverage"]["left_out"]
    assert sum(left_out[next(name for name in left_out if name.endswith("glamm"))].values()) == 1


@pytest.mark.parametrize(
    ("replaced", "tolerance"),
    [({"sam": "sam"}, 1e-5), ({"sam": "sam_vit_h.pth"}, 1e-5)],
    ids=["SamModel", "segment-anything"],
)
def test_sam_from_either_layout(sources: Path, tmp_path: Path, replaced: dict[str, str], tolerance: float) -> None:
    assert assemble(sources, tmp_path, **replaced) == 0
    check_masks(tmp_path, tolerance)


@torch.no_grad()
def test_a_file_of_segment_anything_itself(sources: Path, tmp_path: Path) -> None:
    try:
        import segment_anything.modeling as original
    except (ImportError, RuntimeError) as error:  # its torchvision does not fit this torch
        pytest.skip(f"segment-anything cannot be imported: {error} (the extra `sam` has it)")
    theirs = original.Sam(
        original.ImageEncoderViT(
            depth=2,
            embed_dim=32,
            img_size=64,
            mlp_ratio=2,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=4,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=(1,),
            window_size=2,
            out_chans=32,
        ),
        original.PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16),
        original.MaskDecoder(
            transformer=original.TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8),
            transformer_dim=32,
            iou_head_hidden_dim=32,
        ),
    ).eval()
    randomise(theirs, 8)
    torch.save(theirs.state_dict(), tmp_path / "sam.pth")
    assert assemble(sources, tmp_path / "out", sam=str(tmp_path / "sam.pth")) == 0
    model, _, _ = load_checkpoint(tmp_path / "out")
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    points, labels = torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])
    embedding = theirs.image_encoder(pixels)
    sparse, dense = theirs.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    masks, iou = theirs.mask_decoder(embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense, False)
    grounding = model.grounding_encoder(pixels)
    found = model.pixel_decoder(grounding, model.pixel_decoder.prompts(points, labels))
    torch.testing.assert_close(grounding.embedding, embedding, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits, masks[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.iou, iou[:, 0], atol=1e-4, rtol=1e-4)


def test_lavis_and_dinov2_hub_files(sources: Path, tmp_path: Path) -> None:
    tokenizer = str(sources / "instructblip" / "tokenizer.json")
    names = {"instructblip": "instruct_blip.pth", "dinov2": "dinov2_reg4.pth"}
    assert assemble(sources, tmp_path, "--tokenizer", tokenizer, **names) == 0
    check_eyes(tmp_path)


def test_eva_clip_from_a_file_of_its_own(sources: Path, tmp_path: Path) -> None:
    found = in_lavis(instructblip())
    eyes = {key.removeprefix("visual_encoder."): found.pop(key) for key in list(found) if key.startswith("visual_")}
    torch.save(eyes | {"blocks.39.norm1.weight": torch.zeros(1), "norm.bias": torch.zeros(1)}, tmp_path / "eva.pth")
    torch.save({"model": found}, tmp_path / "blip.pth")
    tokenizer = str(sources / "instructblip" / "tokenizer.json")
    files = ["--eva-clip", str(tmp_path / "eva.pth"), "--tokenizer", tokenizer]
    assert assemble(sources, tmp_path / "out", *files, instructblip=str(tmp_path / "blip.pth")) == 0
    check_eyes(tmp_path / "out")


def test_a_block_that_is_there_twice_is_not_guessed_at(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = in_segment_anything(sam())
    torch.save({f"{name}.{key}": tensor for name in ("a", "b") for key, tensor in found.items()}, tmp_path / "sam.pth")
    assert assemble(sources, tmp_path / "out", sam=str(tmp_path / "sam.pth")) == 2
    captured = capsys.readouterr()
    assert "is there under a., b.: not guessed at" in captured.out
    assert "partial load refused" in captured.err


def test_what_float16_cannot_hold_is_refused(sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(sources / "instructblip", tmp_path / "blip")
    spoil(lambda w: w[NORM].fill_(1e6))(tmp_path / "blip")
    options = ["--dtype", "float16"]
    assert assemble(sources, tmp_path / "out", *options, instructblip=str(tmp_path / "blip")) == 2
    assert "too large for float16; write --dtype bfloat16" in capsys.readouterr().err


def test_settings_that_change_numbers_but_no_shape_are_compared(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sources / "glamm", tmp_path / "glamm")
    (tmp_path / "glamm" / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    assert assemble(sources, tmp_path / "out", glamm=str(tmp_path / "glamm")) == 2
    assert "num_attention_heads is 2, expected 4" in capsys.readouterr().err


def test_a_tokenizer_of_another_numbering_is_refused(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sources / "glamm", tmp_path / "glamm")
    path = tmp_path / "glamm" / "added_tokens.json"
    path.write_text(json.dumps({token: i + 1 for token, i in json.loads(path.read_text()).items()}))
    assert assemble(sources, tmp_path / "out", glamm=str(tmp_path / "glamm")) == 2
    assert "'<im_start>' has id" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "says"), [("{", "not an object of tokens"), ("[1]", "expected an object of tokens")])
def test_damaged_added_tokens_are_named(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    shutil.copytree(sources / "glamm", tmp_path / "glamm")
    (tmp_path / "glamm" / "added_tokens.json").write_text(text)
    assert assemble(sources, tmp_path / "out", glamm=str(tmp_path / "glamm")) == 2
    assert says in capsys.readouterr().err


def test_both_prefixes_of_transformers(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "instructblip"
    shutil.copytree(sources / "instructblip", folder)
    found = load_file(folder / "model.safetensors")
    save_file({f"model.{key}": tensor for key, tensor in found.items()}, folder / "model.safetensors")
    assert assemble(sources, tmp_path / "out", instructblip=str(folder)) == 0
    check_eyes(tmp_path / "out")


def test_shards_are_small_indexed_and_have_a_version(assembled: Path) -> None:
    index = json.loads((assembled / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    for name in files:
        held = load_file(assembled / name)
        size = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
        assert size <= 0.0001 * 2**30 or len(held) == 1
        assert set(held) == {key for key, file in index["weight_map"].items() if file == name}
    first = checkpoint_version(assembled)
    assert first.startswith("calico-7b-")
    other = assembled.parent / "other"
    shutil.copytree(assembled, other)
    held = load_file(other / files[-1])
    save_file({key: tensor + 1 for key, tensor in held.items()}, other / files[-1])
    assert checkpoint_version(other) != first


def test_a_missing_shard_is_named(assembled: Path, tmp_path: Path) -> None:
    shutil.copytree(assembled, tmp_path / "out")
    (tmp_path / "out" / "model-00002-of-00011.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard model-00002-of-00011\.safetensors is missing"):
        load_checkpoint(tmp_path / "out")


def test_a_header_that_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """The first byte is the low byte of the header's length: 0x80 for every thirty-second length."""
    for n in range(256):
        save_file({"x" * (n + 1): torch.zeros(1)}, tmp_path / "model.safetensors")
        if (tmp_path / "model.safetensors").read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no such header came up")
    assert len(read_safetensors(tmp_path / "model.safetensors")) == 1


def test_an_index_does_not_lead_out_of_its_folder(assembled: Path, tmp_path: Path) -> None:
    shutil.copytree(assembled, tmp_path / "out")
    (tmp_path / "out" / INDEX).write_text(json.dumps({"weight_map": {"cam_queries": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match="expected names of shards beside it"):
        load_checkpoint(tmp_path / "out")


def test_one_shard_at_a_time_is_in_memory(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    real = writer.write_safetensors

    def watch(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        written.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()))
        real(path, tensors, metadata)

    monkeypatch.setattr(writer, "write_safetensors", watch)
    assert assemble(sources, tmp_path, "--shard-gb", "0.0002") == 0
    assert max(written) <= 0.0002 * 2**30
    assert len(written) > 1


def test_a_stopped_run_goes_on(sources: Path, assembled: Path, tmp_path: Path) -> None:
    shutil.copytree(assembled, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    for path in [*shards[2:], tmp_path / "out" / INDEX, tmp_path / "out" / "config.json"]:
        path.unlink()
    kept = {path: path.stat().st_ino for path in shards[:2]}
    with pytest.raises(CheckpointError, match="no config there"):
        load_checkpoint(tmp_path / "out")
    assert assemble(sources, tmp_path / "out", "--shard-gb", "0.0001") == 0
    assert kept == {path: path.stat().st_ino for path in shards[:2]}
    for name in set(json.loads((assembled / INDEX).read_text())["weight_map"].values()):
        again, first = load_file(tmp_path / "out" / name), load_file(assembled / name)
        assert all(torch.equal(again[key], tensor) for key, tensor in first.items())


def test_other_weights_are_not_written_over(
    sources: Path, assembled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(assembled, tmp_path / "out")
    assert assemble(sources, tmp_path / "out", "--shard-gb", "0.0001", "--seed", "1") == 2
    assert "holds other weights" in capsys.readouterr().err


def released(sources: Path, folder: Path, assembled: Path) -> Path:
    """A merged checkpoint in the families that the released CALICO is known to come from."""
    own = {key: tensor for path in assembled.glob("*.safetensors") for key, tensor in load_file(path).items()}
    found = {k: v for k, v in glamm_weights().items() if "mm_projector" not in k}
    found |= {f"model.{k.replace('llm_proj', 'mm_projector')}": v for k, v in in_lavis(instructblip()).items()}
    found |= {f"model.dino.{k}": v for k, v in in_dinov2_hub(dinov2()).items()}
    for key, tensor in own.items():
        block, _, rest = key.partition(".")
        if block == "cem":
            found[f"model.extraction_layer.{rest.removeprefix('attention.')}"] = tensor
        elif block == "cams":
            name = rest.replace(".extraction.", ".").replace(".reintegration.", ".")
            module = "adaptive_layers" if ".extraction." in rest else "reintegration_layers"
            found[f"model.{module}.{name}"] = tensor + 1
    folder.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in found.items()}, folder / "model.safetensors")
    llama_tokenizer(*GLAMM_TOKENS).save(str(folder / "tokenizer.json"))
    return folder


def convert(sources: Path, source: Path, out: Path, *options: str) -> int:
    config = ["--config", str(sources / "config.json"), "--dtype", "float32"]
    return weights.main(["convert", str(source), "--out", str(out), *config, *options])


def test_the_released_families(
    sources: Path, assembled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = released(sources, tmp_path / "released", assembled)
    assert convert(sources, source, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "partial load refused" in error
    assert "first: cam_queries" in error
    assert not list((tmp_path / "out").glob("*"))
    (tmp_path / "map.json").write_text(json.dumps({"cam_queries": "model.query_tokens"}))
    options = ["--map", str(tmp_path / "map.json"), "--json", str(tmp_path / "report.json")]
    assert convert(sources, source, tmp_path / "out", *options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"].startswith("converted from")
    assert report["coverage"]["unfilled"] == []  # no token is new: image identifiers are spelled
    assert not any(report["coverage"]["unmatched"].values())
    check_eyes(tmp_path / "out")
    check_masks(tmp_path / "out", 1e-5)
    model, _, _ = load_checkpoint(tmp_path / "out")
    assert model.cams[1].reintegration.weight.mean() == 1


def spoil(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return apply


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


NORM = "vision_model.post_layernorm.weight"
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a key is missing": (spoil(lambda w: w.pop(NORM)), "1 places without a key .*global_encoder.model.post_layernorm"),
    "a key is left over": (spoil(lambda w: w.update(stray=torch.zeros(1))), r"1 keys without a place \(first: stray\)"),
    "another size": (
        spoil(lambda w: w.update({NORM: torch.zeros(7)})),
        r"1 tensors that do not fit .*has shape \(7,\), expected \(32,\)",
    ),
    "quantised": (
        spoil(lambda w: w.update({NORM: torch.zeros(32, dtype=torch.uint8)})),
        "is U8, expected plain floating point",
    ),
    "not finite": (spoil(lambda w: w[NORM].fill_(float("nan"))), "holds numbers that are not finite"),
    "truncated": (truncate, "truncated or not a safetensors file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_source_is_refused_in_one_line(
    sources: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sources / "instructblip", tmp_path / "blip")
    FAULTS[fault][0](tmp_path / "blip")
    assert assemble(sources, tmp_path / "out", instructblip=str(tmp_path / "blip")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(FAULTS[fault][1], error), error
    assert not (tmp_path / "out" / "config.json").exists()


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_nothing_runs(sources: Path, tmp_path: Path, is_zip: bool) -> None:
    path, marker = tmp_path / "sam.pth", tmp_path / "ran"
    torch.save({"weight": torch.zeros(1), "x": Attack(marker)}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"may run code.*nothing of it was executed"):
        open_source(str(path))
    assert assemble(sources, tmp_path / "out", sam=str(path)) == 2
    assert not marker.exists()


def test_the_hub_is_read_from_its_cache_and_pinned(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    snapshot = tmp_path / "models--owner--dinov2" / "snapshots" / commit
    shutil.copytree(sources / "dinov2", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    found = open_source(f"owner/dinov2@{commit}", offline=True)
    assert "embeddings.register_tokens" in found.keys
    for unpinned in ("owner/dinov2", "owner/dinov2@main"):
        with pytest.raises(InputError, match="not pinned"):
            open_source(unpinned, offline=True)
    with pytest.raises(CheckpointError, match="no weights there"):
        open_source(f"owner/other@{commit}", offline=True)


def test_only_the_shards_that_are_needed_are_opened(sources: Path, tmp_path: Path) -> None:
    model = instructblip()
    model.save_pretrained(tmp_path / "blip", max_shard_size="40KB")
    index = json.loads((tmp_path / "blip" / INDEX).read_text())["weight_map"]
    others = {name for key, name in index.items() if key.startswith("language_model")}
    unneeded = others - {name for key, name in index.items() if not key.startswith("language_model")}
    assert unneeded
    for name in unneeded:
        (tmp_path / "blip" / name).unlink()
    shutil.copy(sources / "instructblip" / "tokenizer.json", tmp_path / "blip")
    assert assemble(sources, tmp_path / "out", instructblip=str(tmp_path / "blip")) == 0


def test_inspect_shows_what_a_file_would_fill(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(sources / "config.json"), "--json", str(tmp_path / "report.json")]
    assert weights.main(["inspect", str(sources / "sam_vit_h.pth"), *arguments]) == 0
    assert "SAM's image encoder (segment-anything)" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    places = places_of(small_config())
    filled = report["coverage"]["blocks"]
    for block in ("grounding_encoder", "pixel_decoder"):
        assert filled[block] == {"filled": sum(place.startswith(block) for place in places)}
    assert "filled" not in filled["llm"]


def test_every_place_of_the_full_size_has_a_rule_in_both_worlds() -> None:
    """At calico-7b's own sizes: no place is forgotten by the maps, and none is filled by two keys of one family."""
    places = [place for place in places_of(calico_7b()) if place.partition(".")[0] not in {*NEW_BLOCKS, "cam_queries"}]
    others = [family for family in FAMILIES if family not in transformers.FAMILIES]
    shared = [transformers.QUERIES, transformers.LLAMA, transformers.LLAMA_HEAD]
    for families in ([*transformers.FAMILIES, *others[-5:]], [*others, *shared]):
        unnamed = [place for place in places if not any(list(family.recipes(place, "")) for family in families)]
        assert unnamed == []
