"""`bowerbird serve`, with a file beside it that says what its models have taken of the processors.

`python serving.py FILE ARGUMENT...`. FILE holds one float64: seconds, all worker threads together.
"""

from __future__ import annotations

import mmap
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bowerbird.cli import main
from bowerbird.serve import service
from bowerbird.serve.batching import Batch, Scheduler


class Counted(Scheduler):
    """A scheduler that adds up what its batches have taken."""

    def __init__(self, *given: Any, watch: Callable[[Batch], None] | None = None, **named: Any) -> None:
        self._adding = threading.Lock()
        self._total = 0.0

        def both(batch: Batch) -> None:
            with self._adding:
                self._total += batch.processor
                FILE[:8] = struct.pack("<d", self._total)
            if watch is not None:
                watch(batch)

        super().__init__(*given, watch=both, **named)


place = Path(sys.argv.pop(1))
place.write_bytes(bytes(8))
with place.open("r+b") as opened:
    FILE = mmap.mmap(opened.fileno(), 8)
service.Scheduler = Counted  # type: ignore[misc]
main()
