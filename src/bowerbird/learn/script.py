"""A fitted model as TorchScript: a whole tower where its PyTorch network is at hand, else the head alone.

A model directory holds ONNX graphs, which cannot be turned back into PyTorch. So a tower is traced from the network
that it was exported from, with the head on it; where that is not here, what was learned is still a network of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import LearnError, MissingExtraError, ModelError
from bowerbird.learn.heads import EPSILON, Head, Heads, Vectors
from bowerbird.learn.network import network_of
from bowerbird.learn.proof import LEAST_COSINE, Proof, rows_of
from bowerbird.models.encoder import Encoder
from bowerbird.models.network.precision import probe_pictures
from bowerbird.origin.original import Feeds, Original, Tower
from bowerbird.origin.packages import need, quiet
from bowerbird.origin.request import Request
from bowerbird.origin.source import open_source

Pair = tuple[Feeds, Vectors]
"""A batch, by the names of its inputs, and the vectors (n, dim) that are to come out."""


@dataclass(frozen=True)
class Script:
    """A TorchScript file of a model directory.

    Attributes:
        file: `image.pt` and `text.pt` are whole towers; `image-head.pt` and `text-head.pt` the heads alone.
        inputs: what it is called with, in order: inputs of the network, or unit rows (n, dim) of these tensors.
        why: of a head, why it is alone; empty for a tower.
        cosine: the least to what was learned, over all probes.
    """

    file: str
    inputs: tuple[str, ...]
    why: str
    cosine: float


def write_scripts(
    folder: Path,
    heads: Heads,
    bases: Mapping[str, Encoder],
    proof: Proof,
    originals: Mapping[str, Original] | None = None,
) -> tuple[Script, ...]:
    """Write what was learned as TorchScript, read it back, and hold it to the proof.

    Args:
        folder: where the files go.
        heads: as learned.
        bases: by tower, in fp32 with full decode.
        proof: what has to come out.
        originals: by tower, the PyTorch networks of the bases; without one it is looked for in the base's directory,
            where a model that was fine-tuned here keeps its weights.

    Raises:
        LearnError: a head, read back, does not compute what was learned.
        MissingExtraError: PyTorch is not installed.
    """
    need("torch")
    done = []
    for tower, head in (("image", heads.image), ("text", heads.text)):
        if head is None or tower not in bases:
            continue
        base = bases[tower]
        opened = (originals or {}).get(tower) or _found(base)
        network = getattr(opened, tower) if opened else None
        whole = _whole(folder / f"{tower}.pt", network, base, head, proof) if network else None
        if isinstance(whole, Script):
            done.append(whole)
            continue
        why = whole or f"{base.card.name} is here as ONNX alone"
        done.append(_alone(folder / f"{tower}-head.pt", base, head, proof, why, is_text=tower == "text"))
    return tuple(done)


def _found(base: Encoder) -> Original | None:
    """The PyTorch network that lies beside the graphs of a base."""
    try:
        return open_source(str(base.card.directory), Request(name=base.card.name))
    except (ModelError, MissingExtraError):
        return None


def _alone(path: Path, base: Encoder, head: Head, proof: Proof, why: str, *, is_text: bool) -> Script:
    network = network_of(Heads(head, None)).eval()

    def call(*rows: Any) -> Any:
        return network.images(dict(zip(head.tensors, rows, strict=True)))

    if is_text:
        asked = [
            (rows_of(base, head.tensors, texts.texts, texts.role), several)
            for texts, several, _ in proof.texts
        ]
    else:
        pictures = [] if proof.pictures is None else [proof.pictures]
        asked = [(rows_of(base, head.tensors, probe_pictures()), vectors) for vectors in pictures]
    pairs = [(dict(rows), vectors) for rows, vectors in asked]
    cosine = _kept(path, network, call, head.tensors, pairs)
    if cosine < LEAST_COSINE:
        path.unlink()
        raise LearnError(f"{path.name}, read back, does not compute what was learned: cosine {cosine:.7f}.")
    return Script(path.name, head.tensors, why, cosine)


def _whole(path: Path, network: Tower, base: Encoder, head: Head, proof: Proof) -> Script | str:
    """The tower with its head; or why there is none."""
    torch = need("torch")
    card = base.card.text if path.stem == "text" else base.card.image
    named = {tensor: dict(card.tensors).get(tensor, tensor) if card else tensor for tensor in head.tensors}
    if missing := [tensor for tensor, name in named.items() if name not in network.outputs]:
        return f"the head reads {missing[0]!r}, which the PyTorch network does not give"
    fitted = network_of(Heads(head, None)).eval()
    dimensions = card.dimensions if card else 0

    def row(values: Any, name: str, inputs: Mapping[str, Any]) -> Any:
        if values.ndim > 2 and network.pool is not None and name == network.embedding:
            values = network.pool(values, inputs)
        values = values.float()[:, : dimensions or None]
        return torch.nn.functional.normalize(values, dim=-1, eps=EPSILON)

    def call(*inputs: Any) -> Any:
        given = network.module(*inputs)
        outputs = dict(zip(network.outputs, given if isinstance(given, tuple) else (given,), strict=True))
        known = dict(zip(network.inputs, inputs, strict=True))
        return fitted.images({tensor: row(outputs[name], name, known) for tensor, name in named.items()})

    try:
        pairs = _text_pairs(base, proof) if path.stem == "text" else _picture_pairs(base, proof)
        cosine = _kept(path, torch.nn.ModuleList([network.module, fitted]), call, network.inputs, pairs)
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:  # PyTorch's own, of any kind
        path.unlink(missing_ok=True)
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return f"its PyTorch network cannot be traced: {line[:200]}"
    if cosine < LEAST_COSINE:
        path.unlink()
        return f"its PyTorch network, traced, gives other vectors: cosine {cosine:.5f}"
    return Script(path.name, network.inputs, "", cosine)


def _picture_pairs(base: Encoder, proof: Proof) -> list[Pair]:
    side = base.image
    ready = [side.ready(data) for data in probe_pictures()]
    vectors = proof.pictures if proof.pictures is not None else np.zeros((0, 0), np.float32)
    each = [
        (side.feeds(side.engine, [one]), vector[None]) for one, vector in zip(ready, vectors, strict=True)
    ]
    same = len({one.shape for one in ready}) == 1
    return [(side.feeds(side.engine, ready), vectors), *each] if same else each


def _text_pairs(base: Encoder, proof: Proof) -> list[Pair]:
    """All of one role together, so that most are padded, and each by itself."""
    from bowerbird.models.text.tokens import feeds

    side, found = base.text, []
    rules, inputs = side.tower.rules, side.engine.inputs
    for asked, several, each in proof.texts:
        tokens = side.tokens(asked.texts, asked.role)
        found.append((feeds(tokens, rules, inputs), several))
        found += [(feeds([one], rules, inputs), row[None]) for one, row in zip(tokens, each, strict=True)]
    return found


def _kept(
    path: Path, holds: Any, call: Callable[..., Any], names: Sequence[str], pairs: Iterable[Pair]
) -> float:
    """Trace a function of tensors, write it, read it back; the least cosine to what is to come out."""
    torch = need("torch")

    class Traced(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.holds = holds

        def forward(self, *inputs: Any) -> Any:
            return call(*inputs)

    batches = [
        (tuple(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in names), vectors)
        for feeds, vectors in pairs
    ]
    with quiet(), torch.inference_mode(False), torch.no_grad():
        torch.jit.trace(Traced().eval(), batches[0][0], check_trace=False).save(str(path))
        read = torch.jit.load(str(path)).eval()
        least = 1.0
        for inputs, vectors in batches:
            got = read(*inputs).numpy()
            cosines = (got.astype(np.float64) * vectors).sum(1)
            least = min(least, float(np.where(np.isfinite(cosines), cosines, -1.0).min()))
    return least
