"""Masks: outlines and measures."""
