"""Annotated groups frozen for training: what people said, where it comes from, and which split it is in. No torch.

`records` is one group and its line of JSON, `splits` decides where a group goes, `store` writes, reads and purges the
folder, `report` says what the predictions were worth.
"""
