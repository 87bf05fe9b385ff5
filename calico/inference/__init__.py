"""A group in, a co-segmentation out."""
