"""Which engine and precision a tower runs in, decided by a probe on photographs and sentences.

Reduced precision is decided tower by tower: bf16 is free for transformers and not for small convolutional
networks, and noise as a probe flatters (`docs/precision.md`). An engine other than the reference is measured in fp32
too: some get a graph wrong. The result is cached for each model, engine and processor.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, EngineError
from bowerbird.models.network.engine import ENGINES, Engine, has_native_bf16, open_engine
from bowerbird.settings import settings

POLICIES = ("auto", "exact", "fast")

AUTO_BOUND = 0.999
"""`auto` takes bf16 only where every probe keeps at least this cosine to fp32."""

FAST_BOUND = 0.0
"""`fast` takes bf16 whatever it costs, unless it is broken (a drift of -1)."""

FP32_BOUND = 0.99999
"""Two engines that both run a graph in fp32 agree within this cosine, or one of them has got it wrong."""

REFERENCE = "onnxruntime"
"""The engine that others are measured against, and that is fallen back to."""

Probe = Callable[[Engine], list[NDArray[np.float32]]]
"""Runs a tower on the shipped probes with an engine; one (n, dim) array for each published output."""

log = logging.getLogger("bowerbird")


@dataclass(frozen=True)
class Choice:
    """What a tower runs in, and why.

    Attributes:
        engine: a key of `ENGINES`.
        precision: `fp32` or `bf16`.
        drift: least cosine over the probes to fp32 in the reference engine; 1.0 for that itself.
        reason: one line for people.
    """

    engine: str
    precision: str
    drift: float
    reason: str


Opener = Callable[[str, str], Engine]
"""Opens the tower's graph in an engine (a key of `ENGINES`) and a precision (`fp32` or `bf16`)."""


def choose(
    policy: str,
    engine: str,
    *,
    graph: Path,
    fingerprint: str,
    probe: Probe,
    streams: int = 1,
    expose: Sequence[str] = (),
) -> tuple[Choice, Engine]:
    """Decide for a graph on this processor, and return the engine that was decided for.

    Args:
        policy: `exact` is fp32; `auto` takes bf16 where the processor has it and the probe stays within
            `AUTO_BOUND`; `fast` takes bf16 wherever the processor has it, and reports what it costs.
        engine: a key of `ENGINES`, or `auto`.
        graph: the ONNX file.
        fingerprint: of everything that decides what the probe computes; part of the cache key.
        probe: see `Probe`.
        streams: how many runs may go on at once; see `open_engine`.
        expose: intermediate tensors to be had as outputs; see `open_engine`.

    Raises:
        BowerbirdError: no such policy.
        EngineError: the engine is not there or refuses the graph.
    """
    check_names(policy, engine)
    kind = _suited(policy) if engine == "auto" else engine

    def opened(kind: str, precision: str) -> Engine:
        return open_engine(kind, graph, precision=precision, streams=streams, expose=expose)

    has_bf16 = policy != "exact" and "bf16" in ENGINES[kind].precisions and has_native_bf16()
    return decide(
        policy, kind, opened, probe, fingerprint=fingerprint, has_bf16=has_bf16, may_refuse=engine == "auto"
    )


def decide(
    policy: str,
    kind: str,
    opened: Opener,
    probe: Probe,
    *,
    fingerprint: str,
    has_bf16: bool,
    may_refuse: bool = False,
) -> tuple[Choice, Engine]:
    """The decision of `choose`, given how to open the graph and whether bf16 is to be had.

    What is wanted most is tried first: bf16, then fp32 in the same engine, then the reference. Each but the last is
    taken only where the probes keep its bound. An engine that cannot run the graph at all gives way too where
    `may_refuse` says that nobody asked for just that one.
    """
    trial = _Trial(opened, probe, fingerprint, may_refuse)
    refused = "exact was asked for" if policy == "exact" else f"{kind} has no bf16 on this processor"
    if has_bf16 and policy != "exact":
        drift = trial.drift(kind, "bf16")
        if drift >= (AUTO_BOUND if policy == "auto" else FAST_BOUND):
            reason = f"bf16 keeps cosine {drift:.5f} to fp32 on the probes"
            return Choice(kind, "bf16", drift, reason), trial.engine(kind, "bf16")
        refused = f"bf16 would cost cosine {drift:.5f}"
    if kind == REFERENCE:
        return Choice(kind, "fp32", 1.0, refused), trial.engine(kind, "fp32")
    drift = trial.drift(kind, "fp32")
    if drift >= FP32_BOUND:
        return Choice(kind, "fp32", drift, refused), trial.engine(kind, "fp32")
    reason = f"{kind} in fp32 is at cosine {drift:.5f} to {REFERENCE} on the probes, which is wrong"
    log.warning("%s; %s runs it instead", reason, REFERENCE)
    return Choice(REFERENCE, "fp32", 1.0, reason), trial.engine(REFERENCE, "fp32")


def require_finite(engine: Engine, graph: Path, *, fingerprint: str, probe: Probe) -> None:
    """Refuse a graph of reduced precision that overflows on the shipped probes; remembered like a drift.

    Raises:
        EngineError: it gives a value that is not a number.
    """
    cache = _cache_path(fingerprint, REFERENCE, f"finite in {engine.name}, {engine.precision}")
    drift = _read_drift(cache)
    if drift is None:
        found = probe(engine)
        drift = drift_between(found, found)
        _write_drift(cache, drift)
    if drift < 0:
        raise EngineError(
            f"{graph} gives values that are not numbers on the shipped photographs and sentences: it overflows in its "
            "reduced precision.",
            hint="Use the plain graph (no variant), or one in fp32.",
        )


class _Trial:
    """Opens each engine once, and measures it against the reference once for all processes."""

    def __init__(self, opened: Opener, probe: Probe, fingerprint: str, may_refuse: bool) -> None:
        self._opened = opened
        self._may_refuse = may_refuse
        self._probe = probe
        self._fingerprint = fingerprint
        self._engines: dict[tuple[str, str], Engine] = {}
        self._reference: list[NDArray[np.float32]] | None = None

    def engine(self, kind: str, precision: str) -> Engine:
        key = (kind, precision)
        if key not in self._engines:
            self._engines[key] = self._opened(kind, precision)
        return self._engines[key]

    def drift(self, kind: str, precision: str) -> float:
        """Least cosine to fp32 in the reference engine; -1.0 where bf16 is refused or broken."""
        cache = _cache_path(self._fingerprint, kind, precision)
        drift = _read_drift(cache)
        if drift is None:
            if self._reference is None:
                self._reference = self._probe(self.engine(REFERENCE, "fp32"))
            try:
                drift = drift_between(self._reference, self._probe(self.engine(kind, precision)))
            except EngineError:
                if precision == "fp32" and not self._may_refuse:
                    raise
                return (
                    -1.0
                )  # Not remembered: it may be of this moment, or of an engine somebody asks for by name.
            _write_drift(cache, drift)
        return drift


def check_names(policy: str, engine: str) -> None:
    """Refuse a policy or an engine that does not exist.

    Raises:
        BowerbirdError: no such policy.
        EngineError: no such engine.
    """
    if policy not in POLICIES:
        raise BowerbirdError(f"There is no precision {policy!r}.", hint=f"Use one of {', '.join(POLICIES)}.")
    if engine != "auto" and engine not in ENGINES:
        raise EngineError(f"There is no engine {engine!r}.", hint=f"Use auto, {' or '.join(ENGINES)}.")


def _suited(policy: str) -> str:
    """OpenVINO where bf16 is to be had, twice as fast there; elsewhere the two run alike (benchmarks/LOG.md) and
    ONNX Runtime loads in a third of the time.
    """
    return "openvino" if policy != "exact" and has_native_bf16() else "onnxruntime"


def drift_between(reference: list[NDArray[np.float32]], candidate: list[NDArray[np.float32]]) -> float:
    """The least cosine between the rows of two runs, over all outputs; -1.0 where a value is not finite."""
    least = 1.0
    for exact, other in zip(reference, candidate, strict=True):
        if not (np.isfinite(exact).all() and np.isfinite(other).all()):
            return -1.0
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
        least = min(least, float(((exact * other).sum(1) / np.maximum(lengths, 1e-12)).min()))
    return least


def _cache_path(fingerprint: str, kind: str, precision: str) -> Path:
    labels = (ENGINES[REFERENCE].label(), ENGINES[kind].label())
    key = "|".join((fingerprint, *labels, platform.machine(), _processor(), precision, "3"))
    return settings().cache_path / "probes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _read_drift(path: Path) -> float | None:
    """What a probe found before; None when there was none, or what it left cannot be trusted."""
    try:
        drift = float(json.loads(path.read_text("utf-8"))["drift"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return drift if -1.0 <= drift <= 1.0 + 1e-5 else None  # NaN is not


def _write_drift(path: Path, drift: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"drift": drift}), "utf-8")
    except OSError:
        pass  # A cache that cannot be written costs the probe again, nothing else.


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")  # the last three: ARM
    return "|".join(sorted({line for line in lines if line.startswith(wanted)}))


def probe_pictures() -> list[bytes]:
    """The photographs shipped for probing, as JPEG files."""
    folder = files("bowerbird.models") / "probe"
    return [
        entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".jpg")
    ]


def probe_sentences() -> list[str]:
    """The sentences shipped for probing."""
    return (files("bowerbird.models") / "probe" / "sentences.txt").read_text("utf-8").splitlines()


def describe(choice: Choice) -> dict[str, str | float]:
    """A choice as plain data, for manifests and people."""
    return asdict(choice)
