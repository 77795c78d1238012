"""Heads on their towers become a model directory: written, proved against what was learned, or nothing is left behind.

Layout "fitted": `text/model.onnx` and `image/model.onnx`, each the graph of its base with the head in it; the tokeniser
beside the first; `bowerbird.json`, which says in full how texts and pictures are prepared, so that nothing of the bases
is needed any more; `golden.npz`, what `bowerbird verify` holds the model to; README.md, a model card.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.judge.golden import FILE_NAME
from bowerbird.learn.graph import Tap, with_head
from bowerbird.learn.heads import Head, Heads
from bowerbird.learn.model_card import readme_of
from bowerbird.learn.proof import Agreement, check, golden_of, learned
from bowerbird.learn.script import Script, write_scripts
from bowerbird.models.card import Calibration, ModelCard
from bowerbird.models.encoder import Encoder
from bowerbird.models.network.graph import read_graph
from bowerbird.models.network.precision import probe_pictures
from bowerbird.models.outputs import ANNOTATIONS
from bowerbird.models.text.rules import TextRules
from bowerbird.models.vision.pooling import feature_axis
from bowerbird.models.vision.steps import Steps
from bowerbird.origin.export import all_or_nothing
from bowerbird.origin.original import Original

OUTPUT = "fitted"
"""Name of the new output of both graphs; a number follows where a base has it already."""

FORMATS = ("onnx", "torchscript")

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
_LEGAL = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
_OURS = frozenset(
    {ANNOTATIONS, FILE_NAME, "README.md", "image.pt", "text.pt", "image-head.pt", "text-head.pt"}
)


@dataclass(frozen=True)
class Exported:
    """What was written, and the proof that it computes what was learned.

    Attributes:
        directory: the model directory.
        agreements: one for each tower and engine.
        scripts: TorchScript files, where they were asked for.
        made_with: package -> version of what computed the heads for comparison: PyTorch, or NumPy without it.
        seconds: that the whole took.
    """

    directory: Path
    agreements: tuple[Agreement, ...]
    scripts: tuple[Script, ...]
    made_with: Mapping[str, str]
    seconds: float


def save(  # noqa: PLR0913  what goes into a directory, most of it optional
    directory: str | Path,
    heads: Heads,
    *,
    image: Encoder | None = None,
    text: Encoder | None = None,
    name: str = "",
    facts: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    readme: str = "",
    files: Mapping[str, bytes] | None = None,
    format: str = "onnx",
    originals: Mapping[str, Original] | None = None,
) -> Exported:
    """Write heads and the towers they are for into a model directory, and prove it.

    Args:
        directory: to be made; it must not hold anything yet.
        heads: what was fitted.
        image: the base for pictures, under the conditions that the head was fitted under; wanted with `heads.image`.
        text: the base for texts, likewise; it may be another model.
        name: of the model; empty takes the directory's.
        facts: of the fit, for people and reports: plain data, kept in `bowerbird.json` under `fitted`.
        calibration: what new indexes of the model begin with; see `bowerbird.learn.calibration.measured`.
        readme: Markdown for the model card, below what it says by itself.
        files: further files by their names, put beside the others.
        format: `torchscript` writes TorchScript as well; see `bowerbird.learn.script`.
        originals: for TorchScript, `image` and `text` -> the PyTorch network of that base.

    Raises:
        LearnError: there is no head or no base for it, a base gives vectors for tokens or takes prepared arrays, or the
            written graph does not compute what was learned. Nothing is left behind.
        MissingExtraError: TorchScript is wanted and PyTorch not installed.
        BowerbirdError: `directory` is in use or cannot be written.
    """
    began = monotonic()
    if format not in FORMATS:
        raise LearnError(f"There is no format {format!r}.", hint=f"Use {' or '.join(FORMATS)}.")
    target = Path(directory).expanduser()
    bases = _bases(heads, image, text)
    name = name or target.resolve().name
    with all_or_nothing(target) as draft:
        notes: dict[str, Any] = {"format": 1}
        cards = [base.card for base in bases.values()]
        if license_ := " AND ".join(dict.fromkeys(card.license for card in cards if card.license)):
            notes["license"] = license_
        if heads.image and image:
            notes["image"] = _write_image(draft / "image", bases["image"], image.card, heads.image)
        if heads.text and text:
            notes["text"] = _write_text(draft / "text", bases["text"], heads.text)
        if heads.sigmoid and len(bases) == 2:
            notes["sigmoid"] = list(heads.sigmoid)
        if facts or heads.facts:
            notes["fitted"] = {**heads.facts, **(facts or {})}
        if calibration and len(bases) == 2:
            notes["calibration"] = calibration.to_dict()
        _write(draft / ANNOTATIONS, _json(notes).encode())
        for file, content in (files or {}).items():
            _write(_inside(draft, file), content)
        proof = learned(heads, bases.get("image"), bases.get("text"))
        golden = golden_of(proof, bases.get("image"), bases.get("text"), model=name, version=_version())
        golden.write(draft / FILE_NAME, compact=True)
        agreements = check(draft, proof)
        scripts = write_scripts(draft, heads, bases, proof, originals) if format == "torchscript" else ()
        card = readme_of(name, heads, bases, notes.get("license", ""), scripts, readme)
        _write(draft / "README.md", card.encode())
    return Exported(target, tuple(agreements), scripts, proof.made_with, monotonic() - began)


def _bases(heads: Heads, image: Encoder | None, text: Encoder | None) -> dict[str, Encoder]:
    """The bases by tower, in fp32 in the reference engine with full decode: what graphs are held to."""
    found: dict[str, Encoder] = {}
    for tower, head, base in (("image", heads.image, image), ("text", heads.text, text)):
        if head is None:
            continue
        if base is None:
            raise LearnError(f"There is a head for {tower}s and no model below it.", hint=f"Give {tower}=.")
        if getattr(base.card, tower) is None:
            raise LearnError(f"The model {base.card.name!r} has no tower for {tower}s.", hint="Give another.")
        found[tower] = Encoder(base.card, precision="exact", engine="onnxruntime", threads=base.threads)
    if not found:
        raise LearnError("There is no head, so nothing to write.", hint="Fit one first.")
    return found


def _write_image(folder: Path, base: Encoder, card: ModelCard, head: Head) -> dict[str, Any]:
    """The picture tower with its head; what `bowerbird.json` says of it."""
    side, tower = base.image, base.image.tower
    if tower.prepared:
        raise LearnError(
            f"{card.name!r} was loaded for arrays that are prepared already (preprocess='none').",
            hint="Load it with steps, so that the fitted model can read pictures.",
        )
    steps = str(tower.steps)
    if Steps.parse(steps) != tower.steps:
        raise LearnError(f"The steps of {card.name!r} cannot be written down: {steps} is read otherwise.")
    taken = _tensors(base, "image")
    output = _free(OUTPUT, taken)
    taps = {tensor: _image_tap(base, tensor) for tensor in head.tensors}
    similar = tower.similarity_output
    tap = taps.get(similar) or _image_tap(base, similar)
    pooled: dict[str, str] = {}
    if similar not in side.engine.outputs or len(tap.shape) > 2 or tap.dimensions:
        # What stands behind the network, or inside it, becomes an output like others.
        pooled = {_free("similarity", taken): similar}
        taps[similar] = tap
    folder.mkdir()
    with_head(tower.graph.path, folder / "model.onnx", taps, head, output, pooled=pooled)
    _copy(_beside(base.card, "config.json"), folder / "config.json")
    _copy_legal(base.card, folder)
    own = {tower.output, tower.similarity_output}
    notes: dict[str, Any] = {
        "output": output,
        "similarity_output": next(iter(pooled), similar),
        "steps": steps,
    }
    if tower.scaled and own.issuperset(head.tensors):
        notes["scaled_decode"] = {**dict(tower.scaled), "least_cosine": tower.scaled_cosine}
    return notes


def _write_text(folder: Path, base: Encoder, head: Head) -> dict[str, Any]:
    """The text tower with its head; what `bowerbird.json` says of it."""
    tower = base.text.tower
    output = _free(OUTPUT, _tensors(base, "text"))
    taps = {tensor: _text_tap(base, tensor) for tensor in head.tensors}
    folder.mkdir()
    with_head(tower.graph.path, folder / "model.onnx", taps, head, output)
    for file in _TOKENIZER:
        _copy(tower.tokenizer.path.parent / file, folder / file)
    _copy_legal(base.card, folder)
    return {"output": output, **_rules(tower.rules)}


def _rules(rules: TextRules) -> dict[str, Any]:
    """All that is done to a text before the graph, as `bowerbird.json` says it."""
    return {
        "pooling": list(rules.pooling) or "none",
        "include_prompt": rules.include_prompt,
        "max_tokens": rules.max_tokens,
        "padding": rules.padding,
        "pad_side": rules.pad_side,
        "pad_id": rules.pad_id,
        "cut_side": rules.cut_side,
        "clean": list(rules.clean),
        "masked": rules.masked,
        "prompts": dict(rules.prompts),
        "default_prompt": rules.default_prompt,
    }


def _image_tap(base: Encoder, name: str) -> Tap:
    """How the picture tower makes a vector of a tensor; found out with a photograph."""
    tower = base.image.tower
    model = base if name in (tower.output, tower.similarity_output) else base.adapted(layer=name)
    side, tower = model.image, model.image.tower
    tensor = dict(tower.tensors).get(name, name)
    (array,) = side.engine.run(side.feeds(side.engine, [side.ready(probe_pictures()[0])]), (tensor,))
    if array.ndim > 2 and tower.pooling == "none":
        raise _by_place(name, "places")
    width = side.pooled(array.astype(np.float32), name).shape[-1]
    axis = dict(tower.features).get(name)
    return Tap(
        tensor,
        array.shape,
        tower.dimensions or width,
        features=feature_axis(array.shape) if axis is None else axis,
        pooling=tower.pooling,
        dimensions=tower.dimensions,
    )


def _text_tap(base: Encoder, name: str) -> Tap:
    """How the text tower makes a vector of a tensor; found out with a text."""
    model = base if name == base.text.tower.output else base.adapted(layer=name)
    side, tower = model.text, model.text.tower
    if side.by_token:
        raise _by_place(name, "tokens")
    tokens = side.tokens(["a photograph"])
    hidden, _ = side.raw(tokens)
    width = side.vectors(tokens)[0].shape[-1]
    tensor = dict(tower.tensors).get(name, name)
    return Tap(tensor, hidden.shape, width, rules=tower.rules, dimensions=tower.dimensions)


def _by_place(name: str, what: str) -> LearnError:
    return LearnError(
        f"The base gives a vector for each of the {what} of {name!r}, and a head takes one for each input.",
        hint="Load it with another pooling than 'none'.",
    )


def _tensors(base: Encoder, tower: str) -> set[str]:
    graph = getattr(base.card, tower).graph
    facts = read_graph(graph.path, graph.sha256)
    return {*facts.inputs, *facts.outputs, *facts.tensors}


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; from now on it is."""
    number, found = 2, name
    while found in taken:
        number, found = number + 1, f"{name}_{number}"
    taken.add(found)
    return found


def _beside(card: ModelCard, file: str) -> Path:
    """A file of the model, or of its picture tower alone."""
    path = card.directory / file
    return path if path.exists() or card.image is None else card.image.graph.path.parent / file


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)


def _copy_legal(card: ModelCard, folder: Path) -> None:
    for pattern in _LEGAL:
        for path in card.directory.glob(pattern):
            _copy(path, folder / path.name)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _inside(draft: Path, file: str) -> Path:
    """Where a further file goes.

    Raises:
        LearnError: outside of the directory, or in the place of one of ours.
    """
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.parts or (draft / path).exists() or file in _OURS:
        raise LearnError(
            f"{file!r} is no name for a further file of a model directory.", hint="Give another."
        )
    return draft / path


def _json(notes: Mapping[str, Any]) -> str:
    try:
        return json.dumps(notes, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise LearnError(f"The facts of the fit are not plain data: {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not")


def _version() -> str:
    from bowerbird import __version__

    return __version__
