"""Entry points of processes. Only these modules and `backend.cli` read the environment."""
