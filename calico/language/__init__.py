"""The language of co-segmentation: questions, answers, the tokens they are spelled in (paper, sections 3 and 4).

    USER: <im_start><image><im_end> (IMAGE1), <im_start><image><im_end> (IMAGE2). Segment the common object. ASSISTANT:
    The images share <p> the dog </p> [SEG] (IMAGE1) [SEG] (IMAGE2).

`(IMAGE1)` in a text is image index 0 everywhere else. No torch here.
"""

from __future__ import annotations

import re

from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, normalize_name

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
IMAGE, IMAGE_START, IMAGE_END = "<image>", "<im_start>", "<im_end>"
SEG, PHRASE_OPEN, PHRASE_CLOSE = "[SEG]", "<p>", "</p>"


def image_tag(image: int) -> str:
    """The identifier of the image with this 0-based index: `image_tag(0)` is `(IMAGE1)`."""
    return f"(IMAGE{image + 1})"


IMAGE_TAGS = tuple(image_tag(i) for i in range(MAX_GROUP_SIZE))
SPECIAL_TOKENS = (PAD, BOS, EOS, IMAGE, IMAGE_START, IMAGE_END, SEG, PHRASE_OPEN, PHRASE_CLOSE, *IMAGE_TAGS)
SPECIAL_PATTERN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def spoken_name(name: str) -> str:
    """A name as it may stand in a question or an answer: normalised (`"a the dog"` is `"dog"`).

    Raises InputError where nothing is left, or where it contains a special token, which would end the phrase.
    """
    name = normalize_name(name)
    if not name:
        raise InputError("a name is empty; give every object and part a name")
    if match := re.search(SPECIAL_PATTERN.pattern, name, re.IGNORECASE):
        raise InputError(f"name {name!r} contains {match[0]!r}, which has a meaning of its own in answers; rename it")
    return name
