"""Types of columns, found from values, and how they become wider when values or chunks differ.

int -> float -> string; date -> timestamp; lists by their items. Whole numbers that a float does not hold exactly
make a column a string as well, so nothing is lost. Dictionaries are JSON, in a string. Instants with a time zone
are kept as UTC.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.flow.files import printable

if TYPE_CHECKING:
    import pyarrow as pa

VECTOR = "vector:"
NORM = "norm:"
"""Columns with these prefixes become lists where some record has several."""


class MisfitError(ValueError):
    """Values of a column do not fit the type it should have; the column has to be a string.

    Attributes:
        column: its name.
    """

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def column(name: str, values: list[Any], empty: pa.DataType | None = None) -> pa.Array:
    """Values as a column of the narrowest type that holds them.

    Args:
        name: of the column.
        values: None stands for null.
        empty: the type when the values say nothing of theirs.
    """
    import pyarrow as pa

    plain = _plain(values)
    if plain is not None:
        return plain
    type_ = _type_of_all(values, _may_wrap(name))
    if pa.types.is_null(type_) or type_.equals(pa.list_(pa.null())):
        type_ = empty or type_
    if pa.types.is_fixed_size_list(type_) and pa.types.is_floating(type_.value_type):
        return _vectors(values, type_)
    try:
        return pa.array([_prepared(value, type_) for value in values], type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([None if value is None else text_of(value) for value in values], pa.string())


def _plain(values: list[Any]) -> pa.Array | None:
    """Most columns hold values of one plain type: Arrow takes these as they are, ten times as fast."""
    import pyarrow as pa

    kinds = _kinds(values)
    if kinds == {list}:
        inner = _kinds([item for value in values if value is not None for item in value])
        type_ = pa.list_(pa.string()) if inner == {str} else None
    else:
        arrow = {str: "string", int: "int64", float: "float64", bool: "bool", np.float32: "float32"}
        type_ = pa.type_for_alias(arrow[kinds.pop()]) if len(kinds) == 1 and kinds <= set(arrow) else None
    if type_ is None:
        return None
    try:
        return pa.array(values, type_)
    except (pa.ArrowException, ValueError, OverflowError):
        # Text that is not valid Unicode, whole numbers of more than 64 bits.
        return None


def _kinds(values: Sequence[Any]) -> set[type]:
    return set(map(type, values)) - {type(None)}


def unify(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """The schema that holds the rows of both: the first's columns, then those only the second has."""
    import pyarrow as pa

    types = {field.name: field.type for field in first}
    for field in second:
        known = types.get(field.name)
        types[field.name] = field.type if known is None else _wider(known, field.type, _may_wrap(field.name))
    return pa.schema(list(types.items()))


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema that `unify` has made for it; columns it lacks are null.

    Raises:
        MisfitError: a column would lose something.
    """
    import pyarrow as pa

    if table.schema.equals(schema):
        return table
    columns: list[Any] = []
    for field in schema:
        place = table.schema.get_field_index(field.name)
        if place < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        array = table.column(place).combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, array.type)
        try:
            columns.append(_cast(array, field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise MisfitError(field.name) from error
    return pa.table(columns, schema=schema)


def as_text(schema: pa.Schema, column: str) -> pa.Schema:
    """The schema with one column a string: what remains after a `MisfitError`."""
    import pyarrow as pa

    return schema.set(schema.get_field_index(column), pa.field(column, pa.string()))


def text_of(value: Any) -> str:
    """Any value as text: strings as they are, times in ISO 8601, other things as JSON where JSON has them."""
    if isinstance(value, str):
        text = str(value)
        return text if _is_unicode(text) else _readable(text)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        try:
            return json.dumps(value, ensure_ascii=False, default=text_of)
        except (TypeError, ValueError):
            # Keys that JSON does not have, or a list that holds itself.
            return _readable(str(value))
    return _readable(str(value))


def _vectors(values: list[Any], type_: pa.DataType) -> pa.Array:
    import pyarrow as pa

    missing = np.array([value is None for value in values])
    table = np.zeros((len(values), type_.list_size), type_.value_type.to_pandas_dtype())
    for row, value in enumerate(values):
        if value is not None:
            table[row] = value
    return pa.FixedSizeListArray.from_arrays(
        pa.array(table.reshape(-1)), type=type_, mask=pa.array(missing) if missing.any() else None
    )


def _prepared(value: Any, type_: pa.DataType) -> Any:
    """A value as `pa.array` takes it for a type that was found for its column."""
    import pyarrow as pa

    result: Any
    if value is None:
        result = None
    elif pa.types.is_string(type_):
        result = text_of(value)
    elif _is_list(type_) and isinstance(value, np.ndarray):
        result = _prepared_array(value, type_)
    elif _is_list(type_):
        # A number that stands alone is a norm where other records have several.
        items = [value] if isinstance(value, np.generic) else value
        result = [_prepared(item, type_.value_type) for item in items]
    elif pa.types.is_timestamp(type_) and isinstance(value, date) and not isinstance(value, datetime):
        result = datetime(value.year, value.month, value.day)
    else:
        result = value.item() if isinstance(value, np.ndarray) else value
    return result


def _prepared_array(value: NDArray[Any], type_: pa.DataType) -> Any:
    import pyarrow as pa

    if value.ndim < _depth(type_):
        # One vector where other records have several.
        return [_prepared(value, type_.value_type)]
    if value.ndim == 1 and value.dtype.kind == "f" and pa.types.is_floating(type_.value_type):
        return value.astype(type_.value_type.to_pandas_dtype())
    items = value.tolist() if value.ndim == 1 else list(value)
    return [_prepared(item, type_.value_type) for item in items]


def _type_of_all(values: Sequence[Any], wrap: bool) -> pa.DataType:
    import pyarrow as pa

    kinds = _kinds(values)
    if kinds and kinds <= {list, tuple}:
        inner = itertools.chain.from_iterable(value for value in values if value is not None)
        return pa.list_(_type_of_all(list(inner), wrap=False))
    if kinds == {np.ndarray}:
        values = list({(value.dtype, value.shape): value for value in values if value is not None}.values())
    found = pa.null()
    for type_ in dict.fromkeys(_type_of(value) for value in values if value is not None):
        found = _wider(found, type_, wrap)
    return found


def _type_of(value: Any) -> pa.DataType:
    import pyarrow as pa

    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _type_of_array(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return pa.list_(_type_of_all(list(value), wrap=False))
    if isinstance(value, datetime):
        return pa.timestamp("us", "UTC" if value.tzinfo else None)
    if isinstance(value, (str, Mapping)):
        return pa.string()
    try:
        return pa.scalar(value).type
    except (pa.ArrowException, OverflowError):
        return pa.string()


def _type_of_array(array: NDArray[Any]) -> pa.DataType:
    import pyarrow as pa

    # Half precision is not understood by all readers; float32 holds it exactly.
    number = pa.from_numpy_dtype(np.float32 if array.dtype == np.float16 else array.dtype)
    if array.ndim == 0:
        return number
    dim = array.shape[-1]
    result = pa.list_(number, dim) if dim and pa.types.is_floating(number) else pa.list_(number)
    for _ in range(array.ndim - 1):
        result = pa.list_(result)
    return result


def _wider(first: pa.DataType, second: pa.DataType, wrap: bool) -> pa.DataType:
    """The narrowest type that holds the values of both."""
    import pyarrow as pa

    if first.equals(second) or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    if wrap and _depth(first) != _depth(second):
        flat, deep = sorted((first, second), key=_depth)
        return _wider(pa.list_(flat), deep, wrap)
    if _is_list(first) and _is_list(second):
        return pa.list_(_wider(first.value_type, second.value_type, wrap))
    return _wider_scalar(first, second)


def _wider_scalar(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_integer(first) and pa.types.is_integer(second):
        return pa.int64()
    if _is_number(first) and _is_number(second):
        return pa.float64()
    times = (pa.date32(), pa.timestamp("us"))
    return pa.timestamp("us") if first in times and second in times else pa.string()


def _cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Values as a type that `_wider` has found for them.

    Raises:
        pyarrow.ArrowInvalid: a value would lose something.
    """
    import pyarrow as pa

    if array.type.equals(type_):
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), type_)
    if pa.types.is_string(type_):
        return pa.array([None if value is None else text_of(value) for value in array.to_pylist()], type_)
    if _depth(array.type) < _depth(type_):
        return _wrapped(_cast(array, type_.value_type), type_)
    if _depth(type_) > 1 or (_is_list(type_) and pa.types.is_string(type_.value_type)):
        return pa.array([_prepared(value, type_) for value in array.to_pylist()], type_)
    return array.cast(type_)


def _wrapped(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Lists of one from values; null stays null."""
    import pyarrow as pa

    present = array.is_valid().to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)
    # An offset that is null makes the list at its place null.
    offsets = pa.array(ends, mask=np.append(~present, False))
    return pa.ListArray.from_arrays(offsets, array.drop_null(), type=type_)


def _may_wrap(name: str) -> bool:
    return name.startswith((VECTOR, NORM))


def _is_list(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_))


def _is_number(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _depth(type_: pa.DataType) -> int:
    return 1 + _depth(type_.value_type) if _is_list(type_) else 0


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _readable(text: str) -> str:
    try:
        return printable(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
