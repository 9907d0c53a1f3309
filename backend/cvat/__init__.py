"""CVAT: the same pipeline as its auto-annotation functions."""
