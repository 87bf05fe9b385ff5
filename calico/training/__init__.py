"""Training: batches from annotated images, losses, auxiliary heads, the loop."""
