"""A fitted model directory against what was learned: the heads in PyTorch on the vectors of their bases.

The shipped photographs and sentences go through the base, as it runs by itself, and through the head; the same files go
through the directory, in every engine that is installed. The first become the directory's `golden.npz`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bowerbird.errors import EngineError, LearnError
from bowerbird.judge.golden import Golden, PictureGolden, TextGolden
from bowerbird.judge.walk import TextWalk
from bowerbird.learn.heads import Head, Heads, Vectors
from bowerbird.learn.network import network_of
from bowerbird.models.encoder import Encoder, load
from bowerbird.models.network.engine import ENGINES
from bowerbird.models.network.precision import REFERENCE, probe_pictures, probe_sentences
from bowerbird.models.vision.tower import Input
from bowerbird.origin.packages import has, versions
from bowerbird.origin.reference import Photo, probes

LEAST_COSINE = 0.99999
"""Between the head in PyTorch and the written graph, for every probe."""


@dataclass(frozen=True)
class Agreement:
    """How near the written graph of a tower comes to what was learned.

    Attributes:
        tower: `image` or `text`.
        engine: that ran the graph, with its version.
        probes: how many photographs or texts.
        cosine: the least over them.
    """

    tower: str
    engine: str
    probes: int
    cosine: float


@dataclass(frozen=True)
class Texts:
    """Texts that share a prompt.

    Attributes:
        role: name of the prompt; empty for the default.
        texts: of several lengths, one of them empty, one longer than most networks read.
    """

    role: str
    texts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Proof:
    """What was learned, as vectors.

    Attributes:
        made_with: package -> version of what computed the heads: PyTorch, or NumPy where that is not installed.
        pictures: float32 (n, dim), of the shipped photographs; None without a head for pictures.
        texts: of every prompt, its texts and their vectors (n, dim), embedded together and one by one, which differs
            where a network sees padding; empty without a head for texts.
    """

    made_with: dict[str, str]
    pictures: Vectors | None
    texts: tuple[tuple[Texts, Vectors, Vectors], ...]


def rows_of(
    encoder: Encoder, tensors: Sequence[str], inputs: Sequence[Input], role: str = ""
) -> dict[str, Vectors]:
    """What a head reads: by tensor, float32 (n, dim), rows of length 1.

    Args:
        encoder: of the base.
        tensors: outputs of a tower, or layers as `Options.layer` takes them.
        inputs: pictures, or texts.
        role: of texts.
    """
    own = {tower.output for tower in (encoder.card.text, encoder.card.image) if tower}
    own |= {encoder.card.image.similarity_output} if encoder.card.image else set()
    found: dict[str, Vectors] = {}
    for tensor in tensors:
        if tensor in own:
            found[tensor] = encoder.embed(inputs, output=tensor, role=role)
        else:
            found[tensor] = encoder.adapted(layer=tensor).embed(inputs, role=role)
    return found


def learned(heads: Heads, image: Encoder | None, text: Encoder | None) -> Proof:
    """The vectors that the written model has to give.

    Args:
        heads: as learned.
        image: the base for pictures, in fp32 with full decode.
        text: the base for texts, likewise.
    """
    pictures = None
    if heads.image and image:
        pictures = _through(heads.image)(rows_of(image, heads.image.tensors, probe_pictures()))
    texts: list[tuple[Texts, Vectors, Vectors]] = []
    if heads.text and text:
        through = _through(heads.text)
        for asked in probe_texts(text):
            several, *each = (
                through(rows_of(text, heads.text.tensors, some, asked.role))
                for some in (asked.texts, *((one,) for one in asked.texts))
            )
            texts.append((asked, several, np.concatenate(each)))
    return Proof(versions("torch" if has("torch") else "numpy"), pictures, tuple(texts))


def probe_texts(encoder: Encoder) -> list[Texts]:
    """The shipped sentences without a role and with every prompt of the model, with an empty and a long one.

    What the base itself cannot embed is left out: of an empty text there may be nothing to pool behind the prompt.
    """
    sentences = [sentence for sentence in probe_sentences() if sentence]
    texts = [*sentences, "", " ".join(sentences * 3)]
    tower = encoder.card.text
    found = []
    for role in ("", *(name for name, _ in tower.rules.prompts)) if tower else ():
        outcomes = encoder.outcomes(texts, role=role)
        found.append(Texts(role, tuple(texts[one.index] for one in outcomes if one.error is None)))
    return found


def check(directory: Path, proof: Proof) -> list[Agreement]:
    """Run a model directory in every engine that is installed.

    Texts go through together, so that several lengths share a batch, and one by one.

    Raises:
        LearnError: a probe comes out otherwise.
    """
    found: list[Agreement] = []
    for kind in ENGINES:
        try:
            model = load(str(directory), precision="exact", engine=kind).warm()
        except EngineError:
            if kind == REFERENCE:
                raise
            continue  # not installed here, or it cannot run this graph: then it is never chosen either
        if proof.pictures is not None:
            got = model.embed(probe_pictures())
            found.append(_agreement("image", model.image.engine.name, [(proof.pictures, got)]))
        pairs: list[tuple[Vectors, Vectors]] = []
        for asked, several, each in proof.texts:
            alone = [model.embed([text], role=asked.role) for text in asked.texts]
            pairs += [
                (several, model.embed(asked.texts, role=asked.role)),
                (each, np.concatenate(alone)),
            ]
        if pairs:
            found.append(_agreement("text", model.text.engine.name, pairs))
    return found


def golden_of(
    proof: Proof, image: Encoder | None, text: Encoder | None, *, model: str, version: str
) -> Golden:
    """The proof as the reference arrays of a model directory.

    Args:
        proof: as learned.
        image: the base for pictures.
        text: the base for texts.
        model: its name.
        version: of bowerbird.
    """
    pictures: tuple[PictureGolden, ...] = ()
    if proof.pictures is not None and image:
        photos = zip(probes(), probe_pictures(), proof.pictures, strict=True)
        pictures = tuple(_picture(image, *given) for given in photos)
    texts: list[TextGolden] = []
    if text:
        walk = TextWalk(text.text)
        for asked, _, vectors in proof.texts:
            for one, vector in zip(asked.texts, vectors, strict=True):
                texts.append(TextGolden(one, asked.role, walk.ids(one, asked.role), vector, vector))
    meta = {"model": model, "profile": "", "made_with": proof.made_with, "bowerbird": version}
    return Golden(meta, pictures, tuple(texts))


def _picture(image: Encoder, photo: Photo, data: bytes, vector: Vectors) -> PictureGolden:
    side = image.image
    values = side.tower.steps.feeds([side.ready(data)])["pixel_values"][0]
    decoded = np.asarray(photo.image)
    return PictureGolden(photo.name, photo.sha256, values, vector, vector, decoded)


def _through(head: Head) -> Callable[[dict[str, Vectors]], Vectors]:
    """A head in PyTorch, or in NumPy where that is not installed."""
    if not has("torch"):
        return head.apply
    import torch

    network = network_of(Heads(head, None)).eval()

    def through(rows: dict[str, Vectors]) -> Vectors:
        with torch.inference_mode():
            given = {name: torch.from_numpy(array) for name, array in rows.items()}
            vectors: Vectors = network.images(given).numpy()
        return vectors

    return through


def _agreement(tower: str, engine: str, pairs: Sequence[tuple[Vectors, Vectors]]) -> Agreement:
    least, count = 1.0, 0
    for expected, got in pairs:
        if expected.shape != got.shape:
            raise LearnError(
                f"The {tower} graph gives vectors of the shape {got.shape[1:]}, the head {expected.shape[1:]}."
            )
        cosines = (expected.astype(np.float64) * got).sum(1)  # both are of length 1
        count = max(count, len(cosines))
        least = min(least, float(np.where(np.isfinite(cosines), cosines, -1.0).min()))
    if least < LEAST_COSINE:
        raise LearnError(
            f"The {tower} graph does not compute what was learned: the least cosine over {count} probes is "
            f"{least:.7f} in {engine}; {LEAST_COSINE} is demanded.",
            hint="Nothing was written. Report the model and the recipe, please.",
        )
    return Agreement(tower, engine, count, least)
