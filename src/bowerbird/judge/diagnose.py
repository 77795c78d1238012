"""Which known fault explains best that two stacks part: each is tried, and compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError
from bowerbird.judge.compare import shape_of
from bowerbird.judge.faults import SHORT_SIDES, Recipe, faults_of
from bowerbird.judge.golden import pixels_sha256
from bowerbird.judge.walk import TextWalk
from bowerbird.media.image import Picture, decode

Array: TypeAlias = NDArray[Any]

EQUAL_TO = 1e-6
"""Mean absolute difference of network inputs below which a fault explains everything."""


@dataclass(frozen=True)
class Diagnosis:
    """What explains a difference best.

    Attributes:
        fault: short name, as in `bowerbird conditions`; empty where nothing known explains it.
        sentence: for people.
        complete: with this fault the two are equal.
        before: mean absolute difference as it is.
        after: the same with the fault put in on our side.
        key: of the model's configuration, that the fault belongs to; empty where it is none of these.
        steps: the model's own, as a recipe; empty where they are not what is in question.
    """

    fault: str
    sentence: str
    complete: bool
    before: float
    after: float
    key: str = ""
    steps: str = ""


CLEARLY = 4
"""A fault that does not make all equal is named only when it brings the two this many times closer."""


def diagnose_pixels(right: Recipe, pairs: Sequence[tuple[Picture, Array]]) -> Diagnosis:
    """Try every fault on decoded pictures, against the reference's pixel values.

    Args:
        right: the recipe that this model's files ask for.
        pairs: decoded picture and the reference's pixel values, of the pictures that differ.
    """

    def distance(recipe: Recipe) -> float:
        return float(
            np.mean([_distance(recipe.prepare(one)["pixel_values"][0], other) for one, other in pairs])
        )

    steps = str(right.steps)
    before = distance(right)
    if not np.isfinite(before):
        return _other_shapes(right, pairs, steps)
    candidates = [*faults_of(right), *faults_of(right, SHORT_SIDES)]
    tried = [(distance(recipe), fault) for fault, recipe in candidates if fault.concerns == "all"]
    after, fault = min(tried, key=lambda one: one[0])
    if after <= EQUAL_TO:
        sentence = f"The reference looks as if {fault.what}: with that, all pixel values are equal."
        return Diagnosis(fault.name, sentence, True, before, after, fault.key, steps)
    if after < before / CLEARLY:
        ending = f"with that, the mean difference falls from {before:.3g} to {after:.3g}."
        sentence = f"The reference comes closest as if {fault.what}: {ending}"
        return Diagnosis(fault.name, sentence, False, before, after, fault.key, steps)
    return replace(_nothing("the pixel values", before, after, fault.name), steps=steps)


def _other_shapes(right: Recipe, pairs: Sequence[tuple[Picture, Array]], steps: str) -> Diagnosis:
    """The reference's network takes pictures of another size."""
    sizes = ((right.prepare(one)["pixel_values"][0].shape, other.shape) for one, other in pairs)
    ours, theirs = next((one, other) for one, other in sizes if one != other)
    sentence = (
        f"The reference's network takes {shape_of(theirs)}, this model {shape_of(ours)}: another size of the input, "
        "or a reference of another model."
    )
    return Diagnosis(
        "other size", sentence, False, float("inf"), float("inf"), "crop_size, size or input_size", steps
    )


def diagnose_decoded(
    right: Recipe, files: Sequence[tuple[bytes, Array | None, str]], target: int | None
) -> Diagnosis:
    """Try other ways to decode, against the reference's decoded pictures.

    Args:
        right: the recipe that this model's files ask for.
        files: bytes of the file, the reference's decoded picture if it has one, and its `pixels_sha256`.
        target: side that the first resize wants.
    """
    policies = [(fault, recipe.decode) for fault, recipe in faults_of(right) if fault.concerns != "all"]
    candidates: list[tuple[str, str, Callable[[bytes], Array]]] = [
        (fault.name, fault.what, _decoder(policy, target)) for fault, policy in policies
    ]
    plain = _decoder(right.decode, None)
    candidates.append(("BGR", "red and blue were swapped (BGR)", lambda data: plain(data)[..., ::-1]))
    clamped = replace(right.decode, sixteen_bit="clamp")
    candidates.append(("16 bits cut", "16-bit values above 255 were cut off", _decoder(clamped, None)))

    def distance(decoder: Callable[[bytes], Array]) -> float:
        return float(
            np.mean([_decoded_distance(decoder(data), pixels, sha256) for data, pixels, sha256 in files])
        )

    before = distance(plain)
    tried = [(distance(decoder), name, what) for name, what, decoder in candidates]
    after, name, what = min(tried)
    if after == 0:
        ending = "with that, all pixels are equal."
        return Diagnosis(name, f"The reference looks as if {what}: {ending}", True, before, after)
    if after < before / 2:
        ending = f"with that, the mean difference falls from {before:.3g} to {after:.3g} levels."
        return Diagnosis(name, f"The reference comes closest as if {what}: {ending}", False, before, after)
    if np.isfinite(before) and before < 2:
        sentence = (
            f"The pixels differ by {before:.2g} levels on average: another JPEG decoder, or another version."
        )
        return Diagnosis("decoder", sentence, False, before, before)
    return _nothing("the decoded pixels", before, after, name)


def diagnose_tokens(walk: TextWalk, text: str, role: str, reference: Array) -> Diagnosis:
    """Try other ways to make tokens, against the reference's ids of one text."""
    wanted = reference.tolist()
    before = _mismatch(walk.ids(text, role).tolist(), wanted)
    for fault, what, ids in _other_tokens(walk, text, role, wanted):
        if ids == wanted:
            sentence = f"The reference looks as if {what}: with that, the token ids are equal."
            return Diagnosis(fault, sentence, True, before, 0.0)
    return _nothing("the token ids", before, before, "")


def diagnose_pooling(walk: TextWalk, text: str, role: str, ids: Array, pooled: Array) -> Diagnosis:
    """Try other poolings, against the reference's pooled vector of one text."""
    tokens = walk.fed_with(ids, text, role)
    own = walk.embed(tokens)
    before = 1 - _cosine(own, pooled)
    for how, vector in walk.pooled_by_each(tokens, pooled).items():
        after = 1 - _cosine(vector, pooled)
        if after < 1e-5 < before:
            sentence = f"The reference looks as if tokens were pooled by {how}: with that, the vectors agree."
            return Diagnosis(f"{how} pooling", sentence, True, before, after)
    return diagnose_vectors(own, pooled)


def diagnose_other_model(theirs: Collection[int], ours: int) -> Diagnosis:
    """The reference's vectors are of other lengths than the model's."""
    numbers = " or ".join(map(str, sorted(theirs)))
    sentence = f"This reference is of another model: its vectors have {numbers} numbers, this model's {ours}."
    return Diagnosis("other model", sentence, False, 1.0, 1.0)


def diagnose_refusal(message: str) -> Diagnosis:
    """The network does not even take what the reference was computed from."""
    sentence = f"The network refuses the reference's input: {message}"
    return Diagnosis("input", sentence, False, 1.0, 1.0)


def diagnose_not_finite() -> Diagnosis:
    """The network gives NaN or infinity."""
    sentence = "Fed with the reference's own input, the network gives values that are not numbers."
    return Diagnosis("not finite", sentence, False, 1.0, 1.0)


def diagnose_vectors(ours: Array, reference: Array) -> Diagnosis:
    """What two vectors of one item tell: only their lengths differ, or the networks do."""
    if ours.shape != reference.shape:
        sentence = (
            f"The reference has {reference.shape[-1]} numbers, the model {ours.shape[-1]}: another output."
        )
        return Diagnosis("other output", sentence, False, 1.0, 1.0)
    before = 1 - _cosine(ours, reference)
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(reference))
    if before < 1e-5:
        sentence = (
            f"Only the lengths differ, {lengths[0]:.4g} here and {lengths[1]:.4g} in the reference: one of the two "
            "is scaled to length 1, or by another factor."
        )
        return Diagnosis("length", sentence, False, before, before)
    sentence = "Fed with the same input the networks differ: other weights, another graph, another output or pooling."
    return Diagnosis("network", sentence, False, before, before)


def _other_tokens(
    walk: TextWalk, text: str, role: str, wanted: list[int]
) -> Iterator[tuple[str, str, list[int]]]:
    own = walk.tokens(text, role).ids
    yield "special tokens", "special tokens were left out", own[1:-1]
    yield "lower case", "texts were lower-cased first", walk.ids(text.lower(), role).tolist()
    yield "stripped", "white space around texts were removed first", walk.ids(text.strip(), role).tolist()
    for name in walk.roles:
        if name != role:
            yield "prompt", f"the prompt {name!r} were used", walk.ids(text, name).tolist()
    yield "padding", "texts were not padded", own
    if len(wanted) < len(own):
        yield "truncation", f"texts were cut at {len(wanted)} tokens", [*own[: len(wanted) - 1], own[-1]]
    if len(wanted) > len(own):
        padding = wanted[len(own) :]
        filled = [*own, *padding] if len(set(padding)) == 1 else own
        yield "padding", f"texts were padded to {len(wanted)} tokens", filled
        cut = wanted[: len(own) - 1] == own[:-1] and wanted[-1] == own[-1]
        yield (
            "truncation",
            f"texts were cut at {len(wanted)} tokens, not at {len(own)}",
            wanted if cut else own,
        )


def _nothing(what: str, before: float, after: float, tried: str) -> Diagnosis:
    closest = (
        f"; the closest, {tried}, leaves {after:.3g} of {before:.3g}" if tried and np.isfinite(after) else ""
    )
    return Diagnosis("", f"None of the known faults explains {what}{closest}.", False, before, after)


def _decoder(policy: Any, target: int | None) -> Callable[[bytes], Array]:
    def run(data: bytes) -> Array:
        try:
            return np.asarray(decode(data, policy, name="picture", target=target).image)
        except InputError:
            return np.empty((0, 0, 3), np.uint8)

    return run


def _decoded_distance(ours: Array, reference: Array | None, sha256: str) -> float:
    if reference is None:
        return 0.0 if pixels_sha256(ours) == sha256 else float("inf")
    return _distance(ours, reference)


def _distance(ours: Array, reference: Array) -> float:
    if ours.shape != reference.shape:
        return float("inf")
    return float(np.abs(ours.astype(np.float64) - reference.astype(np.float64)).mean())


def _mismatch(ours: list[int], wanted: list[int]) -> float:
    same = sum(a == b for a, b in zip(ours, wanted, strict=False))
    return 1 - same / max(len(ours), len(wanted), 1)


def _cosine(one: Array, other: Array) -> float:
    if one.shape != other.shape:
        return 0.0
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one.astype(np.float64) @ other.astype(np.float64)) / max(lengths, 1e-12)
