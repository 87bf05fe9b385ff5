"""COCO files and tasks of Label Studio, both ways."""
