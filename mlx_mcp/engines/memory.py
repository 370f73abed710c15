"""How much memory models may take together, and giving it back to the system."""

import ctypes
import os
import sys

SHARE = 0.7
"""Of the machine's memory. Metal's recommended working set is between two thirds and three quarters of it."""


def default_budget() -> int:
    """Bytes."""
    return int(SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def return_freed() -> None:
    """glibc keeps what an engine's thread has freed, for threads to come; weights are too much for that."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)
