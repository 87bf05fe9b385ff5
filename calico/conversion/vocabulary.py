"""The tokenizer of an assembled model, and where the rows of the tokens that it adds start."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from calico.conversion.sources import WeightSource
from calico.errors import CheckpointError
from calico.language.tokenizer import CalicoTokenizer

TOKENIZER = "tokenizer.json"
ADDED = "added_tokens.json"


class NewToken(NamedTuple):
    """spelled: ids of the pieces that spelled it before it was a token."""

    token: str
    spelled: tuple[int, ...]


class Vocabulary(NamedTuple):
    """num_known: tokens that the source's rows stand for; the new ones follow."""

    tokenizer: CalicoTokenizer
    num_known: int
    new: tuple[NewToken, ...]

    @property
    def size(self) -> int:
        return self.num_known + len(self.new)

    def grow(self, rows: Tensor, num_rows: int) -> Tensor:
        """Source rows -> num_rows x D. A new token starts as the mean of the pieces that spelled it before."""
        grown = torch.zeros(num_rows, *rows.shape[1:], dtype=rows.dtype)
        grown[: len(rows)] = rows
        for row, token in enumerate(self.new, self.num_known):
            grown[row] = rows[list(token.spelled)].float().mean(0).to(rows.dtype)
        return grown


def read_vocabulary(source: WeightSource, base: Path | None = None) -> Vocabulary:
    """The source's own tokens, then those of co-segmentation that it lacks.

    base: a Llama `tokenizer.json`, for a source that has none of its own but an `added_tokens.json` (a slow tokenizer's
    files): the source's added tokens then take the place of the base's.
    """
    path_of_own = source.locate(TOKENIZER)
    if path_of_own is not None:
        base_tokenizer = _read(path_of_own)
    elif base is not None:
        base_tokenizer = _with_added(_read(base), source.locate(ADDED), base)
    else:
        raise CheckpointError(
            f"{source.name}: no {TOKENIZER} there; give --tokenizer FILE, the {TOKENIZER} of any model with the "
            "same Llama vocabulary"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TOKENIZER
        base_tokenizer.save(str(path))
        tokenizer = CalicoTokenizer.from_file(path, add_missing=True)
        tokenizer.save(path)
        extended = Tokenizer.from_file(str(path))
    num_base = base_tokenizer.get_vocab_size(with_added_tokens=True)
    new = []
    for i in range(num_base, len(tokenizer)):
        token = extended.id_to_token(i)
        if token is None:
            raise CheckpointError(f"{source.name}: its tokens are not numbered without gaps; id {i} is missing")
        new.append(NewToken(token, tuple(base_tokenizer.encode(token, add_special_tokens=False).ids)))
    return Vocabulary(tokenizer, num_base, tuple(new))


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for malformed files
        raise CheckpointError(f"{path}: not a {TOKENIZER} ({error}); copy it again") from None


def _read_added(path: Path) -> dict[str, int]:
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not an object of tokens and their ids ({error}); copy it again") from None
    if not isinstance(ids, dict) or not all(isinstance(number, int) for number in ids.values()):
        raise CheckpointError(f"{path}: expected an object of tokens and their ids; copy it again")
    return ids


def _with_added(base: Tokenizer, added: Path | None, base_path: Path) -> Tokenizer:
    """The base's own vocabulary with the source's added tokens, each at the id that the source gives it."""
    added_ids = _read_added(added) if added is not None else {}
    content: dict[str, Any] = json.loads(base.to_str())
    num_plain = len(content["model"]["vocab"])
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < num_plain]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    new = sorted((i, token) for token, i in added_ids.items() if i >= num_plain)
    tokenizer.add_special_tokens([token for _, token in new])
    if wrong := next((token for i, token in new if tokenizer.token_to_id(token) != i), None):
        raise CheckpointError(
            f"{added}: {wrong!r} has id {added_ids[wrong]}, but {base_path} puts it at {tokenizer.token_to_id(wrong)}; "
            "take the tokenizer of the model that this one was finetuned from"
        )
    return tokenizer
