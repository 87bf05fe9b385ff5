"""Public part data as one kind of record, and the paper's samples built from it.

records                      one object of one image with its parts, as every reader yields it
paco, partimagenet, ade20k   the sources' annotation files
released                     the records that the authors released
assembling                   what they share: rows of `calico.coco.rows` -> one record
classes, groups              which classes may be compared; which images are looked at together, and what is asked
builder, reading, sources    annotation files -> an index; released_index: the released pairs -> one
index, tables, writer        an index on disk, read lazily
statistics, page             what is in it
"""
