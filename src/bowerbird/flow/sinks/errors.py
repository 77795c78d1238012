"""The errors file: every failure of a run, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from bowerbird.errors import FunctionError, InputError, RecordError
from bowerbird.flow.plan import Chunk, Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.unfinished import writing
from bowerbird.record import Failure

NAME = "errors.jsonl"


class ErrorsFile:
    """Failures as JSON Lines with `id`, `step`, `kind`, `message`, `hint`, and `trace` where a function raised.

    The file is begun at the first failure, and every line is in it at once. Some failures are the sink's own:
    records that its format cannot hold. They are counted in the report when the run ends.

    Args:
        path: of the file; its folder must exist when the first failure comes.
        step: what failures of the sink itself are said to have failed in.
    """

    def __init__(self, path: Path, step: str = "write") -> None:
        self.path = Path(path)
        self._step = step
        self._file: TextIO | None = None
        self._own: list[Failure] = []
        self._raises = False

    def follow(self, plan: Plan) -> None:
        """Do with the sink's own failures as the plan does with others: `raise` stops at the first."""
        self._raises = plan.on_error == "raise"

    def take_from(self, chunk: Chunk) -> list[object]:
        """Write the failures of a chunk into the file; returns the other elements."""
        kept: list[object] = []
        for item in chunk:
            if isinstance(item, Failure):
                self.add(item)
            else:
                kept.append(item)
        return kept

    def refuse(self, id: str, error: InputError) -> None:
        """A record cannot be written: a failure of the sink's own.

        Raises:
            RecordError: the plan stops at failures.
        """
        if self._raises:
            raise RecordError(id, self._step, error)
        failure = Failure(id, self._step, error)
        self._own.append(failure)
        self.add(failure)

    def add(self, failure: Failure) -> None:
        """Write one failure."""
        line: dict[str, str] = {
            "id": failure.id,
            "step": failure.step,
            "kind": failure.kind,
            "message": failure.error.message,
            "hint": failure.error.hint,
        }
        if isinstance(failure.error, FunctionError):
            line["trace"] = failure.error.trace
        with writing(self.path):
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8")
            # Escaped, since names of files may hold what UTF-8 does not.
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def finish(self, report: RunReport) -> None:
        """Close the file; when nothing failed, there is none, nor one of an earlier run."""
        for failure in self._own:
            report.take(failure)
            report.done -= 1
        if self._file is None:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None
