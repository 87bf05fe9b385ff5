"""The tokenizer: special tokens are single, text comes back, image positions are told, and any name can be spelled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from calico.drawings import CLASSES, PART_NAMES
from calico.errors import CheckpointError, InputError
from calico.language import PAD, SPECIAL_TOKENS
from calico.language.growth import grown
from calico.language.questions import canonical_question, render_prompt, varied_question
from calico.language.tokenizer import CalicoTokenizer, fold_spaces, train_tokenizer, wordings
from calico.language.words import DRAWN_OBJECTS, DRAWN_PARTS, known_names, pseudo_word
from calico.values import SubTask

ANSWER = (
    "The images show <p> the chair </p> [SEG] (IMAGE1), <p> a zorbel flange </p> [SEG] (IMAGE8). They share no part."
)


@pytest.fixture(scope="module")
def tokenizer() -> CalicoTokenizer:
    return CalicoTokenizer.train()


def llama_like() -> Tokenizer:
    """A tokenizer built as Llama's: spaces as `▁`, byte fallback, no padding token, ids in another order."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    text = "The images show a chair, the images share the leg. USER: ASSISTANT: (IMAGE12345678)"
    bpe.train_from_iterator([text] * 9, trainer)
    return bpe


def test_special_tokens_are_single_and_the_alphabet_is_complete(tokenizer: CalicoTokenizer) -> None:
    assert len(tokenizer) == 768
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.ids(token)) == 1
        assert tokenizer.ids(f"dog {token}") == tokenizer.ids(f"dog{token}")
    assert len(set(tokenizer.image_tag_ids)) == 8
    assert len(tokenizer.special_ids) == len(SPECIAL_TOKENS)


def test_drawn_names_are_short_and_others_can_be_spelled(tokenizer: CalicoTokenizer) -> None:
    assert max(len(tokenizer.ids(f" {name}")) for name in (*CLASSES, *PART_NAMES)) <= 2
    for name in ("ottoman", "sansevieria", "Größe", "取っ手", "🙂"):
        assert tokenizer.text(tokenizer.ids(f"<p> {name} </p>")) == f"<p> {name} </p>"


def test_a_special_token_spelled_in_letters_is_not_taken_for_one(tokenizer: CalicoTokenizer) -> None:
    letters = [token for letter in "[SEG]" for token in tokenizer.ids(letter)]
    ids = [*tokenizer.ids("<p> the dog </p>"), *letters, tokenizer.seg_id, *tokenizer.image_tag_ids[0]]
    assert tokenizer.text(ids) == "<p> the dog </p>[ SEG] [SEG] (IMAGE1)"


texts = st.lists(st.one_of(st.sampled_from([*SPECIAL_TOKENS, " ", "  ", ", ", "the dog"]), st.text(max_size=8)))


@given(texts.map("".join))
@settings(max_examples=200, deadline=None)
def test_text_comes_back_up_to_spaces(tokenizer: CalicoTokenizer, text: str) -> None:
    text = fold_spaces(text)
    assert tokenizer.text(tokenizer.ids(text)) == text


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=50, deadline=None)
def test_dropout_spells_names_in_smaller_pieces_and_repeats(
    tokenizer: CalicoTokenizer, seed: int, dropout: float
) -> None:
    first, again = (tokenizer.ids(ANSWER, dropout=dropout, rng=np.random.default_rng(seed)) for _ in range(2))
    assert first == again
    assert tokenizer.text(first) == ANSWER
    plain = tokenizer.ids(ANSWER)
    lead = plain[: plain.index(tokenizer.phrase_open_id)]
    assert first[: len(lead)] == lead
    assert len(first) > len(plain) or dropout < 1.0


def test_dropout_needs_a_generator(tokenizer: CalicoTokenizer) -> None:
    with pytest.raises(InputError, match="rng"):
        tokenizer.ids(ANSWER, dropout=0.1)


def test_prompt_positions(tokenizer: CalicoTokenizer) -> None:
    prompt = render_prompt(canonical_question(SubTask.COMMON_OBJECT, 3).text, 3)
    encoded = tokenizer.encode_prompt(prompt, 5)
    assert encoded.ids[0] == tokenizer.bos_id
    assert [len(positions) for positions in encoded.image_positions] == [5, 5, 5]
    told = {position for positions in encoded.image_positions for position in positions}
    assert told == {i for i, token in enumerate(encoded.ids) if token == tokenizer.image_id}
    for image, positions in enumerate(encoded.image_positions):
        assert positions == list(range(positions[0], positions[0] + 5))
        assert (encoded.ids[positions[-1] + 2],) == tokenizer.image_tag_ids[image]  # behind <im_end>
    once = tokenizer.encode_prompt(prompt, 1).ids
    assert tokenizer.text(once) == "<s>" + fold_spaces(prompt)


def test_candidates_are_spelled_as_in_answers(tokenizer: CalicoTokenizer) -> None:
    question = varied_question(SubTask.COMMON_PARTS, 2, np.random.default_rng(0), ["blorfin", "leg"]).text
    spelled = tokenizer.ids("<p> the blorfin </p>")[2:-1]
    ids = tokenizer.ids(question)
    assert any(ids[i : i + len(spelled)] == spelled for i in range(len(ids)))


def test_saved_and_read_again(tokenizer: CalicoTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = CalicoTokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.ids(ANSWER) == tokenizer.ids(ANSWER)
    assert CalicoTokenizer.train().ids(ANSWER) == tokenizer.ids(ANSWER)


def test_a_llama_tokenizer_is_extended_and_asked_for_ids(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    llama_like().save(str(path))
    with pytest.raises(CheckpointError, match=r"tokenizer.json: special token '\[SEG\]' is missing"):
        CalicoTokenizer.from_file(path)
    tokenizer = CalicoTokenizer.from_file(path, add_missing=True)
    assert tokenizer.bos_id == 1
    # Llama opens each piece of text with a space, also behind a special token.
    assert tokenizer.text(tokenizer.ids("The images share <p> the leg </p> [SEG] (IMAGE1).")) == (
        "The images share <p> the leg </p> [SEG] (IMAGE1) ."
    )
    with pytest.raises(InputError, match="byte-level"):
        tokenizer.ids(ANSWER, dropout=0.5, rng=np.random.default_rng(0))


def test_what_a_llama_can_spell_gets_no_row_of_its_own(tmp_path: Path) -> None:
    """Image identifiers are spelled, an `<image>` is never read, `<unk>` pads: five tokens of the grammar are new."""
    path = tmp_path / "tokenizer.json"
    plain = llama_like()
    plain.save(str(path))
    tokenizer = CalicoTokenizer.from_file(path, add_missing=True)
    assert len(tokenizer) == plain.get_vocab_size() + 5
    assert len({len(ids) for ids in tokenizer.image_tag_ids}) == 1 < len(tokenizer.image_tag_ids[0])
    answer = "The images share <p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE8)."
    ids = tokenizer.ids(answer)
    assert max(ids) < len(tokenizer)
    first = ids.index(tokenizer.seg_id) + 1
    assert tuple(ids[first : first + len(tokenizer.image_tag_ids[0])]) == tokenizer.image_tag_ids[0]
    assert fold_spaces(tokenizer.text(ids)) == fold_spaces(answer.replace(".", " ."))
    prompt = render_prompt(canonical_question(SubTask.COMMON_OBJECT, 2).text, 2)
    encoded = tokenizer.encode_prompt(prompt, 3)
    assert [len(positions) for positions in encoded.image_positions] == [3, 3]
    assert {encoded.ids[p] for positions in encoded.image_positions for p in positions} == {tokenizer.pad_id}
    assert min(encoded.ids) >= 0


def test_padding_falls_back_to_unk(tmp_path: Path) -> None:
    bpe = llama_like()
    bpe.add_special_tokens([token for token in SPECIAL_TOKENS if token != PAD])
    assert CalicoTokenizer(bpe).pad_id == bpe.token_to_id("<unk>")


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_bad_file_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: "):
        CalicoTokenizer.from_file(path)


def test_no_merge_reaches_into_a_special_token() -> None:
    trained = train_tokenizer(["leg[SEG]seat </p> [SEG]"] * 50, vocab_size=300)
    learnt = set(trained.get_vocab()) - set(SPECIAL_TOKENS)
    assert "leg" in learnt
    assert not any("SEG" in token or "</" in token for token in learnt)


def test_pseudo_words_are_new_and_repeatable() -> None:
    words = [pseudo_word(np.random.default_rng(seed)) for seed in range(300)]
    assert words == [pseudo_word(np.random.default_rng(seed)) for seed in range(300)]
    assert len(set(words)) > 250
    assert not set(words) & known_names()


def test_one_tokenizer_serves_many_threads(tokenizer: CalicoTokenizer) -> None:
    def encode(seed: int) -> tuple[list[int], list[int]]:
        return tokenizer.ids(ANSWER), tokenizer.ids(ANSWER, dropout=0.5, rng=np.random.default_rng(seed))

    alone = [encode(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, range(40))) == alone


def test_a_tokenizer_grows_for_names_and_cuts_what_it_knew_as_before() -> None:
    own = CalicoTokenizer.train()
    names = ("fruit bowl", "taillight", "trash can", "mop")
    larger = grown(own, names, len(own) + 40)
    assert len(own) < len(larger) <= len(own) + 40
    assert all(larger.vocabulary[token] == number for token, number in own.vocabulary.items())
    assert sum(len(larger.ids(f" {name}")) for name in names) < sum(len(own.ids(f" {name}")) for name in names)
    assert [len(larger.ids(f" {name}")) for name in names] == [2, 1, 2, 1]
    known = [*wordings(np.random.default_rng(7)), *(f"<p> the {name} </p>" for name in (*DRAWN_OBJECTS, *DRAWN_PARTS))]
    assert [larger.ids(text) for text in known] == [own.ids(text) for text in known]
    assert len(grown(own, names, len(own))) == len(own)
