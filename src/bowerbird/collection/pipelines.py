"""Ready pipelines by the name of their task: one callable with the right steps inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.collection.collection import Collection
from bowerbird.errors import BowerbirdError, InputErrors
from bowerbird.flow.local import Local
from bowerbird.flow.run import Executor
from bowerbird.record import Failure, Record

TASKS = {"image-embedding": "image", "text-embedding": "text", "sentence-embedding": "text"}
"""Tasks, and the part of a record that each of them takes."""


class Pipeline:
    """A callable that embeds pictures or texts; made by `pipeline`.

    Attributes:
        task: a key of `TASKS`.
        model: as `bowerbird.load` takes it.
        executor: where it runs.
    """

    def __init__(self, task: str, model: str, executor: Executor) -> None:
        self.task = task
        self.model = model
        self.executor = executor
        self._part = TASKS[task]
        # Loaded now: a name that is wrong is an error here, and calls do not load anything again.
        from bowerbird.models.encoder import load

        self._encoder = load(model)

    def __repr__(self) -> str:
        return f"<pipeline {self.task}-{self.model}: {self.steps([])!r}>"

    def steps(self, inputs: Sequence[Any]) -> Collection[Record]:
        """The collection that a call with these inputs runs."""
        records = Collection.from_items([self._record(place, value) for place, value in enumerate(inputs)])
        return records.on(self.executor).embed(self._encoder)

    def __call__(self, inputs: Any) -> NDArray[np.float32]:
        """Embed one input, or a list of them.

        Args:
            inputs: pictures: paths, addresses, bytes, Pillow images or uint8 arrays (h, w, 3); or texts. A `str` is
                a path or an address where the task is one of pictures.

        Returns:
            float32 (dim,) for one input, (n, dim) for a list.

        Raises:
            InputErrors: some of a list failed; it says which.
            InputError: the one input failed.
        """
        listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        results = self.steps(listed).to_list()
        errors = {place: result.error for place, result in enumerate(results) if isinstance(result, Failure)}
        if errors and not isinstance(inputs, (list, tuple)):
            raise errors[0]
        if errors:
            raise InputErrors(errors, len(results))
        rows = [result.vectors[self._part] for result in results if isinstance(result, Record)]
        if not isinstance(inputs, (list, tuple)):
            return rows[0]
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def _record(self, place: int, value: Any) -> Record:
        if self._part == "text":
            return Record(f"input {place}", texts=(value,))
        if isinstance(value, str):
            from bowerbird.flow.sources.addresses import picture_at

            return Record(value, image=picture_at(value, "."))
        return Record(str(value) if isinstance(value, Path) else f"input {place}", image=value)


def pipeline(name: str, *, executor: Executor | None = None) -> Pipeline:
    """A ready pipeline.

    Args:
        name: a task and a model: `image-embedding-MODEL`, `text-embedding-MODEL`.
        executor: where it runs; None: on this machine.

    Raises:
        BowerbirdError: there is no such task.
        ModelError: there is no such model, or its files cannot be read.

    >>> embed = pipeline("image-embedding-mini")
    >>> embed(samples() / "chelsea.jpg").shape
    (384,)
    """
    for task in TASKS:
        model = name.removeprefix(f"{task}-")
        if model != name and model:
            return Pipeline(task, model, executor or Local())
    raise BowerbirdError(
        f"There is no pipeline {name!r}.",
        hint=f"Name a task and a model: {', '.join(f'{t}-MODEL' for t in TASKS)}.",
    )
