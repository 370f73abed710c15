"""How much memory models may take together."""

import os

SHARE = 0.7
"""Of the machine's memory. Metal's recommended working set is between two thirds and three quarters of it."""


def default_budget() -> int:
    """Bytes."""
    return int(SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
