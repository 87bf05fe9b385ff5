"""COCO files of named parts: `encode` and `writer` make them, `dataset` and `grouping` read them, others' too.

names         category <-> (object, part)
segmentation  mask <-> polygons and run lengths
encode        CoSegmentation -> image and annotation rows
writer        rows -> one file, resumable, the same bytes every time
rows          file -> its rows by image, checked, in little memory
dataset       rows -> annotated objects, every damage counted
grouping      annotated objects -> groups and their CoSegmentations
orientation   EXIF: what a viewer shows and what a file stores
"""
