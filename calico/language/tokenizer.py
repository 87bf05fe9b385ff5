"""Texts to token ids and back: byte-level subwords, one token for each special token.

`CalicoTokenizer` holds the small model's tokenizer and a full-size Llama's alike: every id is asked for by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from calico.errors import CheckpointError, InputError
from calico.language import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    IMAGE_TAGS,
    PAD,
    PHRASE_CLOSE,
    PHRASE_OPEN,
    SEG,
    SPECIAL_PATTERN,
    SPECIAL_TOKENS,
)
from calico.language.questions import canonical_question, varied_question
from calico.language.wordings import LEADS, NONES, OBJECTS_LEADS
from calico.language.words import DRAWN_OBJECTS, DRAWN_PARTS, OTHER_NAMES, pseudo_word
from calico.values import SubTask

VOCAB_SIZE = 768
UNSPELLED = (BOS, EOS, IMAGE_START, IMAGE_END, SEG, PHRASE_OPEN, PHRASE_CLOSE)  # are single tokens in any tokenizer
IMAGE_PLACE = -1  # id of an `<image>` that is no token, until its place is widened
_SPACED_SPECIAL = re.compile(rf"\s*({SPECIAL_PATTERN.pattern})")
_WORD_IN_PHRASE = re.compile(r"\s*\S+")


def _added(token: str) -> AddedToken:
    # lstrip: the space before a special token belongs to it, so "dog </p>" and "dog</p>" are the same tokens.
    return AddedToken(token, lstrip=True, rstrip=False, normalized=False, special=True)


def fold_spaces(text: str) -> str:
    """The form in which texts with equal tokens are equal: one space before each special token, none doubled."""
    return " ".join(_SPACED_SPECIAL.sub(r" \1", text).split())


def tokenizer_corpus(seed: int = 0, names: Iterable[str] = ()) -> Iterator[str]:
    """Texts that the small model's tokenizer is trained on: questions, answers, names, and many invented names.

    Drawn names and `names`, which are those of other data, come often enough to be one token or two; the rest teaches
    syllables for names never seen.
    """
    rng = np.random.default_rng(seed)
    yield from wordings(rng)
    for name in dict.fromkeys((*DRAWN_OBJECTS, *DRAWN_PARTS, *names)):
        yield from [f"{PHRASE_OPEN} the {name} {PHRASE_CLOSE}"] * 24
        yield from [f"{PHRASE_OPEN} a {name} {PHRASE_CLOSE}", f"{name}, {name}"] * 2
    for name in OTHER_NAMES:
        yield from [f"{PHRASE_OPEN} the {name} {PHRASE_CLOSE}"] * 3
    for _ in range(3000):
        yield f"{PHRASE_OPEN} the {pseudo_word(rng)} {PHRASE_CLOSE}"


def wordings(rng: np.random.Generator) -> Iterator[str]:
    """Questions and what answers open with, without the names."""
    for sub_task in SubTask:
        answers = [lead for pair in LEADS[sub_task] + OBJECTS_LEADS for lead in pair] + list(NONES[sub_task])
        for _ in range(300):
            yield canonical_question(sub_task, 2, ["leg"]).text
            yield varied_question(sub_task, int(rng.integers(2, 9)), rng).text
            yield f"USER: x ASSISTANT: {rng.choice(answers)}"


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE. Texts are split at the special tokens first, so that no merge reaches into one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_added(token) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = (piece.rstrip() for text in texts for piece in SPECIAL_PATTERN.split(text))
    tokenizer.train_from_iterator((piece for piece in pieces if piece), trainer)
    return tokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """ids: the prompt's tokens, `<s>` first. image_positions: for each image the indices of its tokens in ids."""

    ids: list[int]
    image_positions: list[list[int]]


class CalicoTokenizer:
    """A `tokenizers.Tokenizer` with the special tokens of co-segmentation. Stateless after birth: safe under threads.

    A tokenizer that lacks the image identifiers, as a Llama's does, spells them with the tokens that it has: no row of
    the language model is new then, and a released model reads them as it learnt to. `<image>`, whose embedding is never
    read, needs no row either; for `<pad>` serves `<unk>`. Any other special token that is missing is a CheckpointError.

    image_tag_ids: of each image identifier the ids that spell it, behind another token; one in the small model.
    """

    def __init__(self, tokenizer: Tokenizer, source: str = "tokenizer") -> None:
        self._tokenizer = tokenizer
        self._source = source
        self._single = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is not None]
        self._single_pattern = re.compile("|".join(map(re.escape, self._single)) or r"(?!)")
        kind = (json.loads(tokenizer.to_str())["pre_tokenizer"] or {}).get("type")
        self._byte_level = kind == "ByteLevel"
        self.pad_id = self._id(PAD)
        self.bos_id = self._id(BOS)
        self.eos_id = self._id(EOS)
        self.seg_id = self._id(SEG)
        self.phrase_open_id = self._id(PHRASE_OPEN)
        self.phrase_close_id = self._id(PHRASE_CLOSE)
        self.image_id = self._id(IMAGE) if IMAGE in self._single else self.pad_id
        self.special_ids = frozenset(self._id(token) for token in self._single)
        self.image_tag_ids = tuple(self._spelled(tag) for tag in IMAGE_TAGS)
        if len(set(self.image_tag_ids)) < len(IMAGE_TAGS):
            raise CheckpointError(
                f"{source}: cannot tell {IMAGE_TAGS[0]} from {IMAGE_TAGS[1]}, neither as tokens nor spelled; "
                "use the tokenizer.json saved with the checkpoint"
            )
        self._encoder, self._spelling = self._with_stand_ins()

    def _spelled(self, tag: str) -> tuple[int, ...]:
        """As behind a special token; with a space between them, unless the tokenizer puts one there by itself."""
        spaced, plain = (
            tuple(self._tokenizer.encode(SEG + space + tag, add_special_tokens=False).ids[1:]) for space in (" ", "")
        )
        return min(spaced, plain, key=len)

    def _with_stand_ins(self) -> tuple[Tokenizer, dict[int, tuple[int, ...]]]:
        """A tokenizer in which each special token that ours lacks is one id beyond its own, and what each stands for:
        so texts are cut at them in one way, whatever stands beside them."""
        lacking = [token for token in (IMAGE, *IMAGE_TAGS) if token not in self._single]
        if not lacking:
            return self._tokenizer, {}
        encoder = Tokenizer.from_str(self._tokenizer.to_str())
        encoder.add_special_tokens([_added(token) for token in lacking])
        spelled = dict(zip(IMAGE_TAGS, self.image_tag_ids, strict=True)) | {IMAGE: (IMAGE_PLACE,)}
        ids = {token: encoder.token_to_id(token) for token in lacking}
        return encoder, {number: spelled[token] for token, number in ids.items() if number is not None}

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None and token == PAD:
            number = self._tokenizer.token_to_id("<unk>")
        if number is None:
            raise CheckpointError(
                f"{self._source}: special token {token!r} is missing; "
                "use the tokenizer.json saved with the checkpoint, or add the tokens with `add_missing=True`"
            )
        return number

    @classmethod
    def train(cls, texts: Iterable[str] | None = None, vocab_size: int = VOCAB_SIZE) -> CalicoTokenizer:
        """The small model's tokenizer, from `tokenizer_corpus()` unless texts are given."""
        return cls(train_tokenizer(tokenizer_corpus() if texts is None else texts, vocab_size))

    @classmethod
    def from_file(cls, path: str | Path, *, add_missing: bool = False) -> CalicoTokenizer:
        """Read a `tokenizer.json`. add_missing: append those that it lacks and that can't be spelled (to a plain
        Vicuna's, say): what opens and closes a phrase or an image, and [SEG]."""
        try:
            tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; expected the checkpoint's tokenizer.json") from None
        except Exception as error:  # the library raises plain Exception for malformed files
            raise CheckpointError(f"{path}: not a tokenizer.json ({error}); save the checkpoint again") from error
        if add_missing:
            lacking = [token for token in UNSPELLED if tokenizer.token_to_id(token) is None]
            tokenizer.add_special_tokens([_added(token) for token in lacking])
        return cls(tokenizer, str(path))

    def save(self, path: str | Path) -> None:
        self._tokenizer.save(str(path))

    def to_json(self) -> str:
        """What `save` writes."""
        return self._tokenizer.to_str()

    def tokens(self, text: str) -> list[str]:
        """As the file spells them, without beginning and end of sequence."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def __len__(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every token as the file spells it -> its id."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def token(self, number: int) -> str:
        """As the file spells it."""
        return str(self._tokenizer.id_to_token(number))

    def piece(self, number: int) -> str:
        """The text of one token, the space before a word included."""
        return self._decode([number])

    @cached_property
    def name_ids(self) -> frozenset[int]:
        """Ids that may spell a name: printable text without the brackets of which special tokens are made."""
        texts = ((i, self._decode([i])) for i in range(len(self)))
        return frozenset(i for i, text in texts if text.isprintable() and text and not set("<>[]()") & set(text))

    def ids(self, text: str, *, dropout: float = 0.0, rng: np.random.Generator | None = None) -> list[int]:
        """Token ids, without beginning and end of sequence.

        dropout: chance of a cut at each letter boundary of a name between `<p>` and `</p>`. Cut names are spelled in
        smaller pieces, so that a model learns to spell; like BPE dropout, but repeatable from `rng`.
        """
        if not dropout:
            return [self.image_id if i == IMAGE_PLACE else i for i in self._encoded(text)]
        if rng is None or not self._byte_level:
            raise InputError("dropout needs a random generator and a byte-level tokenizer; pass rng, or dropout=0")
        ids: list[int] = []
        for piece in re.split(f"({re.escape(PHRASE_OPEN)}[^<]*)", text):
            if not piece.startswith(PHRASE_OPEN):
                ids += self.ids(piece)
                continue
            ids.append(self.phrase_open_id)
            article, *name = _WORD_IN_PHRASE.findall(piece[len(PHRASE_OPEN) :].rstrip()) or [""]
            words = name if article.strip() in {"a", "an", "the"} else [article, *name]
            if words is name:
                ids += self.ids(article)
            for word in words:
                start = 0
                first = len(word) - len(word.lstrip()) + 1
                for cut in range(first, len(word)):
                    if rng.random() < dropout:
                        ids += self.ids(word[start:cut])
                        start = cut
                ids += self.ids(word[start:])
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens included, spaces folded.

        A special token's text in it always stands for that token: where plain ids spell one, a space breaks it.
        """
        ids = [int(i) for i in ids]
        text = self._decode(ids)
        if len(self._single_pattern.findall(text)) != sum(i in self.special_ids for i in ids):
            text = ""
            for special, run in groupby(ids, self.special_ids.__contains__):
                piece = self._decode(list(run))
                broken = self._single_pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", piece)
                text += piece if special else broken
        return fold_spaces(text)

    def _encoded(self, text: str) -> list[int]:
        """Ids, `IMAGE_PLACE` for each `<image>` that is no token."""
        ids = self._encoder.encode(text, add_special_tokens=False).ids
        return [own for i in ids for own in self._spelling.get(i, (i,))] if self._spelling else ids

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def encode_prompt(self, prompt: str, num_image_tokens: int) -> EncodedPrompt:
        """Ids of a rendered prompt, with each `<image>` widened to `num_image_tokens` positions."""
        ids, image_positions = [self.bos_id], []
        place = self.image_id if IMAGE in self._single else IMAGE_PLACE
        for token in self._encoded(prompt):
            if token == place:
                image_positions.append(list(range(len(ids), len(ids) + num_image_tokens)))
                ids += [self.image_id] * num_image_tokens
            else:
                ids.append(token)
        return EncodedPrompt(ids, image_positions)
