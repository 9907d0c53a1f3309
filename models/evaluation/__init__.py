"""Measures of a pipeline's masks, and reports of them."""
