"""Which names of a long vocabulary a question lists: those that the model itself thinks likeliest for the images.

A list of thousands of names fits no context and costs its square. So decoding is held to the tree of all names, and the
list is bounded in tokens. What goes into it is asked of the model beforehand: how likely each name's first token is
where an object's name stands, and, with the likeliest object named, where a part's name stands: two short prefills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from calico.inference.answered_masks import Asked
from calico.language import PHRASE_CLOSE, PHRASE_OPEN, SEG, image_tag
from calico.language.names import SpelledNames
from calico.language.questions import canonical_question, render_prompt
from calico.language.tokenizer import CalicoTokenizer
from calico.language.wordings import LEADS, OBJECTS_LEADS
from calico.model.calico import ImageFeatures
from calico.model.generation import LanguageSteps, Prompt, next_token_log_probs
from calico.values import SubTask

LIST_TOKENS = 48  # of the names in a question: about fifteen, as many as training lists


@dataclass(frozen=True)
class LikelyNames:
    """num_queries, system: as prompts are rendered for the model. list_tokens: that a question's names may take."""

    steps: LanguageSteps
    tokenizer: CalicoTokenizer
    num_queries: int
    system: str = ""
    list_tokens: int = LIST_TOKENS

    def listed(
        self, asked: Sequence[Asked], names: Sequence[SpelledNames | None], features: ImageFeatures
    ) -> list[tuple[str, ...]]:
        """For each group the names that its questions list: all where they fit, the likeliest where they do not.

        asked: one question of each group. names: its vocabulary, None for free naming.
        """
        fitting = [() if own is None else own.fitting(self.list_tokens) for own in names]
        long = [number for number, found in enumerate(fitting) if found is None]
        if long:
            vocabularies = [own for number in long if (own := names[number]) is not None]
            groups = [asked[number] for number in long]
            scores = self._scores(groups, vocabularies, features)
            for number, own, found in zip(long, vocabularies, scores, strict=True):
                fitting[number] = own.fitting(self.list_tokens, found)
        return [found or () for found in fitting]

    def _scores(
        self, groups: Sequence[Asked], vocabularies: Sequence[SpelledNames], features: ImageFeatures
    ) -> list[dict[str, float]]:
        """Of each group each name's score: the log-probability of its first token as an object or as a part."""
        opening = f"{OBJECTS_LEADS[0][0]} {PHRASE_OPEN} the"
        as_object = self._first_tokens(groups, [opening] * len(groups), vocabularies, features)
        texts = []
        for group, scores in zip(groups, as_object, strict=True):
            name = max(scores, key=scores.__getitem__)
            shown = " ".join(f"{SEG} {image_tag(image)}" for image in range(len(group.images)))
            lead = LEADS[SubTask.COMMON_PARTS][0][0]
            texts.append(f"{opening} {name} {PHRASE_CLOSE} {shown}. {lead} {PHRASE_OPEN} the")
        as_part = self._first_tokens(groups, texts, vocabularies, features)
        return [
            {name: max(score, parts[name]) for name, score in objects.items()}
            for objects, parts in zip(as_object, as_part, strict=True)
        ]

    def _first_tokens(
        self,
        groups: Sequence[Asked],
        texts: Sequence[str],
        vocabularies: Sequence[SpelledNames],
        features: ImageFeatures,
    ) -> list[dict[str, float]]:
        """Each name's log-probability by its first token behind `the`. texts: what an answer has said so far."""
        prompts = []
        for group, text in zip(groups, texts, strict=True):
            question = canonical_question(SubTask.COMMON_PARTS, len(group.images)).text
            prompt = render_prompt(question, len(group.images), system=self.system)
            encoded = self.tokenizer.encode_prompt(prompt, self.num_queries)
            ids = [*encoded.ids, *self.tokenizer.ids(text)]
            prompts.append(Prompt(ids, encoded.image_positions, group.images))
        log_probs = next_token_log_probs(self.steps, features, prompts, self.tokenizer.pad_id)
        found = []
        for row, names in zip(log_probs, vocabularies, strict=True):
            start = len(self.tokenizer.ids(f"{PHRASE_OPEN} the")) - 1
            first = torch.tensor([ids[start] for ids in names.ids.values()], device=row.device)
            found.append(dict(zip(names.ids, row[first].tolist(), strict=True)))
        return found
