"""Log lines that a person can read: time, level, where, and one sentence."""

import logging


def configure_logging(level: str) -> None:
    """Log to stderr from `level` on; libraries that report every request stay quiet."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S", force=True
    )
    for name in ("urllib3", "huey", "filelock", "PIL", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
