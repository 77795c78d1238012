"""Inference engines: ONNX Runtime everywhere, OpenVINO on x86. The only module that imports either.

An engine runs a graph; it knows nothing of pictures or texts. A new one implements `Engine` and gets a row in
`ENGINES`.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import EngineError

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        dtype: NumPy name of the element type.
        shape: one entry for each axis; None where the axis is free.
    """

    dtype: str
    shape: tuple[int | None, ...]


class Engine(Protocol):
    """Runs one graph. `run` may be called from several threads at once."""

    name: str
    precision: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The named outputs, in that order. Inputs that the graph does not have are ignored.

        Raises:
            EngineError: an input that the graph wants is missing or of another type or shape, the graph has no
                such output, or the engine fails.
        """
        ...


def _taken(engine: Engine, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """The inputs that the graph has, checked: OpenVINO fills a missing one with zeros and converts any type."""
    for name in outputs:
        if name not in engine.outputs:
            raise EngineError(f"The graph has no output {name!r}; it has {', '.join(engine.outputs)}.")
    for name, spec in engine.inputs.items():
        if name not in feeds:
            raise EngineError(f"The graph wants an input {name!r}, which this kind of model does not give.")
        if feeds[name].dtype.name != spec.dtype:
            raise EngineError(f"The graph wants {name!r} in {spec.dtype}, not in {feeds[name].dtype.name}.")
    return {name: feeds[name] for name in engine.inputs}


class OnnxRuntime:
    """ONNX Runtime on the CPU, in fp32.

    Raises:
        EngineError: the graph cannot be loaded.
    """

    precisions = ("fp32",)

    def __init__(self, graph: Path, *, precision: str, streams: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        # A run takes the thread that calls it and no other: batches run side by side, which is a third faster on a
        # CPU than one batch spread over all cores. `streams` threads may call, and no pool of its own is made.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime cannot load {graph}: {_line(error)}", hint="Fetch the model again."
            ) from error
        self.name = self.label()
        self.precision = precision
        self.inputs: Mapping[str, TensorSpec] = {i.name: _ort_spec(i) for i in self._session.get_inputs()}
        self.outputs: Mapping[str, TensorSpec] = {o.name: _ort_spec(o) for o in self._session.get_outputs()}

    @staticmethod
    def label() -> str:
        """Name and version."""
        import onnxruntime as ort

        return f"onnxruntime {ort.__version__}"

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See `Engine.run`."""
        taken = _taken(self, feeds, outputs)
        try:
            return list(self._session.run(list(outputs), taken))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {_line(error)}") from error


_ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


def _ort_spec(node: Any) -> TensorSpec:
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return TensorSpec(_ORT_TYPES.get(node.type, node.type), shape)


class OpenVino:
    """OpenVINO on the CPU, in fp32, or in bf16 where the processor multiplies it natively.

    Raises:
        EngineError: the graph cannot be loaded.
    """

    precisions = ("fp32", "bf16")

    def __init__(self, graph: Path, *, precision: str, streams: int) -> None:
        ov = _import_openvino()
        core = ov.Core()
        config = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
        }
        try:
            self._compiled = core.compile_model(str(graph), "CPU", config)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot load {graph}: {_line(error)}", hint="Fetch the model again."
            ) from error
        self._requests = threading.local()
        self.name = self.label()
        self.precision = precision
        self.inputs: Mapping[str, TensorSpec] = {
            port.get_any_name(): _ov_spec(port) for port in self._compiled.inputs
        }
        self.outputs: Mapping[str, TensorSpec] = {
            port.get_any_name(): _ov_spec(port) for port in self._compiled.outputs
        }

    @staticmethod
    def label() -> str:
        """Name and version."""
        return f"openvino {_import_openvino().__version__.split('-')[0]}"

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See `Engine.run`."""
        taken = _taken(self, feeds, outputs)
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        try:
            results = request.infer(taken, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_line(error)}") from error
        # The request's buffers are reused by its next run: hand out copies.
        return [np.array(results[name]) for name in outputs]


def _ov_spec(port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else side.get_length() for side in port.partial_shape)
    return TensorSpec(np.dtype(port.element_type.to_dtype()).name, shape)


ENGINES: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def open_engine(kind: str, graph: Path, *, precision: str = "fp32", streams: int = 1) -> Engine:
    """Load a graph.

    Args:
        kind: a key of `ENGINES`.
        graph: the ONNX file.
        precision: `fp32` or `bf16`.
        streams: how many runs may go on at once, each in one thread.

    Raises:
        EngineError: the engine is unknown or not installed, does not have this precision, or refuses the graph.
    """
    engine = ENGINES.get(kind)
    if engine is None:
        raise EngineError(f"There is no engine {kind!r}.", hint=f"Known: {', '.join(ENGINES)}.")
    if precision not in engine.precisions:
        raise EngineError(
            f"{kind} does not run in {precision}.", hint=f"It has: {', '.join(engine.precisions)}."
        )
    try:
        return engine(graph, precision=precision, streams=streams)
    except ImportError as error:
        raise EngineError(
            f"The engine {kind} is not installed here.", hint=f"Run: pip install {kind}"
        ) from error


def has_native_bf16() -> bool:
    """Whether this processor multiplies bf16 natively, as OpenVINO sees it. False where OpenVINO is missing."""
    try:
        # Saves importing OpenVINO, only to be told no, at every start on most machines.
        if "bf16" not in Path("/proc/cpuinfo").read_text("ascii", "replace"):
            return False
    except OSError:
        pass  # No Linux: OpenVINO has to be asked.
    try:
        ov = _import_openvino()
    except ImportError:
        return False
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _import_openvino() -> Any:
    """Import OpenVINO without its model converter.

    Importing the converter sends a usage event over the network, unasked, from a forked process; nothing may
    leave a user's machine because Bowerbird was started. It is also most of the import time. OpenVINO itself
    allows for a missing converter, and whoever imports `openvino.tools.ovc` afterwards still gets it.
    """
    converter = "openvino.tools.ovc"
    if "openvino" in sys.modules or converter in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[converter] = None  # type: ignore[assignment]  # this is how Python spells "cannot be imported"
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[converter]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
