"""Whether this machine has room for a network, before it is built."""

import os
from math import inf

from models import Architecture, size_bytes

GIGABYTE = 1_000_000_000


def shortfall(architecture: Architecture) -> str:
    """What the network takes of memory and what there is, where that is less; empty where there is room for it."""
    if ":" in architecture.model:
        # A function of the user's need not know of tensors without numbers.
        return ""
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        size = size_bytes(architecture)
    except (RuntimeError, TypeError):
        # Torch's words for numbers that no tensor can have.
        size = inf
    if size <= room:
        return ""
    takes = f"{size / GIGABYTE:,.0f} GB" if size < inf else "more bytes than can be counted"
    width = f" of width {architecture.width}" if architecture.width else ""
    return (
        f"{architecture.model!r}{width} takes {takes}, and this machine has "
        f"{room / GIGABYTE:,.0f} GB of memory. Set them lower."
    )
