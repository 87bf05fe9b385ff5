"""Answers of the three sub-tasks, written from the truth and read from what a model wrote (paper, section 3).

Every named thing is `<p> the name </p>` followed by one `[SEG] (IMAGEi)` per image that shows it. A common-object
answer is one list of objects. A part answer first lists the objects of all images, then, in a new sentence, the parts:

    The images show <p> the chair </p> [SEG] (IMAGE1), <p> the stool </p> [SEG] (IMAGE2).
    They share <p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2), <p> the seat </p> [SEG] (IMAGE1) [SEG] (IMAGE2).

Order: objects by their first image, common parts alphabetically, unique parts by image and then alphabetically.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calico.errors import InputError
from calico.language import EOS, PAD, PHRASE_CLOSE, PHRASE_OPEN, SEG, SPECIAL_PATTERN, image_tag, spoken_name
from calico.language.wordings import LEADS, NONES, OBJECTS_LEADS
from calico.values import CoSegmentation, Problem, RegionKey, SubTask, normalize_name


class RenderedAnswer(NamedTuple):
    """segs: the region that each [SEG] of the text means, in order."""

    text: str
    segs: tuple[RegionKey, ...]


def _phrases(keys: Iterable[RegionKey]) -> list[list[RegionKey]]:
    """Keys of one name and kind together, in order of first appearance; images ascending within each."""
    groups: dict[tuple[str, str], list[RegionKey]] = {}
    for key in keys:
        groups.setdefault((key.kind, key.name), []).append(key)
    return [sorted(group) for group in groups.values()]


def _article(name: str, rng: np.random.Generator | None) -> str:
    if rng is None or rng.random() < 0.5:
        return "the"
    return "an" if name[0] in "aeiou" else "a"


def _listed(phrases: list[list[RegionKey]], rng: np.random.Generator | None) -> str:
    texts = []
    for phrase in phrases:
        name = spoken_name(phrase[0].name)
        segs = " ".join(f"{SEG} {image_tag(key.image)}" for key in phrase)
        texts.append(f"{PHRASE_OPEN} {_article(name, rng)} {name} {PHRASE_CLOSE} {segs}")
    if len(texts) > 1 and rng is not None and rng.random() < 0.5:
        return f"{', '.join(texts[:-1])} and {texts[-1]}."
    return f"{', '.join(texts)}."


def render_answer(
    target: CoSegmentation, sub_task: SubTask, *, rng: np.random.Generator | None = None
) -> RenderedAnswer:
    """The right answer to one question about a group whose full truth is `target`.

    rng: None for the canonical wording, else one of the training wordings (same structure, same order of names).
    Raises InputError where an image has parts but no object region: a part answer could not say whose parts they are.
    """
    regions = target.restricted_to(sub_task).regions
    objects = sorted((r.key for r in regions if r.kind == "object"), key=lambda key: (key.image, key.name))
    parts = [r.key for r in regions if r.kind == "part"]
    if orphans := {key.image for key in parts} - {key.image for key in objects}:
        where = f"image {min(orphans) + 1}"
        raise InputError(f"{where} has parts but no object region; add the object's mask, for instance their union")

    def pick(choices: tuple) -> int:
        return 0 if rng is None else int(rng.integers(len(choices)))

    sentences: list[str] = []
    object_phrases = _phrases(objects)
    if sub_task is SubTask.COMMON_OBJECT:
        phrases = object_phrases
    else:
        if object_phrases:
            lead = OBJECTS_LEADS[pick(OBJECTS_LEADS)][len(object_phrases) > 1]
            sentences.append(f"{lead} {_listed(object_phrases, rng)}")
        if sub_task is SubTask.COMMON_PARTS:
            phrases = _phrases(sorted(parts, key=lambda key: (key.name, key.image)))
        else:
            phrases = [[key] for key in sorted(parts, key=lambda key: (key.image, key.name))]
    if phrases:
        leads = LEADS[sub_task]
        sentences.append(f"{leads[pick(leads)][len(phrases) > 1]} {_listed(phrases, rng)}")
    else:
        sentences.append(NONES[sub_task][pick(NONES[sub_task])])
    segs = phrases if sub_task is SubTask.COMMON_OBJECT else object_phrases + phrases
    return RenderedAnswer(" ".join(sentences), tuple(key for phrase in segs for key in phrase))


class Mention(NamedTuple):
    """One region that an answer names. image: 0-based. seg_index: which [SEG] of the text means it, from 0."""

    kind: str  # "object" or "part"
    name: str  # normalised
    image: int
    seg_index: int

    @property
    def key(self) -> RegionKey:
        return RegionKey(self.image, self.kind, self.name)


@dataclass(frozen=True)
class ParsedAnswer:
    """mentions: the good regions, at most one per key. says_none: it states that there is no region of the asked kind.

    Problem codes: empty_answer, cut_off, unclosed_phrase, stray_token, empty_name, phrase_without_seg,
    seg_without_phrase, seg_without_image, image_without_seg, unknown_image, repeated_name, missing_object,
    none_with_regions. Well formed means no problem.
    """

    mentions: tuple[Mention, ...]
    says_none: bool
    problems: tuple[Problem, ...] = ()
    num_segs: int = 0


class _Phrase(NamedTuple):
    name: str
    sentence: int
    segs: list[tuple[int, int]]  # (image, seg_index)


_TOKEN = re.compile(rf"(?P<image>\(IMAGE ?(?P<number>[0-9]+)\))|{SPECIAL_PATTERN.pattern}")
_SAYS_NONE = re.compile(r"\b(no|none|nothing|neither)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](\s|$)")


class _Reader:
    """One pass over an answer's tokens: phrases with their [SEG]s, the prose between them, and problems."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.phrases: list[_Phrase] = []
        self.problems: list[Problem] = []
        self.prose: list[str] = []
        self.num_segs = 0
        self._sentence = 0
        self._open: str | None = None  # the text of a phrase not yet closed
        self._pending_seg = False  # a [SEG] whose image identifier should come next
        self._trailing = False  # still right behind a phrase or its [SEG]s

    def problem(self, code: str, message: str, image: int | None = None) -> None:
        self.problems.append(Problem(code, message, image))

    def read(self, text: str) -> None:
        end = 0
        for match in _TOKEN.finditer(text):
            self._text(text[end : match.start()])
            end = match.end()
            if match["image"]:
                self._image(match["number"])
            elif match[0] == SEG:
                self._seg()
            elif match[0] == PHRASE_OPEN:
                self._close("a new phrase opens inside")
                self._settle_seg()
                self._open = ""
            elif match[0] == PHRASE_CLOSE:
                if self._open is None:
                    self.problem("stray_token", f"{PHRASE_CLOSE} closes no phrase")
                self._close()
            else:
                self.problem("stray_token", f"{match[0]} has no place in an answer")
        self._text(text[end:])
        self._close("the answer ends inside")
        self._settle_seg()

    def _text(self, text: str) -> None:
        if self._open is not None:
            self._open += text
        elif text.strip():
            self._settle_seg()
            self._trailing = False
            self.prose.append(text)
            self._sentence += bool(_SENTENCE_END.search(text))

    def _close(self, unclosed: str = "") -> None:
        if self._open is None:
            return
        name, self._open = normalize_name(self._open), None
        if unclosed:
            self.problem("unclosed_phrase", f"phrase {name!r}: {unclosed}")
        self.phrases.append(_Phrase(name, self._sentence, []))
        self._trailing = True

    def _seg(self) -> None:
        self._close(f"{SEG} comes before {PHRASE_CLOSE}")
        self._settle_seg()
        self._pending_seg = True
        self.num_segs += 1

    def _settle_seg(self) -> None:
        if self._pending_seg:
            self._pending_seg = False
            self.problem("seg_without_image", f"{SEG} number {self.num_segs} is not followed by an image identifier")

    def _image(self, number: str) -> None:
        self._close("an image identifier comes before its end")
        if not self._pending_seg:
            if self._trailing:
                self.problem("image_without_seg", f"(IMAGE{number}) follows a phrase without {SEG}")
            return
        self._pending_seg, self._trailing = False, True
        image = int(number[:6]) - 1
        if not 0 <= image < self.num_images:
            self.problem("unknown_image", f"(IMAGE{number[:6]}) is not one of {self.num_images} images")
        elif not self.phrases:
            self.problem("seg_without_phrase", f"{SEG} number {self.num_segs} comes before any phrase", image)
        else:
            self.phrases[-1].segs.append((image, self.num_segs - 1))


def _split_objects(phrases: list[_Phrase]) -> int:
    """How many of the first phrases of a part answer are objects.

    A phrase is an object while no image of it has one yet. A repeated object within one sentence is still an object
    (and reported as a repeated name); in a new sentence it is a part that is called like its object.
    """
    covered: dict[int, _Phrase] = {}
    for index, phrase in enumerate(phrases):
        earlier = [covered[image] for image, _ in phrase.segs if image in covered]
        if any(other.name != phrase.name or other.sentence != phrase.sentence for other in earlier):
            return index
        covered.update((image, phrase) for image, _ in phrase.segs)
    return len(phrases)


def parse_answer(text: str, sub_task: SubTask, num_images: int, *, finished: bool | None = None) -> ParsedAnswer:
    """The good regions of any text whatever, and a problem for everything that could not be used. Never raises.

    finished: whether generation ended by itself; where not known, a text that does not end a sentence is cut off.
    A name that comes twice on one image keeps its first [SEG]. In part answers the first phrases are the objects, until
    one names an image that already has its object.
    """
    body = re.sub(rf"({re.escape(EOS)}|{re.escape(PAD)}|\s)+$", "", text)
    reader = _Reader(num_images)
    reader.read(body)
    if finished is False or (finished is None and body and not body.endswith((".", "!", "?"))):
        reader.problem("cut_off", "the answer ends before its last sentence does; raise the limit of new tokens")

    parts_asked = sub_task is not SubTask.COMMON_OBJECT
    num_objects = _split_objects(reader.phrases) if parts_asked else len(reader.phrases)
    mentions: dict[RegionKey, Mention] = {}
    for index, phrase in enumerate(reader.phrases):
        if not phrase.name:
            reader.problem("empty_name", f"a phrase without a name has {len(phrase.segs)} {SEG}")
            continue
        if not phrase.segs:
            reader.problem("phrase_without_seg", f"{phrase.name!r} has no usable {SEG}")
        for image, seg_index in phrase.segs:
            mention = Mention("object" if index < num_objects else "part", phrase.name, image, seg_index)
            if mentions.setdefault(mention.key, mention) is not mention:
                reader.problem("repeated_name", f"{phrase.name!r} comes again on image {image + 1}, left out", image)

    says_none = any(_SAYS_NONE.search(prose) for prose in reader.prose)
    answers = [m for m in mentions.values() if m.kind == ("part" if parts_asked else "object")]
    if says_none and answers:
        reader.problem("none_with_regions", f"the answer says that there is none, and names {answers[0].name!r}")
    if not says_none and not answers:
        reader.problem("empty_answer", f"it names no {'part' if parts_asked else 'object'} and does not say none")
    if parts_asked:
        for image in sorted(set(range(num_images)) - {m.image for m in mentions.values() if m.kind == "object"}):
            reader.problem("missing_object", f"the answer names no object for image {image + 1}", image)
    return ParsedAnswer(tuple(mentions.values()), says_none, tuple(reader.problems), reader.num_segs)
