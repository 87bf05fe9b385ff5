"""Public part data as one kind of record, and the paper's samples built from it.

records       one object of one image with its parts, as every reader yields it
"""
