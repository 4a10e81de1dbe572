"""Boxes and lists of classes of other formats, as COCO JSON and as names."""
