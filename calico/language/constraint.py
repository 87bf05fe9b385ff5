"""Holds greedy decoding to the answer grammar, and names to a vocabulary where one is given.

The grammar is the canonical wording of `render_answer`, written as a generator: it yields the ids allowed next and is
sent the one that was taken. So a constrained answer parses without a problem: phrases are closed, every image has one
object, a common thing has two or more images, a unique part has one, and with a vocabulary no name comes twice.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence

from calico.language import PHRASE_OPEN, image_tag
from calico.language.names import SpelledNames, spelled_names
from calico.language.tokenizer import CalicoTokenizer
from calico.language.wordings import LEADS, NONES, OBJECTS_LEADS
from calico.values import SubTask

MAX_NAME_TOKENS = 16  # of a free name

Ids = tuple[int, ...]
Steps = Generator[frozenset[int], int]  # yields the ids allowed, is sent the id taken


class AnswerConstraint:
    """Of one answer that is being decoded: make one per answer. names: of objects and parts; None for free naming."""

    def __init__(
        self,
        tokenizer: CalicoTokenizer,
        sub_task: SubTask,
        num_images: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._sub_task = sub_task
        self._num_images = num_images
        self._names = None if names is None else spelled_names(tokenizer, tuple(names))
        self._taken: list[int] = []
        self._steps: Steps
        self._allowed: frozenset[int]
        self._restart()

    def allowed(self, generated_ids: Sequence[int]) -> frozenset[int]:
        """The ids that may follow those generated so far. Costs one step when called once per token.

        Raises ValueError where a generated id was not allowed in its place.
        """
        if list(generated_ids[: len(self._taken)]) != self._taken:
            self._restart()
        for token in generated_ids[len(self._taken) :]:
            if token not in self._allowed:
                raise ValueError(f"token {token} at position {len(self._taken)} was not allowed there")
            self._taken.append(token)
            try:
                self._allowed = self._steps.send(token)
            except StopIteration:
                self._allowed = frozenset({self._tokenizer.eos_id})
                self._steps = self._end()
        return self._allowed

    def _restart(self) -> None:
        self._taken.clear()
        self._steps = self._answer()
        self._allowed = next(self._steps)

    def _ids(self, text: str) -> Ids:
        return tuple(self._tokenizer.ids(text))

    def _after_tag(self, text: str) -> Ids:
        """Ids of a text as it is spelled behind an image identifier."""
        return self._ids(image_tag(0) + text)[len(self._tokenizer.image_tag_ids[0]) :]

    # The grammar

    def _answer(self) -> Steps:
        task = self._sub_task
        lead, none = LEADS[task][0][0], NONES[task][0]
        if task is SubTask.COMMON_OBJECT:
            branches = [self._ids(f"{lead} {PHRASE_OPEN}"), self._ids(none)]
            if self._names is not None and not self._names:
                del branches[0]
            if (yield from self._choose(branches)) == self._ids(none):
                return
            yield from self._common(self._names, covering=True)
            return
        if self._names is not None and not self._names:
            yield from self._choose([self._ids(none)])
            return
        yield from self._choose([self._ids(f"{OBJECTS_LEADS[0][0]} {PHRASE_OPEN}")])
        yield from self._objects()
        branches = [self._after_tag(f". {lead} {PHRASE_OPEN}"), self._after_tag(f". {none}")]
        if (yield from self._choose(branches)) == branches[-1]:
            return
        if task is SubTask.COMMON_PARTS:
            yield from self._common(self._names, covering=False)
        else:
            yield from self._unique()

    def _end(self) -> Steps:
        while True:
            yield frozenset({self._tokenizer.eos_id})

    def _objects(self) -> Steps:
        """One object for every image; the first image of each phrase is the lowest that has none yet."""
        uncovered = set(range(self._num_images))
        seg, comma = (self._tokenizer.seg_id,), self._after_tag(f", {PHRASE_OPEN}")
        while True:
            yield from self._name(self._names)
            yield from self._choose([seg])
            image = yield from self._image({min(uncovered)})
            uncovered.discard(image)
            while later := {other for other in uncovered if other > image}:
                if (yield from self._choose([seg, comma])) == comma:
                    break
                image = yield from self._image(later)
                uncovered.discard(image)
            else:
                if not uncovered:
                    return
                yield from self._choose([comma])

    def _common(self, names: SpelledNames | None, *, covering: bool) -> Steps:
        """Phrases of two images or more. covering: an image has one of them at most, as objects do."""
        free = set(range(self._num_images))
        used: set[str] = set()
        seg, comma, stop = (self._tokenizer.seg_id,), self._after_tag(f", {PHRASE_OPEN}"), self._after_tag(".")
        while True:
            name = yield from self._name(names, used)
            repeated = name in used
            used.add(name)
            images = sorted(free)
            yield from self._choose([seg])
            pair = [(yield from self._image(images[:-1]))]
            taken = yield from self._choose([seg])
            while taken == seg:
                pair.append((yield from self._image(image for image in images if image > pair[-1])))
                rest = free - set(pair) if covering else free
                more = len(rest) > 1 and not repeated and (names is None or len(used) < len(names))
                branches = [stop, *([comma] if more else []), *([seg] if pair[-1] < images[-1] else [])]
                taken = yield from self._choose(branches)
            if taken == stop:
                return
            free = rest

    def _unique(self) -> Steps:
        """Phrases of one image each, those of the first image first."""
        used: set[str] = set()
        image = 0
        comma, stop = self._after_tag(f", {PHRASE_OPEN}"), self._after_tag(".")
        while True:
            name = yield from self._name(self._names, used)
            more = name not in used
            used.add(name)
            yield from self._choose([(self._tokenizer.seg_id,)])
            image = yield from self._image(set(range(image, self._num_images)))
            more = more and (self._names is None or len(used) < len(self._names))
            if (yield from self._choose([stop, comma] if more else [stop])) == stop:
                return

    # Its words

    def _choose(self, branches: Iterable[Ids]) -> Generator[frozenset[int], int, Ids]:
        """One of several id sequences, none the start of another."""
        alive = list(branches)
        depth = 0
        while True:
            token = yield frozenset(branch[depth] for branch in alive)
            alive = [branch for branch in alive if branch[depth] == token]
            depth += 1
            if len(alive[0]) == depth:
                return alive[0]

    def _image(self, images: Iterable[int]) -> Generator[frozenset[int], int, int]:
        tags = self._tokenizer.image_tag_ids
        return tags.index((yield from self._choose(tags[image] for image in images)))

    def _name(self, names: SpelledNames | None, used: Collection[str] = ()) -> Generator[frozenset[int], int, str]:
        """A name not used yet, up to and with `</p>`; with free naming any words, used ones too."""
        yield from self._choose([self._ids(f"{PHRASE_OPEN} the")[1:]])
        if names is not None:
            node = names.root
            while not node.is_end:
                below = names.below(node, used)
                token = yield frozenset(below)
                node = below[token]
            return names.names[node.start]
        tokenizer = self._tokenizer
        close = frozenset({tokenizer.phrase_close_id})
        ids: list[int] = []
        while True:
            words = tokenizer.text(ids).split()
            if len(ids) >= MAX_NAME_TOKENS and words:
                allowed = close
            else:
                allowed = tokenizer.name_ids | close if words else tokenizer.name_ids
            token = yield allowed
            if token in close:
                return " ".join(words).lower()
            ids.append(token)
