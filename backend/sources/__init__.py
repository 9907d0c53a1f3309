"""Exports of annotation tools, which premask trains on besides data folders. Start reading at source.py."""
