"""Model versions: published, promoted, served."""
