"""Checks of a backend and of its way to Label Studio."""
