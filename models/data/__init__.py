"""Data folders and image files: read, written, split."""
