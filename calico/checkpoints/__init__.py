"""Checkpoint files, adapters, versions of the model, and the gate between them."""
