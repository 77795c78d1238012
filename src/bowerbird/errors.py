"""Everything Bowerbird raises on purpose.

::

    BowerbirdError                  base: says what, where, and what to do
    ├── InputError                  one input could not become a vector; sits at that input's own place
    │   ├── UnreadableError         the file is missing, forbidden, vanished, too large or too slow to read
    │   ├── DecodeError             the bytes are not a picture we can decode
    │   ├── UnsupportedInputError   the input's type, or the model's lack of a tower for it
    │   ├── RowError                a row of a table is malformed, or its id is taken
    │   └── FunctionError           a function given to a collection raised on one record
    ├── RecordError                 a run with on_error="raise" stopped at this record
    ├── InputErrors                 several inputs of one call failed; `.errors` maps index -> InputError
    ├── ModelError                  a model cannot be found, read or trusted
    │   ├── ModelNotFoundError      no such name or directory
    │   ├── ModelFetchError         the network, the hub or the disk did not allow a download
    │   ├── ModelFormatError        a file of the model is missing, damaged or says something unknown
    │   └── EngineError             an inference engine is missing or refuses the graph
    ├── StoreError                  an index cannot be used as asked
    │   ├── IndexNotFoundError      nothing is indexed there
    │   ├── IndexDamagedError       files of the index are missing or unreadable
    │   ├── IndexBusyError          another process is writing to it
    │   ├── IndexReadOnlyError      the place cannot be written to
    │   ├── StorageFullError        no space is left on the device
    │   └── SpaceMismatchError      vectors of another space or format version: mixing is refused
    ├── QueryError                  a question that cannot be asked: empty, bad filter, bad weights
    ├── ScaleError                  arithmetic on scores of two different scales
    ├── LearnError                  what was given cannot be learned from, or a run of learning went wrong
    │   └── TrainingError           losses or gradients are no numbers any more
    ├── ServiceError                a running service could not be reached, or refused; has its status and code
    └── MissingExtraError           an optional dependency is not installed; names the exact command

The `hint` is the remedy. Command line and service print `str(error)`, which holds both.
"""

from __future__ import annotations

from collections.abc import Mapping


class BowerbirdError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: what happened, naming the thing it happened to.
        hint: what to do about it, as a full sentence; empty when the message says it already.

    Attributes:
        param: the argument that is at fault, such as `where`; empty: that is not known.
    """

    param: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and
        # errors travel between processes as ordinary outcomes.
        state = {"param": self.param} if self.param else None
        return (_rebuild, (type(self), self.message, self.hint), state)


def _rebuild(kind: type[BowerbirdError], message: str, hint: str) -> BowerbirdError:
    return kind(message, hint=hint)


class InputError(BowerbirdError):
    """One input could not become a vector. The other inputs of the call are not affected."""


class UnreadableError(InputError):
    """The bytes could not be read: missing, forbidden, vanished, over the size cap or too slow."""


class DecodeError(InputError):
    """The bytes were read but are not a picture that can be decoded safely."""


class UnsupportedInputError(InputError):
    """The input is of a type, or a modality, that this model does not take."""


class RowError(InputError):
    """A row of a table or a line of a file is malformed, or says what cannot be: an id for the second time."""


class FunctionError(InputError):
    """A function that was given to a collection raised on one record.

    Attributes:
        kind: name of the exception's type.
        trace: its traceback, as text; the last frames, those of the function itself.
    """

    def __init__(self, message: str, *, hint: str = "", kind: str = "", trace: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_function_error, (self.message, self.hint, self.kind, self.trace))


def _rebuild_function_error(message: str, hint: str, kind: str, trace: str) -> FunctionError:
    return FunctionError(message, hint=hint, kind=kind, trace=trace)


class RecordError(BowerbirdError):
    """A run that was told to stop at the first failure stopped at this one; its cause is the error itself.

    Attributes:
        id: of the record.
        step: that failed.
    """

    def __init__(self, id: str, step: str, error: InputError) -> None:
        self.id = id
        self.step = step
        self.error = error
        super().__init__(f"{step} failed at {id}: {error}")
        self.__cause__ = error

    def __reduce__(self) -> tuple[object, ...]:
        return (RecordError, (self.id, self.step, self.error))


class InputErrors(BowerbirdError):
    """Some inputs of one call failed.

    Attributes:
        errors: index of the input -> its error.
    """

    def __init__(self, errors: Mapping[int, InputError], total: int) -> None:
        self.errors = dict(errors)
        self.total = total
        first = min(self.errors)
        super().__init__(
            f"{len(self.errors)} of {total} inputs failed; the first, at index {first}: {self.errors[first]}",
            hint="Use `outcomes()` to get a vector or an error for every input.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (InputErrors, (self.errors, self.total))


class ModelError(BowerbirdError):
    """A model cannot be found, read or trusted."""


class ModelNotFoundError(ModelError):
    """No model of that name, and no directory either."""


class ModelFetchError(ModelError):
    """A model could not be downloaded: no network, not allowed, too many requests, no space."""


class ModelFormatError(ModelError):
    """A file of the model is missing or damaged, or says something that is not understood."""


class EngineError(ModelError):
    """An inference engine is missing, or refuses the graph."""


class StoreError(BowerbirdError):
    """An index cannot be used as asked."""


class IndexNotFoundError(StoreError):
    """There is no index at that place."""


class IndexDamagedError(StoreError):
    """Files of the index are missing or unreadable."""


class IndexBusyError(StoreError):
    """Another process is writing to the index."""


class IndexReadOnlyError(StoreError):
    """The index, or the place where it should be made, cannot be written to."""


class StorageFullError(StoreError):
    """No space is left where the index lies. What was committed before stays searchable."""


class SpaceMismatchError(StoreError):
    """The vectors belong to another embedding space, or the index to another format version."""


class QueryError(BowerbirdError):
    """A question that cannot be asked: empty, an unknown column in a filter, wrong weights."""

    def __init__(self, message: str, *, hint: str = "", param: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class ScaleError(BowerbirdError):
    """Scores of two different scales were about to be compared or added."""


class LearnError(BowerbirdError):
    """What was given cannot be learned from, or a run of learning went wrong."""


class TrainingError(LearnError):
    """A loss or a gradient is not a number any more; the message names the batch."""


class ServiceError(BowerbirdError):
    """A running service could not be reached, or refused what was asked.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        code: what the service calls it, such as `overloaded`; empty: it has no name.
        request_id: that its log knows the request by; empty where there was no answer.
    """

    def __init__(
        self, message: str, *, hint: str = "", status: int = 0, code: str = "", request_id: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_service_error, (self.message, self.hint, self.status, self.code, self.request_id))


def _rebuild_service_error(message: str, hint: str, status: int, code: str, request_id: str) -> ServiceError:
    return ServiceError(message, hint=hint, status=status, code=code, request_id=request_id)


class MissingExtraError(BowerbirdError):
    """An optional dependency is not installed.

    Attributes:
        package: the one that is missing.
        extra: of bowerbird, that brings it; empty when it has to be installed by itself.
    """

    def __init__(self, package: str, extra: str = "") -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"This needs the package {package!r}, which is not installed.",
            hint="Run: pip install " + (f"'bowerbird[{extra}]'" if extra else package),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (MissingExtraError, (self.package, self.extra))
