"""Memory of the whole process: large blocks go back to the system at once, and what stays is not looked through."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["give_back_large_blocks", "keep_what_is_here", "without_collecting"]

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


@contextmanager
def without_collecting() -> Iterator[None]:
    """Within, cycles of references are not looked for until `keep_what_is_here`; afterwards all is as it was before.

    A service imports some 300,000 objects that stay. Python would look through all of them several times while the
    page is imported, and again whenever a quarter has come: each time nobody is answered for 0.2 s.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if collected:
            gc.enable()
        else:
            gc.disable()


def keep_what_is_here() -> None:
    """Look for cycles among what comes from now on only: everything is imported and loaded.

    What is rubbish already stays too; at a start that is one object in eighty, and not worth a third of a second.
    """
    gc.freeze()
    gc.enable()
