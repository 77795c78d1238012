"""Inference engines: ONNX Runtime everywhere, OpenVINO on x86. The only module that imports either.

An engine runs a graph; it knows nothing of pictures or texts. A new one implements `Engine` and gets a row in
`ENGINES`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import EngineError, ModelFormatError
from bowerbird.models.network.graph import TensorSpec, load_graph, weight_files

Array = NDArray[Any]
Opened = TypeVar("Opened")


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

    def __init__(self, graph: Path, *, precision: str, streams: int, expose: Sequence[str] = ()) -> None:
        def of_model(model: Any, files: Mapping[str, Path], added: Sequence[str]) -> Any:
            if not files:
                return self._session_of(_with_outputs(graph, added))
            # It wants weights inside one folder, named relative to it.
            folder = Path(os.path.commonpath([path.parent for path in files.values()]))
            names = {name: path.relative_to(folder).as_posix() for name, path in files.items()}
            return self._session_of(_relocated(model, names), folder)

        self._session = _opened(graph, expose, self._session_of, of_model, "ONNX Runtime")
        self.name = self.label()
        self.precision = precision
        self.inputs: Mapping[str, TensorSpec] = {i.name: _ort_spec(i) for i in self._session.get_inputs()}
        self.outputs: Mapping[str, TensorSpec] = {o.name: _ort_spec(o) for o in self._session.get_outputs()}

    @staticmethod
    def _session_of(graph: str | bytes, weights: Path | None = None) -> Any:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        # A run takes the thread that calls it and no other: batches run side by side, which is a third faster on a
        # CPU than one batch spread over all cores. `streams` threads may call, and no pool of its own is made.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if weights is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(weights)
            )
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @staticmethod
    def label() -> str:
        """Name and version."""
        return f"onnxruntime {_onnxruntime().__version__}"

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
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(bfloat16)": "bfloat16",
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

    def __init__(self, graph: Path, *, precision: str, streams: int, expose: Sequence[str] = ()) -> None:
        core = _import_openvino().Core()
        config = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
        }

        def of_file(path: str) -> Any:
            return core.compile_model(path, "CPU", config)

        def of_model(model: Any, files: Mapping[str, Path], added: Sequence[str]) -> Any:
            try:
                # From its file, weights are mapped into memory rather than read.
                read = core.read_model(str(graph))
                read.add_outputs(list(added))
            except RuntimeError:
                # Weights are links to another folder, or a name was lost where two tensors are one.
                read = core.read_model(_inlined(model, files) if files else _with_outputs(graph, added))
            return core.compile_model(read, "CPU", config)

        self._compiled = _opened(graph, expose, of_file, of_model, "OpenVINO")
        self._requests = threading.local()
        self.name = self.label()
        self.precision = precision
        self.inputs: Mapping[str, TensorSpec] = {
            name: _ov_spec(port) for port in self._compiled.inputs for name in _ov_names(port)
        }
        ports = {name: port for port in self._compiled.outputs for name in _ov_names(port, expose)}
        self.outputs: Mapping[str, TensorSpec] = {name: _ov_spec(port) for name, port in ports.items()}
        self._ports = ports

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
        return [np.array(results[self._ports[name]]) for name in outputs]


def _ov_names(port: Any, expose: Sequence[str] = ()) -> list[str]:
    """What the ONNX graph calls a port. OpenVINO has several names for it where nothing tells two tensors apart."""
    node = port.get_node()
    if node.get_type_name() == "Parameter":
        return [node.get_friendly_name()]
    name, is_declared, _ = node.get_friendly_name().partition("/sink_port_")
    names = {name} if is_declared else set()
    return sorted(names | port.names.intersection(expose)) or [port.get_any_name()]


def _ov_spec(port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else side.get_length() for side in port.partial_shape)
    return TensorSpec(np.dtype(port.element_type.to_dtype()).name, shape)


def _opened(
    graph: Path,
    expose: Sequence[str],
    of_file: Callable[[str], Opened],
    of_model: Callable[[Any, Mapping[str, Path], Sequence[str]], Opened],
    engine: str,
) -> Opened:
    """A graph opened by an engine, from its file as it lies there wherever that will do.

    Args:
        graph: the ONNX file.
        expose: tensors to make outputs.
        of_file: opens a file.
        of_model: opens an `onnx.ModelProto`, given the files of its weights by the names it knows them by, and the
            outputs that it has and its file has not.
        engine: its name, for messages.

    Raises:
        EngineError: the engine refuses the graph, or a file of weights is missing or too short.
    """
    try:
        if expose:
            model = load_graph(graph)
            files = _weight_files(model, graph)
            return of_model(model, files, _expose(model, graph, expose))
        try:
            return of_file(str(graph))
        except ImportError:
            raise
        except Exception:
            # Engines refuse weights outside the graph's folder. A download cache keeps graph and weights as links to
            # files elsewhere: the engine is told where these are.
            model = load_graph(graph)
            files = _weight_files(model, graph)
            if all(path.parent == graph.parent for path in files.values()):
                raise
            return of_model(model, files, ())
    except (EngineError, ImportError):
        raise
    except ModelFormatError as error:
        raise EngineError(error.message, hint=error.hint) from error
    except Exception as error:  # Both engines raise what they like.
        raise EngineError(
            f"{engine} cannot load {graph}: {_line(error)}", hint="Fetch the model again."
        ) from error


def _weight_files(model: Any, graph: Path) -> dict[str, Path]:
    """The files that hold a graph's weights, by the names the graph knows them by, links resolved.

    Raises:
        EngineError: one is missing or too short.
        ModelFormatError: one is named so that it could lie anywhere.
    """
    found = {}
    for name, size in weight_files(model, str(graph)).items():
        path = graph.parent / name.replace("\\", "/")
        if not path.is_file():
            raise EngineError(
                f"{graph} keeps its weights in {path}, which is missing.", hint="Fetch the model again."
            )
        if path.stat().st_size < size:
            raise EngineError(
                f"{path} has {path.stat().st_size} bytes of the {size} that {graph.name} keeps there.",
                hint="Fetch the model again.",
            )
        found[name] = path.resolve()
    return found


def _relocated(model: Any, names: Mapping[str, str]) -> bytes:
    """The model with its files of weights under other names."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names[entry.value]
    serialized: bytes = model.SerializeToString()
    return serialized


def _inlined(model: Any, files: Mapping[str, Path]) -> bytes:
    """The model with its weights inside."""
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" not in entries:
            continue
        with files[entries["location"]].open("rb") as file:
            file.seek(int(entries.get("offset", 0)))
            tensor.raw_data = file.read(int(entries.get("length", -1)))
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    if model.ByteSize() >= 2**31:
        raise EngineError(
            "OpenVINO takes more than 2 GB of weights only from a file beside the graph.",
            hint="Use onnxruntime, or put the files themselves in place of links to them.",
        )
    serialized: bytes = model.SerializeToString()
    return serialized


def _with_outputs(graph: Path, added: Sequence[str]) -> bytes:
    """The file of a graph with more outputs. Protobuf joins what is appended, so its weights need not be written."""
    import onnx

    more = onnx.ModelProto()
    for name in added:
        more.graph.output.add(name=name)
    return graph.read_bytes() + bytes(more.SerializeToString())


def _expose(model: Any, graph: Path, names: Sequence[str]) -> list[str]:
    """Make tensors outputs, but for those that are already. Returns the new ones."""
    made = {name for node in model.graph.node for name in node.output}
    there = {value.name for value in model.graph.output}
    for name in names:
        if name not in made:
            raise EngineError(f"{graph} computes no tensor {name!r}.")
    added = [name for name in dict.fromkeys(names) if name not in there]
    for name in added:
        model.graph.output.add(name=name)
    return added


ENGINES: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def open_engine(
    kind: str, graph: Path, *, precision: str = "fp32", streams: int = 1, expose: Sequence[str] = ()
) -> Engine:
    """Load a graph.

    Args:
        kind: a key of `ENGINES`.
        graph: the ONNX file.
        precision: `fp32` or `bf16`.
        streams: how many runs may go on at once, each in one thread.
        expose: names of tensors inside the graph to be had as outputs besides those it has.

    Raises:
        EngineError: the engine is unknown or not installed, does not have this precision, or refuses the graph; the
            graph has no such tensor; a file of its weights is missing or too short.
    """
    engine = ENGINES.get(kind)
    if engine is None:
        raise EngineError(f"There is no engine {kind!r}.", hint=f"Known: {', '.join(ENGINES)}.")
    if precision not in engine.precisions:
        raise EngineError(
            f"{kind} does not run in {precision}.", hint=f"It has: {', '.join(engine.precisions)}."
        )
    try:
        return engine(graph, precision=precision, streams=streams, expose=expose)
    except ImportError as error:
        raise EngineError(
            f"The engine {kind} is not installed here.", hint=f"Run: pip install {kind}"
        ) from error


def open_quantised(graph: Path, folder: Path) -> Engine:
    """The graph with weights of 8 bits and activations quantised as they come (dynamic INT8), in ONNX Runtime.

    Never chosen to embed with: it costs up to half of the cosine, and vectors depend on the rest of the batch. It is
    here so that its cost can be shown.

    Args:
        graph: the ONNX file.
        folder: where the quantised graph is written.

    Raises:
        EngineError: the quantiser fails, as it does on graphs with operators that it does not know.
    """
    import onnx

    _onnxruntime()
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    folded, path = folder / "folded.onnx", folder / "int8.onnx"
    try:
        # Weights that are stored in 16 bits come through a cast, which the quantiser does not look behind.
        quant_pre_process(graph, folded, skip_symbolic_shape=True)
        model = onnx.load(folded)
        # It turns weights round, and then stumbles over the shapes that the exporter noted of them.
        del model.graph.value_info[:]
        quantize_dynamic(model, path, weight_type=QuantType.QUInt8)
    except Exception as error:  # whatever it likes to raise
        raise EngineError(f"The graph cannot be quantised: {_line(error)}") from error
    return open_engine("onnxruntime", path)


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


def _onnxruntime() -> Any:
    """ONNX Runtime, without its telemetry: later releases send usage events, and keep an id of the machine for them."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


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
    """What an engine says, in one line, without the places in its own source."""
    text = " ".join(str(error).split())
    return re.sub(r"Exception from \S+:\d+: |Check '.*?' failed at \S+:\d+: ", "", text)[:300]
