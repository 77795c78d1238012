"""A model directory becomes a card: what its published files say, read as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bowerbird.errors import ModelFormatError
from bowerbird.media.policy import DecodePolicy
from bowerbird.models import layout as layouts
from bowerbird.models.artifact import artifact, graph_artifact
from bowerbird.models.calibration import read_calibration
from bowerbird.models.card import PREPARED, Calibration, ImageTower, ModelCard, Options, TextTower
from bowerbird.models.hub.fetch import EMBEDDED, Located, locate
from bowerbird.models.jsonfile import read_object
from bowerbird.models.outputs import ANNOTATIONS, AbsentLayerError, check_pooling, pick_image, pick_text
from bowerbird.models.sigmoid import read_sigmoid
from bowerbird.models.text.rules import read_text_rules
from bowerbird.models.vision.processors import read_steps
from bowerbird.models.vision.steps import Steps
from bowerbird.settings import settings

Tower = TypeVar("Tower", TextTower, ImageTower)


@dataclass(frozen=True)
class Reading:
    """Everything that a directory holds, opened once.

    Attributes:
        located: where the model lies and what the catalogue says of it.
        layout: where its graphs lie.
        config: `config.json`, of the model or of its picture tower, or empty.
        notes: `bowerbird.json`, or empty.
        options: what the user asked for.
    """

    located: Located
    layout: layouts.Layout
    config: Mapping[str, Any]
    notes: Mapping[str, Any]
    options: Options

    @property
    def directory(self) -> Path:
        """The model directory."""
        return self.located.directory


def read_card(name: str, options: Options | None = None) -> ModelCard:
    """Read the recipe of a model from the files it was published with, fetching them when they are not here.

    Args:
        name: see `bowerbird.models.hub.fetch.locate`.
        options: what is wanted beyond the model's own conditions.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFormatError: a file is missing or damaged, or says something that is not understood.
    """
    options = options or Options()
    check_pooling(options.pooling)
    located = locate(name, variant=options.variant)
    directory = located.directory
    files = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    variant = options.variant or (located.entry.variant if located.entry else "")
    layout = layouts.choose(files, variant, str(directory))
    reading = Reading(
        located,
        layout,
        _config(directory, layout),
        _annotations(directory),
        options,
    )
    _check_towers(reading)
    absent: list[AbsentLayerError] = []
    text = _tower(_text_tower, reading, absent) if layout.text else None
    image = _tower(_image_tower, reading, absent) if layout.image else None
    if not (text or image):
        raise ModelFormatError(" ".join(error.message for error in absent), hint=absent[0].hint)
    return ModelCard(
        name=located.name,
        source=_source(located),
        directory=directory,
        license=_license(reading),
        text=text,
        image=image,
        options=options,
        sigmoid=_sigmoid(reading) if text and image else None,
        calibration=_calibration(reading) if text and image else None,
    )


def _config(directory: Path, layout: layouts.Layout) -> Mapping[str, Any]:
    path = directory / "config.json"
    return read_object(
        path if path.exists() else directory / layout.image_root / "config.json", missing_ok=True
    )


def _sigmoid(reading: Reading) -> tuple[float, float] | None:
    """As the checkpoint has it; of other vectors than its own it says nothing."""
    found = read_sigmoid(reading.directory, reading.directory / ANNOTATIONS, reading.notes, reading.config)
    options = reading.options
    return None if options.layer or options.pooling or options.dimensions else found


def _calibration(reading: Reading) -> Calibration | None:
    """As the fit has left it; likewise of its own vectors alone."""
    found = read_calibration(reading.notes.get("calibration"), reading.directory / ANNOTATIONS)
    options = reading.options
    return None if options.layer or options.pooling or options.dimensions else found


def _tower(
    read: Callable[[Reading], Tower], reading: Reading, absent: list[AbsentLayerError]
) -> Tower | None:
    """A tower; None, and the reason in `absent`, where it does not have what the user asked for."""
    try:
        return read(reading)
    except AbsentLayerError as error:
        if not (reading.options.layer or reading.options.pooling):
            raise  # bowerbird.json names a tensor that is not there.
        absent.append(error)
        return None


def _check_towers(reading: Reading) -> None:
    """Refuse half of a model of two towers: the other graph was not copied, or not downloaded."""
    layout = reading.layout
    both = all(isinstance(reading.config.get(key), dict) for key in ("text_config", "vision_config"))
    if both and layout.text_root == layout.image_root and not (layout.text and layout.image):
        have = layout.text or layout.image
        other = "vision_model" if layout.text else "text_model"
        missing = re.sub("text_model|vision_model", other, have)
        if missing != have:
            raise ModelFormatError(
                f"{reading.directory / missing} is missing: config.json describes a model of two towers, and only "
                f"{have} is there.",
                hint="Fetch the model again; to use one tower alone, take the other's part out of config.json.",
            )


def _source(located: Located) -> str:
    """What gives just this model again: of the hub, the commit."""
    if located.receipt:
        return f"{located.receipt.repository}@{located.receipt.commit}"
    if located.revision:  # what another program put into the hub's cache
        repository = located.entry.repository if located.entry else located.name.partition("@")[0]
        return f"{repository}@{located.revision}"
    return EMBEDDED if located.directory == locate(EMBEDDED).directory else str(located.directory)


def _image_tower(reading: Reading) -> ImageTower:
    notes, options, directory = _image_notes(reading), reading.options, reading.directory
    graph, facts = graph_artifact(directory / reading.layout.image)
    picked = pick_image(graph, facts, options, notes, reading.config)
    ratios, cosine = _scaled_decode(directory / ANNOTATIONS, notes.get("scaled_decode", {}))
    limits = settings()
    return ImageTower(
        graph=graph,
        steps=_steps(reading),
        decode=DecodePolicy(
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
            seconds=limits.decode_seconds,
        ),
        output=picked.output,
        similarity_output=picked.similarity,
        pooling=picked.pooling or "avg",
        tensors=picked.tensors,
        features=() if picked.features is None else ((picked.output, picked.features),),
        dimensions=options.dimensions,
        prepared=options.preprocess == PREPARED,
        variant=reading.layout.variant,
        scaled=() if options.preprocess or options.layer else ratios,
        scaled_cosine=cosine,
    )


def _text_tower(reading: Reading) -> TextTower:
    layout, directory, entry = reading.layout, reading.directory, reading.located.entry
    root = directory / layout.text_root
    notes = dict(reading.notes.get("text", {}))
    graph, facts = graph_artifact(directory / layout.text)
    if entry and entry.pooling and not (root / "modules.json").exists():
        notes.setdefault("pooling", entry.pooling)
    told = {key: value for key, value in notes.items() if key != "output"}
    rules = read_text_rules(root, directory, dict(entry.prompts) if entry else None, told)
    picked, rules = pick_text(graph, facts, reading.options, notes, rules)
    return TextTower(
        graph=graph,
        tokenizer=artifact(_tokenizer(directory, layout.text_root)),
        rules=rules,
        output=picked.output,
        tensors=picked.tensors,
        dimensions=reading.options.dimensions or rules.dimensions,
        vocabulary=facts.vocabulary,
        variant=layout.variant,
    )


def _steps(reading: Reading) -> Steps:
    if reading.options.preprocess not in ("", PREPARED):
        return Steps.parse(reading.options.preprocess)
    if noted := _image_notes(reading).get("steps"):
        return _noted_steps(reading, noted)
    root = reading.directory / reading.layout.image_root
    return read_steps(root if _has_processor(root) else reading.directory, reading.options.profile)


def _noted_steps(reading: Reading, noted: Any) -> Steps:
    path = reading.directory / ANNOTATIONS
    if not isinstance(noted, str):
        raise ModelFormatError(f"{path}: image.steps is a recipe, such as str(Steps) writes it.")
    if reading.options.profile:
        raise ModelFormatError(
            f"{path} says in full how pictures are prepared (image.steps), so no profile applies.",
            hint="Leave out the profile, or give your own steps as `preprocess`.",
        )
    try:
        return Steps.parse(noted)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}, image.steps: {error.message}", hint=error.hint) from error


def _has_processor(root: Path) -> bool:
    return any((root / name).is_file() for name in (*layouts.PROCESSORS, "preprocess_cfg.json"))


def _tokenizer(directory: Path, root: str) -> Path:
    beside = directory / root / "tokenizer.json"
    return beside if beside.is_file() else directory / "tokenizer.json"


def _annotations(directory: Path) -> Mapping[str, Any]:
    path = directory / ANNOTATIONS
    notes = read_object(path, missing_ok=True)
    if not path.exists():
        return notes
    if "format" not in notes:
        raise ModelFormatError(f"{path} has no format.", hint='Write {"format": 1, ...}.')
    if notes["format"] != 1:
        raise ModelFormatError(
            f"{path} is of a format this version does not read.", hint="Upgrade bowerbird."
        )
    known = ("license", "image", "text", "sigmoid", "fitted", "calibration")
    unknown = set(notes) - {"format", *known}
    if unknown:
        raise ModelFormatError(
            f"{path}: unknown key {sorted(unknown)[0]!r}.", hint=f"Known: {', '.join(known)}."
        )
    objects = ("image", "text", "fitted", "calibration")
    if not all(isinstance(notes.get(key, {}), dict) for key in objects):
        raise ModelFormatError(f"{path}: {', '.join(objects)} are objects.")
    return notes


def _image_notes(reading: Reading) -> Mapping[str, Any]:
    """The annotations of the image tower, with no key that would be ignored."""
    known = ("output", "similarity_output", "scaled_decode", "pooling", "steps")
    notes: Mapping[str, Any] = reading.notes.get("image", {})
    if unknown := sorted(set(notes) - set(known)):
        raise ModelFormatError(
            f"{reading.directory / ANNOTATIONS}: unknown key {unknown[0]!r} in `image`; ignoring it could change every "
            "vector.",
            hint=f"Known: {', '.join(known)}.",
        )
    return notes


def _license(reading: Reading) -> str:
    """From the annotations, the catalogue, or the front matter of the model's README."""
    entry = reading.located.entry
    said = str(reading.notes.get("license", "")) or (entry.license if entry else "")
    if said:
        return said
    try:
        front = (reading.directory / "README.md").read_text("utf-8", "replace")[:4000]
    except OSError:
        return ""
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", front, re.MULTILINE) if front.startswith("---") else None
    return found[1] if found else ""


def _scaled_decode(path: Path, notes: Any) -> tuple[tuple[tuple[str, float], ...], float]:
    """The ratios by precision policy, and the least cosine that was measured; see `docs/model-directory.md`."""
    try:
        ratios = tuple((policy, float(notes[policy])) for policy in ("auto", "fast") if policy in notes)
        cosine = float(notes.get("least_cosine", 1.0))
        unknown = set(notes) - {"auto", "fast", "least_cosine"}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{path}: scaled_decode {notes!r} is not understood.") from error
    if unknown or not all(ratio >= 1 for _, ratio in ratios):
        raise ModelFormatError(
            f"{path}: scaled_decode {notes!r} is not understood.",
            hint='Write it like {"auto": 3, "fast": 2, "least_cosine": 0.998}; ratios are at least 1.',
        )
    return ratios, cosine
