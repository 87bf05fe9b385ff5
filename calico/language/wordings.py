"""The sentences of an answer around its phrases: the canonical ones first, then those that only training sees."""

from __future__ import annotations

from calico.values import SubTask

# Pairs of (one name follows, several follow). The canonical wording does not depend on their number, so that a model
# need not count before it names. Only NONES may contain a word that `parse_answer` takes for "none".
OBJECTS_LEADS = (
    ("The images show", "The images show"),
    ("The object is", "The objects are"),
    ("There is", "There are"),
    ("The images contain", "The images contain"),
    ("I can see", "I can see"),
)
LEADS = {
    SubTask.COMMON_OBJECT: (
        ("The images share", "The images share"),
        ("The common object is", "The common objects are"),
        ("The shared object is", "The shared objects are"),
        ("The images have in common", "The images have in common"),
    ),
    SubTask.COMMON_PARTS: (
        ("They share", "They share"),
        ("The common part is", "The common parts are"),
        ("The shared part is", "The shared parts are"),
        ("They have in common", "They have in common"),
    ),
    SubTask.UNIQUE_PARTS: (
        ("They differ in", "They differ in"),
        ("The unique part is", "The unique parts are"),
        ("The part found in only one image is", "The parts found in only one image are"),
        ("Only one image shows", "Only one image shows"),
    ),
}
NONES = {
    SubTask.COMMON_OBJECT: (
        "The images share no object.",
        "There is no common object.",
        "The images have no object in common.",
        "There are no common objects.",
    ),
    SubTask.COMMON_PARTS: (
        "They share no part.",
        "There are no common parts.",
        "There is no common part.",
        "They have no parts in common.",
    ),
    SubTask.UNIQUE_PARTS: (
        "They differ in no part.",
        "There are no unique parts.",
        "There is no unique part.",
        "No part is found in only one image.",
    ),
}
