"""How good a pipeline's masks are."""
