"""Memory that is not needed any more, given back to the operating system."""

import ctypes
import sys
import threading

# Set when this process has loaded libraries that it will not need any more: they cannot be unloaded, so a server has
# itself replaced by a fresh process.
HEAVY = threading.Event()


def trim() -> bool:
    """Give freed memory back; whether there was any. The C library keeps it otherwise, up to hundreds of megabytes.

    It takes some milliseconds, and what is needed again costs a little more, so it is for quiet moments. Other C
    libraries than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return give_back is not None and bool(give_back(0))
