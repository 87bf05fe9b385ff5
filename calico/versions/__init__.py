"""Versions of the model: what a finetune made (`registry`), and whether it is better (`gate`). No torch."""
