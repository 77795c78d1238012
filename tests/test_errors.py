"""The exception tree: drawn as it is, and able to travel between processes."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from bowerbird import errors
from bowerbird.errors import BowerbirdError, InputError, InputErrors, MissingExtraError

TREE = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BowerbirdError)
]


def example(kind: type[BowerbirdError]) -> BowerbirdError:
    if kind is InputErrors:
        return InputErrors(
            {4: errors.DecodeError("a.jpg is cut", hint="Copy it again."), 2: InputError("no")}, 9
        )
    if kind is MissingExtraError:
        return MissingExtraError("pillow-heif", "heic")
    if kind is errors.RecordError:
        return errors.RecordError(
            "a.jpg", "decode", errors.DecodeError("a.jpg is cut", hint="Copy it again.")
        )
    return kind("It broke.", hint="Mend it.")


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_round_trip(kind, protocol):
    before = example(kind)
    after = pickle.loads(pickle.dumps(before, protocol))
    assert type(after) is kind
    assert str(after) == str(before)
    assert (after.message, after.hint) == (before.message, before.hint)
    assert {k: repr(v) for k, v in vars(after).items()} == {k: repr(v) for k, v in vars(before).items()}
    assert str(copy.copy(before)) == str(before)


def test_the_tree_in_the_docstring_is_the_tree():
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:│   |    )*)(?:[├└]── )?([A-Z]\w+Error(?:s)?) ", line)
        if match:
            depth = len(match[1]) // 4 + ("── " in line)
            path = [*path[:depth], match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in TREE}


def test_message_and_hint_are_printed_together():
    assert str(BowerbirdError("a.jpg is gone.", hint="Put it back.")) == "a.jpg is gone. Put it back."
    assert str(BowerbirdError("a.jpg is gone.")) == "a.jpg is gone."


def test_input_errors_name_the_first_and_keep_all():
    error = example(InputErrors)
    assert list(error.errors) == [4, 2]
    assert "2 of 9" in str(error)
    assert "index 2: no" in str(error)
    assert "outcomes()" in error.hint


def test_a_missing_extra_names_the_command():
    assert "pip install 'bowerbird[heic]'" in str(example(MissingExtraError))
