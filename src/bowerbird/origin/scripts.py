"""One network to one TorchScript file, for programs that have PyTorch and nothing else of a model's stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import ModelFormatError
from bowerbird.origin.graphs import LARGEST_ERROR
from bowerbird.origin.original import Feeds, Tower
from bowerbird.origin.packages import need, quiet


def write_script(tower: Tower, batches: Sequence[Feeds], path: Path) -> float:
    """Trace a network, and run the file against it.

    The file takes the inputs of the tower, in their order, and gives its outputs.

    Args:
        tower: the network, on the CPU.
        batches: what it is compared on; it is traced with the longest. Of a network that takes texts of any length, a
            trace of one length may not.
        path: of the file.

    Returns:
        The largest error, of values up to 1 or in proportion to the largest.

    Raises:
        ModelFormatError: the network cannot be traced, or the trace computes something else.
    """
    torch = need("torch")

    def tensors(feeds: Feeds) -> tuple[Any, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in tower.inputs)

    longest = max(batches, key=lambda feeds: feeds[tower.inputs[0]].shape[-1])
    try:
        with quiet(), torch.no_grad():
            torch.jit.trace(tower.module, tensors(longest), check_trace=False, strict=False).save(str(path))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFormatError(
            f"PyTorch cannot trace {tower.graph}: {reason[:300]}", hint="Write it as ONNX."
        ) from error
    with quiet():
        script = torch.jit.load(str(path)).eval()
    worst = max(_error(script, tower, feeds, tensors(feeds)) for feeds in batches)
    if not worst <= LARGEST_ERROR:
        raise ModelFormatError(
            f"The trace of {tower.graph} differs from the network by {worst:.3g}: it decides by its input what it "
            "computes, which a trace cannot hold.",
            hint="Write it as ONNX.",
        )
    return worst


def _error(script: Any, tower: Tower, feeds: Feeds, inputs: tuple[Any, ...]) -> float:
    torch = need("torch")
    expected = tower.run(feeds)
    try:
        with torch.inference_mode():
            given = script(*inputs)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise ModelFormatError(
            f"The trace of {tower.graph} does not take other lengths than the one it was traced with: {reason[:200]}",
            hint="Write it as ONNX.",
        ) from error
    given = given if isinstance(given, tuple) else (given,)
    return max(
        float(np.abs(found.numpy() - expected[name]).max()) / max(1.0, float(np.abs(expected[name]).max()))
        for name, found in zip(tower.outputs, given, strict=True)
    )
