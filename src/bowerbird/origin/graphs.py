"""One network to one ONNX file, and the file run against the network it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import EngineError, ModelFormatError
from bowerbird.models.network.engine import open_engine
from bowerbird.origin.original import Array, Feeds, Tower
from bowerbird.origin.packages import need, quiet

OPSET = 18
"""The oldest that PyTorch's exporter writes, so that most engines read it."""

LEAST_COSINE = 0.999999
LARGEST_ERROR = 1e-4
"""Absolute for values up to 1; for larger ones in proportion to the largest, as fp32 arithmetic errs."""

_ONE_FILE = 1_800_000_000
"""Bytes of weights up to which a graph is one file; protocol buffers end at 2 GiB."""

BATCH, SEQUENCE = "batch", "sequence"


@dataclass(frozen=True)
class Agreement:
    """How far an output of the ONNX graph is from the PyTorch module's, over all probes.

    Attributes:
        graph: path of the graph, relative to the model directory.
        output: its name.
        max_error: largest absolute difference of any value.
        cosine: least cosine between the rows of a batch, each flattened.
        largest: largest magnitude among PyTorch's values, which gives `max_error` its measure.
    """

    graph: str
    output: str
    max_error: float
    cosine: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether it is within `LEAST_COSINE` and `LARGEST_ERROR`; False for values that are not finite."""
        return self.cosine >= LEAST_COSINE and self.max_error <= LARGEST_ERROR * max(1.0, self.largest)


def write_graph(tower: Tower, feeds: Feeds, path: Path, opset: int) -> None:
    """Export a network with a free batch axis and, for texts, a free sequence axis.

    Args:
        tower: the network.
        feeds: one prepared picture or text, a batch of one.
        path: of the ONNX file; its folder is made.
        opset: version of the ONNX operators.

    Raises:
        ModelFormatError: the network cannot be traced.
        MissingExtraError: a package of the exporter is missing.
    """
    torch = need("torch")
    need("onnx")
    # A batch of two: an axis of length one would be taken for a constant.
    inputs = tuple(torch.from_numpy(np.concatenate([feeds[name]] * 2)) for name in tower.inputs)
    axis = {0: BATCH} if tower.fixed else {0: BATCH, 1: SEQUENCE}
    axes = tuple(axis for _ in tower.inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"input_names": list(tower.inputs), "output_names": list(tower.outputs), "opset_version": opset}
    # Whole, or below a layer that was put on it.
    script = any(isinstance(module, torch.jit.ScriptModule) for module in tower.module.modules())
    if not script:
        need("onnxscript")
    try:
        with quiet(), torch.no_grad():
            if script:  # The newer exporter traces Python code, which TorchScript no longer has.
                free = dict(zip(tower.inputs, axes, strict=True)) | {
                    name: {0: BATCH} for name in tower.outputs
                }
                module = tower.module
                if not isinstance(module, torch.jit.ScriptModule):
                    module = torch.jit.trace(module, inputs, check_trace=False)
                torch.onnx.export(module, inputs, str(path), dynamo=False, dynamic_axes=free, **names)
                return
            size = sum(weight.numel() * weight.element_size() for weight in tower.module.parameters())
            program = torch.onnx.export(
                tower.module,
                inputs,
                dynamo=True,
                optimize=True,
                verbose=False,
                dynamic_shapes=(axes,),
                **names,
            )
            _forget_the_trace(program.model.graph)
            program.save(str(path), external_data=size > _ONE_FILE)
    except Exception as error:
        raise ModelFormatError(
            f"PyTorch cannot export {tower.graph}: {_reason(error)}",
            hint="Export it with the tools of its makers, or report the model so that it can be supported.",
        ) from error


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom: the exporter wraps it in advice about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


def _forget_the_trace(graph: Any) -> None:
    """Drop what the exporter notes beside every node: Python stack traces, with the paths of this machine."""
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()


def check_graph(tower: Tower, path: Path, batches: Sequence[Feeds]) -> list[Agreement]:
    """Run a graph in ONNX Runtime and the network in PyTorch on the same batches.

    Args:
        tower: the network.
        path: of its ONNX file.
        batches: of several sizes and, for texts, of several lengths.

    Returns:
        One agreement for each output.

    Raises:
        ModelFormatError: an output differs by more than fp32 arithmetic explains, or the graph does not take a batch
            that the network takes.
    """
    engine = open_engine("onnxruntime", path, precision="fp32", streams=1)
    worst = {name: Agreement(tower.graph, name, 0.0, 1.0, 0.0) for name in tower.outputs}
    for feeds in batches:
        expected = tower.run(feeds)
        try:
            found = engine.run(feeds, tower.outputs)
        except EngineError as error:
            shapes = ", ".join(f"{name} {feeds[name].shape}" for name in tower.inputs)
            raise ModelFormatError(
                f"{tower.graph} was exported but does not take {shapes}: {error.message}",
                hint="The network decides by the shape of its input what it computes; it cannot be exported as it is.",
            ) from error
        for name, values in zip(tower.outputs, found, strict=True):
            worst[name] = _worse(worst[name], expected[name], values)
    for agreement in worst.values():
        if not agreement.holds:
            raise ModelFormatError(
                f"{tower.graph}: output {agreement.output!r} differs from PyTorch: largest error "
                f"{agreement.max_error:.3g} at values up to {agreement.largest:.3g}, least cosine "
                f"{agreement.cosine:.7f}; allowed are {LARGEST_ERROR:g} and {LEAST_COSINE}.",
                hint="Nothing was written. Try another --opset, or report the model.",
            )
    return list(worst.values())


def _worse(so_far: Agreement, expected: Array, found: Array) -> Agreement:
    if expected.shape != found.shape:
        raise ModelFormatError(
            f"{so_far.graph}: output {so_far.output!r} has shape {found.shape}, PyTorch gives {expected.shape}."
        )
    ours = found.reshape(len(found), -1).astype(np.float64)
    theirs = expected.reshape(len(expected), -1).astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(1) / np.maximum(lengths, 1e-12)).min())
    error = float(np.abs(ours - theirs).max())
    if not (np.isfinite(cosine) and np.isfinite(error)):
        cosine, error = -1.0, float("inf")
    return Agreement(
        so_far.graph,
        so_far.output,
        max(so_far.max_error, error),
        min(so_far.cosine, cosine),
        max(so_far.largest, float(np.abs(theirs).max())),
    )
