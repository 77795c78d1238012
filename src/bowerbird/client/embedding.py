"""`embed` and `outcomes`: texts and pictures, a vector or an error for each."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.client.calls import Answer, Call, Request
from bowerbird.client.parcels import Parcel, parcels
from bowerbird.client.pictures import item
from bowerbird.client.refusals import input_error
from bowerbird.errors import BowerbirdError, InputError, InputErrors
from bowerbird.models.encoder import Outcome

__all__ = ["embed", "outcomes"]


def outcomes(
    inputs: Any,
    *,
    model: str = "",
    role: str = "",
    output: str = "",
    dimensions: int | None = None,
    preprocess: str = "",
    normalize: bool = True,
) -> Call[list[Outcome]]:
    """Like `embed`, with an outcome for every input at its own place: a vector or a typed error.

    The `norm` of an outcome is known with `normalize=False` only; else it is 0.
    """
    rest = {
        "model": model,
        "role": role,
        "output": output,
        "dimensions": dimensions,
        "preprocess": preprocess or "model",
        "normalize": normalize,
        "encoding_format": "base64",
    }
    # What is not said is left out, so that a service of OpenAI's plain kind understands it as well.
    asked = {name: value for name, value in rest.items() if value not in ("", None, "model", True)}
    asking = _Asking(list_of(inputs), asked, ready=preprocess == "none", normalize=normalize)
    return Call(asking.requests(), lambda _: asking.found(), blocking=True)


def embed(
    inputs: Any,
    *,
    model: str = "",
    role: str = "",
    output: str = "",
    dimensions: int | None = None,
    preprocess: str = "",
    normalize: bool = True,
) -> Call[NDArray[np.float32]]:
    """Embed texts and pictures; long lists as several requests, a few of them at once.

    Args:
        inputs: one or several. A `str` is always a text; a picture is a `Path` on this machine, the bytes of a
            picture file, a Pillow image, or a uint8 array (h, w, 3); with `preprocess="none"`, a float32 array
            (3, h, w), or (n, 3, h, w) for n of them.
        model: of `models()`; empty: the service's first.
        role: name of a prompt of the model, such as `query`.
        output: name of a picture output; empty: the one shared with texts.
        dimensions: keep this many and scale to length 1 again, for models trained so; None: all.
        preprocess: `none` for arrays that are ready for the network.
        normalize: scale rows to length 1.

    Returns:
        float32 (n, dim), in the order of the inputs; (0, 0) for none.

    Raises:
        InputErrors: some inputs failed; it holds an error for each of them. `outcomes` gives the rest.
        ModelNotFoundError: the service has no such model.
        ServiceError: the service cannot be reached, or refuses.
    """
    asked = outcomes(
        inputs,
        model=model,
        role=role,
        output=output,
        dimensions=dimensions,
        preprocess=preprocess,
        normalize=normalize,
    )
    return Call(asked.requests, lambda read: stacked(asked.joined(read)), asked.blocking)


def stacked(results: list[Outcome]) -> NDArray[np.float32]:
    """The vectors as one array.

    Raises:
        InputErrors: some are errors.
        BowerbirdError: they are not of one length.
    """
    errors = {result.index: result.error for result in results if result.error}
    if errors:
        raise InputErrors(errors, len(results))
    rows = [result.vector for result in results if result.vector is not None]
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise BowerbirdError(
            f"Texts and pictures have vectors of {' and '.join(map(str, widths))} dimensions here, which one array "
            "cannot hold.",
            hint="Embed them one after the other, or use `outcomes()`.",
        )
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)


def list_of(inputs: Any) -> Iterable[Any]:
    """The inputs one by one, as `Encoder.embed` takes them."""
    from PIL import Image

    single = isinstance(inputs, (str, Path, bytes, Image.Image)) or hasattr(inputs, "read")
    if single or (hasattr(inputs, "__array__") and np.ndim(inputs) != 4):
        return [inputs]
    return inputs  # type: ignore[no-any-return]


class _Asking:
    """The inputs of one call on their way: what was refused here, and what came back."""

    def __init__(
        self, inputs: Iterable[Any], asked: Mapping[str, Any], *, ready: bool, normalize: bool
    ) -> None:
        self._inputs = inputs
        self._asked = dict(asked)
        self._ready = ready
        self._normalize = normalize
        self._found: dict[int, Outcome] = {}

    def requests(self) -> Iterator[Request[None]]:
        for parcel in parcels(self._items()):
            yield self._request(parcel)

    def found(self) -> list[Outcome]:
        return [self._found[index] for index in range(len(self._found))]

    def _items(self) -> Iterator[tuple[int, Any, bool]]:
        for index, value in enumerate(self._inputs):
            try:
                yield index, item(value, ready=self._ready), not isinstance(value, str)
            except InputError as error:
                self._found[index] = Outcome(index, error=error)

    def _request(self, parcel: Parcel) -> Request[None]:
        def halves() -> tuple[Request[None], Request[None]] | None:
            found = parcel.halves()
            return found and (self._request(found[0]), self._request(found[1]))

        return Request(
            "POST",
            "/v1/embeddings",
            lambda answer: self._read(parcel, answer),
            body=parcel.body("input", self._asked),
            halves=halves,
        )

    def _read(self, parcel: Parcel, answer: Answer) -> None:
        for place, entry in _entries(answer, len(parcel.indices)).items():
            self._found[parcel.indices[place]] = self._outcome(parcel.indices[place], entry)

    def _outcome(self, index: int, entry: Mapping[str, Any]) -> Outcome:
        if entry.get("error"):
            return Outcome(index, error=input_error(entry["error"]))
        vector = _vector(entry["embedding"])
        norm = 0.0 if self._normalize else float(np.linalg.norm(vector))
        return Outcome(index, vector, norm, note=str(entry.get("note") or ""))


def _entries(answer: Answer, count: int) -> dict[int, Mapping[str, Any]]:
    """What is said of each input, by its place in the request.

    Raises:
        BowerbirdError: it is a refusal of the whole request.
    """
    if refused := answer.refused_inputs(count):
        return {index: {"error": error} for index, error in refused.items()}
    said = answer.fields()
    try:
        found = {int(entry["index"]): entry for entry in said["data"]}
        if sorted(found) != list(range(count)):
            raise answer.misread(f"it has {len(found)} embeddings for {count} inputs")
        if not all(entry.get("error") or _vector(entry["embedding"]).ndim == 1 for entry in found.values()):
            raise answer.misread("an embedding is no list of numbers")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise answer.misread(error) from None
    return found


def _vector(said: Any) -> NDArray[np.float32]:
    """float32 (dim,): from base64, or from a list of numbers where a service gives these in spite of what is asked."""
    if isinstance(said, str):
        try:
            raw = base64.b64decode(said, validate=True)
        except binascii.Error as error:
            raise ValueError(error) from None
        return np.frombuffer(raw, "<f4").astype(np.float32)
    return np.asarray(said, np.float32)
