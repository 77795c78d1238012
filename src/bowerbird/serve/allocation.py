"""Memory of large pictures is given back to the system as soon as they are done with."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["give_back_large_blocks"]

M_MMAP_THRESHOLD = -3
"""Of glibc's <malloc.h>."""

LARGE_BLOCK = 4 << 20
"""Bytes from which a block is mapped by itself."""


def give_back_large_blocks() -> None:
    """Have the C library map every large block by itself, for this whole process; other systems' are left as they are.

    glibc raises that threshold by itself whenever a mapped block is freed (mallopt(3), "dynamic mmap threshold"). From
    then on the blocks of decoded pictures, 16 MB each in Pillow, come from the arenas of the threads, where one small
    thing behind them keeps them: after a dozen pictures of 60 Mpixel the service held 783 MB, and with this 265.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
