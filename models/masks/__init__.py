"""Masks: outlines, rasterising, connected components and measures."""
