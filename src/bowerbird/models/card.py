"""The recipe of a model: everything needed to build it anywhere, and to tell whether two vectors may meet."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError, ModelNotFoundError
from bowerbird.media.image import DecodePolicy
from bowerbird.models.text import read_text_config
from bowerbird.models.vision import Steps, read_steps
from bowerbird.record import Modality
from bowerbird.settings import settings

EMBEDDED = "mini"


@dataclass(frozen=True)
class Artifact:
    """A file of the model.

    Attributes:
        path: where it lies.
        sha256: of its bytes.
        size: in bytes.
    """

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class TextTower:
    """How a text becomes a vector.

    Attributes:
        graph: the ONNX file.
        tokenizer: `tokenizer.json`.
        max_tokens: longer texts are cut, special tokens kept.
        pad_id: the token id that fills shorter rows.
        pooling: how token vectors are pooled when `output` is a token-level tensor.
        output: name of the tensor that is the embedding; empty: the graph's pooled output when it has one.
        prompts: name -> text put before the input.
        default_prompt: name of the prompt used when no role is given.
    """

    graph: Artifact
    tokenizer: Artifact
    max_tokens: int
    pad_id: int
    pooling: str
    output: str
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors, without where the files happen to lie."""
        return {
            "graph": self.graph.sha256,
            "tokenizer": self.tokenizer.sha256,
            "max_tokens": self.max_tokens,
            "pad_id": self.pad_id,
            "pooling": self.pooling,
            "output": self.output,
            "prompts": dict(self.prompts),
            "default_prompt": self.default_prompt,
        }


@dataclass(frozen=True)
class ImageTower:
    """How a picture becomes vectors.

    Attributes:
        graph: the ONNX file.
        steps: preprocessing, from the upright RGB picture to the network's input.
        decode: how files become upright RGB pictures.
        output: the tensor in the space shared with texts.
        similarity_output: the tensor that compares pictures with pictures best; often the same.
        scaled: precision policy -> least ratio of decoded to wanted short side at which JPEG may be decoded at a
            reduced scale; a policy that is not named decodes in full.
        scaled_cosine: least cosine to full decode that was measured under `scaled`.
    """

    graph: Artifact
    steps: Steps
    decode: DecodePolicy
    output: str
    similarity_output: str
    scaled: tuple[tuple[str, float], ...] = ()
    scaled_cosine: float = 1.0

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors, without where the files happen to lie."""
        return {
            "graph": self.graph.sha256,
            "steps": self.steps.to_json(),
            "decode": self.decode.meaning(),
            "output": self.output,
            "similarity_output": self.similarity_output,
        }


@dataclass(frozen=True)
class ModelCard:
    """A frozen, picklable recipe. Workers build their own `Encoder` from it.

    Attributes:
        name: what the user called the model.
        directory: where its files lie.
        license: SPDX-like identifier, or empty when the files do not say.
        text: the text tower, if there is one.
        image: the image tower, if there is one.
    """

    name: str
    directory: Path
    license: str
    text: TextTower | None
    image: ImageTower | None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model takes."""
        towers = ((Modality.TEXT, self.text), (Modality.IMAGE, self.image))
        return tuple(modality for modality, tower in towers if tower)

    @property
    def source(self) -> str:
        """What `load` is given to get this model again."""
        return EMBEDDED if self.directory.resolve() == find(EMBEDDED) else str(self.directory)

    @property
    def size(self) -> int:
        """Bytes of weights."""
        return sum(tower.graph.size for tower in (self.text, self.image) if tower)

    def meaning(self) -> dict[str, Any]:
        """Everything that changes what the vectors mean, as plain data."""
        return {
            "text": self.text.meaning() if self.text else None,
            "image": self.image.meaning() if self.image else None,
        }

    @property
    def space(self) -> str:
        """Fingerprint of the embedding space: 16 hexadecimal digits of the SHA-256 of `meaning()`.

        Two vectors may be compared only when their models' spaces are equal. Engine, precision and scaled
        decode are left out: they are numerics, recorded beside it.
        """
        text = json.dumps(self.meaning(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Layout:
    """Where one published layout keeps its graphs, relative to the model directory."""

    name: str
    text: str = ""
    image: str = ""


# First match wins. A layout is chosen by what is in the directory, never by a model's name.
LAYOUTS = (
    Layout("transformers.js, two towers", text="onnx/text_model.onnx", image="onnx/vision_model.onnx"),
    Layout("sentence-transformers", text="onnx/model.onnx"),
)

ANNOTATIONS = "bowerbird.json"
"""Optional file of a model directory: what no published format says (see `docs/model-directory.md`)."""


def find(name: str) -> Path:
    """The directory of a model: the embedded default, or a local directory.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    if name == EMBEDDED:
        return Path(__file__).resolve().parent / EMBEDDED
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    raise ModelNotFoundError(
        f"There is no model {name!r}: it is neither {EMBEDDED!r} nor a directory.",
        hint="Give a directory with onnx/text_model.onnx or onnx/vision_model.onnx.",
    )


def read_card(name: str) -> ModelCard:
    """Read the recipe of a model from the files it was published with.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFormatError: a file is missing or damaged, or says something that is not understood.
    """
    directory = find(name)
    layout = next((entry for entry in LAYOUTS if _has(directory, entry)), None)
    if layout is None:
        wanted = " or ".join(part for entry in LAYOUTS for part in (entry.text, entry.image) if part)
        raise ModelFormatError(
            f"{directory} is not a model directory: it holds no {wanted}.", hint="Fetch the model again."
        )
    notes = _annotations(directory)
    return ModelCard(
        name=name if name == EMBEDDED else directory.name,
        directory=directory,
        license=str(notes.get("license", "")),
        text=_text_tower(directory, layout, notes["text"]) if _exists(directory, layout.text) else None,
        image=_image_tower(directory, layout, notes["image"]) if _exists(directory, layout.image) else None,
    )


def _exists(directory: Path, relative: str) -> bool:
    return bool(relative) and (directory / relative).is_file()


def _has(directory: Path, layout: Layout) -> bool:
    return _exists(directory, layout.text) or _exists(directory, layout.image)


def _annotations(directory: Path) -> dict[str, Any]:
    path = directory / ANNOTATIONS
    if not path.exists():
        return {"text": {}, "image": {}}
    try:
        notes = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(notes, dict) or notes.get("format") != 1:
        raise ModelFormatError(
            f"{path} is of a format this version does not read.", hint="Upgrade bowerbird."
        )
    towers = (notes.setdefault("text", {}), notes.setdefault("image", {}))
    if not all(isinstance(tower, dict) for tower in towers):
        raise ModelFormatError(f"{path}: `text` and `image` are objects.")
    return notes


def _text_tower(directory: Path, layout: Layout, notes: dict[str, Any]) -> TextTower:
    config = read_text_config(directory)
    return TextTower(
        graph=artifact(directory / layout.text),
        tokenizer=artifact(directory / "tokenizer.json"),
        max_tokens=config.max_tokens,
        pad_id=_pad_id(directory),
        pooling=config.pooling,
        output=str(notes.get("output", "")),
        prompts=config.prompts,
        default_prompt=config.default_prompt,
    )


def _pad_id(directory: Path) -> int:
    """`pad_token_id` of config.json; 0 where it does not say. Masked positions contribute nothing either way."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        return int({**config, **(config.get("text_config") or {})}.get("pad_token_id") or 0)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error


def _image_tower(directory: Path, layout: Layout, notes: dict[str, Any]) -> ImageTower:
    ratios, cosine = _scaled_decode(directory / ANNOTATIONS, notes.get("scaled_decode", {}))
    output = str(notes.get("output", "image_embeds"))
    limits = settings()
    return ImageTower(
        graph=artifact(directory / layout.image),
        steps=read_steps(directory / "preprocessor_config.json"),
        decode=DecodePolicy(
            max_pixels=limits.max_pixels,
            max_bytes=limits.max_bytes,
            seconds=limits.decode_seconds,
        ),
        output=output,
        similarity_output=str(notes.get("similarity_output", output)),
        scaled=ratios,
        scaled_cosine=cosine,
    )


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


def artifact(path: Path) -> Artifact:
    """Hash a file of a model; the hash of an unchanged file is remembered in the cache directory.

    Raises:
        ModelFormatError: the file is missing or unreadable.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelFormatError(f"{path} is missing or unreadable.", hint="Fetch the model again.") from error
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    memo = settings().cache_path / "sha256" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    try:
        known = memo.read_text("ascii").strip()
        if re.fullmatch("[0-9a-f]{64}", known):
            return Artifact(path, known, stat.st_size)
    except (OSError, ValueError):
        pass  # Not hashed before, or the cache cannot be read: hash it now.
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(digest.hexdigest(), "ascii")
    except OSError:
        pass  # A cache that cannot be written costs time, nothing else.
    return Artifact(path, digest.hexdigest(), stat.st_size)
