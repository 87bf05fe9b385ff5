"""Public part data as one kind of record, and the paper's samples built from it.

records       one object of one image with its parts, as every reader yields it
paco, partimagenet, ade20k   the sources' own files -> records
released      the released MixedParts records -> pairs of records
coco_rows, assembling   what they share: rows of a large file by image; rows -> one record
classes       which classes may stand in one group
index, writer, tables   the samples on disk, read lazily
"""
