"""Words that the small model's tokenizer is trained on, and invented names for copy training."""

from __future__ import annotations

from functools import cache

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DRAWN_OBJECTS = _words("airplane bicycle bird car chair dog knife lamp mug scissors stool table teapot truck")
DRAWN_PARTS = _words(
    "arm back base beak blade body drawer ear frame handle handlebar head leg lid light pole seat shade spout "
    "tail top wheel window wing"
)
# Names as in part data sets of photographs: their syllables make unseen names short.
OTHER_NAMES = _words(
    "antenna apron armrest backrest barrel basket bear belt bench blender boat bolt book bottle bottom bowl box "
    "bracelet bristles broom bucket buckle bumper bus button cabinet cable camera can cap cat cheek chain clasp "
    "clock collar cord counter cover cow crate cuff cup cushion desk dial dish door drill drum earphone eye face "
    "fan fastener faucet fin finger fingerboard fish flap foot fork glass goat grille grip guitar gull hammer "
    "hand hat headboard headlight headstock heel hem hinge hole hood hook horn horse hub inside insole jar jaw "
    "jug key keyboard kettle knee knob lace ladder laptop latch lens lever lip lizard loop mast mirror monkey "
    "motor mouse mouth neck nose nozzle oven ottoman outsole paddle pan paw pedal pen pencil petal phone pillow "
    "pipe plate plier pocket rack rail remote rib rim roof rope rotor rudder runner saddle sail sandal scarf "
    "screen shelf shin ship shoe shoulder side sink skirt sleeve slipper snake soap sock sofa sole spatula "
    "speaker spoon spring stand steering stem step stick strap string sweater switch swivel taillight telephone "
    "tip toe tongue tooth towel train tray trunk turnbuckle tv umbrella vase vest visor wallet wardrobe watch "
    "welt wheelbase whisker whistle windowpane windshield wire wrench yoke zipper"
)

_ONSETS = _words("b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sl sp st str t th tr v w z")
_VOWELS = _words("a e i o u ai ea ee oa oo ou")
_CODAS = ("", "", "", *_words("b ck d g k l ll m n nd ng nt p r rd rt s st t x"))


@cache
def known_names() -> frozenset[str]:
    """Every real name of this file."""
    return frozenset((*DRAWN_OBJECTS, *DRAWN_PARTS, *OTHER_NAMES))


def pseudo_word(rng: np.random.Generator) -> str:
    """A pronounceable invented name of one to three syllables, never a name of this file."""
    while True:
        num_syllables = rng.choice((1, 1, 2, 2, 3))
        sounds = (str(rng.choice(choices)) for _ in range(num_syllables) for choices in (_ONSETS, _VOWELS, _CODAS))
        word = "".join(sounds)
        if len(word) > 3 and word not in known_names():
            return word


_SIDES = {"left": "right", "right": "left"}


def mirrored_name(name: str) -> str:
    """`front left wheel` -> `front right wheel`: what a thing is called in a mirror."""
    return " ".join(_SIDES.get(word, word) for word in name.split())
