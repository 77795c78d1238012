"""From a source to a model directory: open, write, check, compute references; all of it, or nothing is left behind."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import numpy as np

from bowerbird.errors import BowerbirdError
from bowerbird.judge.golden import FILE_NAME, Golden
from bowerbird.models.outputs import ANNOTATIONS
from bowerbird.origin.graphs import OPSET, Agreement, check_graph, write_graph
from bowerbird.origin.original import Array, Feeds, Original, Tower
from bowerbird.origin.reference import Failure, Photo, probe_texts, probes, read_photos, reference
from bowerbird.origin.request import Request
from bowerbird.origin.source import open_source


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and the proof that it computes the same.

    Attributes:
        directory: the model directory.
        stack: the original stack.
        made_with: package -> version.
        agreements: one for each output of each graph.
        golden: the reference arrays that lie in the directory; None when they could not be computed.
        no_golden: why they could not; empty where they could.
        seconds: that the whole took.
    """

    directory: Path
    stack: str
    made_with: dict[str, str]
    agreements: tuple[Agreement, ...]
    golden: Golden | None
    no_golden: str
    seconds: float


def export(source: str, directory: Path, request: Request | None = None, *, opset: int = OPSET) -> Exported:
    """Export a model of an original stack into a model directory.

    The graphs are run against the PyTorch network on the shipped photographs and sentences before anything is left in
    place.

    Args:
        source: hub id, directory, file, or `timm:`, `open_clip:`, `torchvision:` and a name.
        directory: to be made; it must not hold anything yet.
        request: how the source is to be opened.
        opset: version of the ONNX operators, at least 18.

    Raises:
        ModelNotFoundError: there is no such source.
        ModelFormatError: the source is not understood, or the graph does not compute what PyTorch does.
        MissingExtraError: a package of the stack is not installed.
        BowerbirdError: `directory` is in use or cannot be written.
    """
    began = monotonic()
    if opset < OPSET:
        raise BowerbirdError(
            f"Opset {opset} is too old for PyTorch's exporter.", hint=f"Use {OPSET} or later."
        )
    with all_or_nothing(directory) as draft:
        done = export_opened(open_source(source, named(source, request)), draft, opset=opset)
    return replace(done, directory=directory, seconds=monotonic() - began)


def export_opened(original: Original, draft: Path, *, opset: int = OPSET) -> Exported:
    """Write a model that is open, and may have been changed since, into a directory; compare its graphs with it.

    Args:
        original: its networks in evaluation mode, fp32, on the CPU.
        draft: an empty directory; what lies in it after an error is no model (see `all_or_nothing`).
        opset: version of the ONNX operators.

    Raises:
        ModelFormatError: a graph does not compute what PyTorch does.
        MissingExtraError: a package of the exporter is missing.
    """
    began = monotonic()
    original.write(draft)
    if original.notes:
        text = json.dumps({"format": 1, **original.notes}, indent=2) + "\n"
        (draft / ANNOTATIONS).write_text(text, "utf-8")
    photos = probes() if original.image else []
    agreements: list[Agreement] = []
    for tower in original.towers:
        items = [photo.image for photo in photos] if tower is original.image else probe_texts(tower)
        agreements += _graph(tower, items, draft, opset)
    golden = None
    if not original.no_golden:
        texts = probe_texts(original.text) if original.text else []
        golden = reference(original, photos, texts, version=_version())
        golden.write(draft / FILE_NAME, compact=True)
    seconds = monotonic() - began
    made_with = dict(original.made_with)
    return Exported(draft, original.stack, made_with, tuple(agreements), golden, original.no_golden, seconds)


def make_golden(
    source: str,
    pictures: Sequence[Path],
    texts: Sequence[tuple[str, str]],
    request: Request | None = None,
) -> tuple[Golden, list[Failure]]:
    """Compute reference arrays for the user's own pictures and texts with the original stack.

    Args:
        source: as of `export`.
        pictures: files.
        texts: (text, role) pairs; the role is empty for the default.
        request: how the source is to be opened.

    Returns:
        The arrays, and the pictures that could not be read, which are left out of them.

    Raises:
        BowerbirdError: nothing is left to compute, or as of `export`.
    """
    original = open_source(source, named(source, request))
    if original.no_golden:
        raise BowerbirdError(f"References of {source} cannot be computed: {original.no_golden}")
    photos: list[Photo] = []
    failures: list[Failure] = []
    for found in read_photos(pictures):
        if isinstance(found, Photo):
            photos.append(found)
        else:
            failures.append(found)
    if not photos and not texts:
        first = f" The first: {failures[0].error.message}" if failures else ""
        raise BowerbirdError(
            f"There is nothing to make references of: {len(failures)} of {len(pictures)} pictures failed.{first}",
            hint="Give pictures, or --text.",
        )
    return reference(original, photos, texts, version=_version()), failures


def named(source: str, request: Request | None) -> Request:
    """The request with the model's name: of a file or directory its own, without the path on this machine."""
    path = Path(source).expanduser()
    return replace(request or Request(), name=path.resolve().name if path.exists() else source)


def prepared_probes(original: Original, tower: Tower) -> list[Feeds]:
    """The shipped photographs or sentences as a tower takes them: each alone, and neighbours together."""
    items = [photo.image for photo in probes()] if tower is original.image else probe_texts(tower)
    return _batches(_prepared(tower, items))


def _prepared(tower: Tower, items: Sequence[object]) -> list[Feeds]:
    pairs = [item if isinstance(item, tuple) else (item, "") for item in items]
    return [tower.prepare(item, role) for item, role in pairs]


def _graph(tower: Tower, items: Sequence[object], draft: Path, opset: int) -> list[Agreement]:
    prepared = _prepared(tower, items)
    path = draft / tower.graph
    # The longest text: an axis of very few tokens may be taken for a constant.
    write_graph(tower, max(prepared, key=lambda feeds: feeds[tower.inputs[0]].shape[-1]), path, opset)
    return check_graph(tower, path, _batches(prepared))


def _batches(prepared: Sequence[Feeds]) -> list[Feeds]:
    """Every item alone, and neighbours together: pictures of one size as they are, texts padded to the longer."""
    batches = list(prepared)
    for one, other in zip(prepared[::2], prepared[1::2], strict=False):
        if all(one[name].shape == other[name].shape for name in one):
            batches.append({name: np.concatenate([one[name], other[name]]) for name in one})
        elif "attention_mask" in one:
            width = max(one["input_ids"].shape[1], other["input_ids"].shape[1])
            batches.append(
                {name: np.concatenate([_wide(f[name], width) for f in (one, other)]) for name in one}
            )
    return batches


def _wide(values: Array, width: int) -> Array:
    """Zeros on the right: a mask of zeros leaves whatever token is there out of account."""
    wide: Array = np.pad(values, ((0, 0), (0, width - values.shape[1])))
    return wide


@contextmanager
def all_or_nothing(directory: Path) -> Iterator[Path]:
    """A draft beside `directory`, renamed to it at the end; removed when anything fails.

    Raises:
        BowerbirdError: `directory` is in use or cannot be made.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BowerbirdError(
            f"{directory} exists and is not empty.", hint="Give a new directory; nothing is ever overwritten."
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise BowerbirdError(
            f"{directory} cannot be made: {error.strerror or error}.", hint="Check where it should go."
        ) from error
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp makes it for its owner alone.
        if directory.exists():
            directory.rmdir()
        draft.rename(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _version() -> str:
    from bowerbird import __version__

    return __version__
