"""Public part data as one kind of record, and the paper's samples built from it.

records       one object of one image with its parts, as every reader yields it
classes       which classes may stand in one group
index, writer, tables   the samples on disk, read lazily
"""
