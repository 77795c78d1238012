"""What is wrong with a body, in words: where it is, what is wanted there, and what was meant perhaps."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel

from bowerbird.serve.api.errors import ApiError

__all__ = ["fault_of"]

OTHERS = {
    "caption": "text",
    "count": "k",
    "file": "image",
    "filter": "where",
    "id_": "id",
    "image_url": "image",
    "img": "image",
    "metadata": "attributes",
    "n": "k",
    "photo": "image",
    "picture": "image",
    "prompt": "text",
    "q": "text",
    "query": "text",
    "search": "text",
    "size": "k",
    "skip": "offset",
    "top_k": "k",
    "topk": "k",
    "url": "image",
    "texts": "input",
}
"""What other services call these fields."""

SHOWN = 60
"""Characters of a name, or of a value, that a message repeats."""

_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}

Where = tuple[Any, ...]


def fault_of(faults: Sequence[Mapping[str, Any]], kind: type[BaseModel] | None, value: Any) -> ApiError:
    """The error of a body, or of parameters, that are not as they should be: of several faults, one.

    Args:
        faults: as pydantic tells them; of a union, those of each of its kinds.
        kind: what it should be; None: that is not known, and neither is what was given.
        value: what was given.
    """
    if kind is None:
        first = max(faults, key=lambda fault: len(fault["loc"]))
        return _error(tuple(first["loc"]), f"{first['msg']}.")
    if not isinstance(value, dict):
        return _error((), "a JSON object is wanted here.")
    placed = [(_place(fault, value), fault) for fault in faults]
    # The longest way down came closest to what was meant.
    deepest = max(len(where) for where, _ in placed)
    where = next(where for where, _ in placed if len(where) == deepest)
    named = bool(where) and isinstance(where[-1], str)
    inside = where[:-1] if named else where
    models = _models(_wanted(kind, inside))
    given = _at(value, inside)
    if models and isinstance(given, dict) and named:
        return _of_fields(inside, models, given, [one for one in placed if one[0][:-1] == inside])
    return _of_value(where, _wanted(kind, where), [fault for place, fault in placed if place == where])


def _place(fault: Mapping[str, Any], value: Any) -> Where:
    """Where a fault is in what was given; pydantic's way there also names the kinds of unions."""
    found: list[Any] = []
    now = value
    last = len(fault["loc"]) - 1
    for index, part in enumerate(fault["loc"]):
        if isinstance(now, dict) and (part in now or (fault["type"] == "missing" and index == last)):
            found.append(part)
            now = now.get(part)
        elif isinstance(now, list) and isinstance(part, int) and 0 <= part < len(now):
            found.append(part)
            now = now[part]
    return tuple(found)


def _at(value: Any, where: Where) -> Any:
    for part in where:
        value = value[part]
    return value


def _wanted(kind: Any, where: Where) -> list[Any]:
    """The types that may stand at a place."""
    found = _flat(kind)
    for part in where:
        inner: list[Any] = []
        for one in found:
            origin, inside = typing.get_origin(one), typing.get_args(one)
            if isinstance(one, type) and issubclass(one, BaseModel) and part in one.model_fields:
                inner += _flat(one.model_fields[part].annotation)
            elif origin is list and isinstance(part, int):
                inner += _flat(inside[0])
            elif origin is dict and isinstance(part, str):
                inner += _flat(inside[1])
        found = inner
    return found


def _flat(kind: Any) -> list[Any]:
    """The kinds of a union, however it is written."""
    if typing.get_origin(kind) is Annotated:
        return _flat(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (Union, types.UnionType):
        return [one for each in typing.get_args(kind) for one in _flat(each)]
    return [kind]


def _models(kinds: Iterable[Any]) -> list[type[BaseModel]]:
    return [one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)]


# What is said of it


def _of_fields(
    inside: Where,
    models: Sequence[type[BaseModel]],
    given: Mapping[str, Any],
    placed: Sequence[tuple[Where, Mapping[str, Any]]],
) -> ApiError:
    """Of an object: a name that no field has, fields that exclude each other, one that is missing or wrong."""
    known = list(dict.fromkeys(name for model in models for name in model.model_fields))
    for name in given:
        if name not in known:
            return _unknown(inside, name, known, models)
    meant = [one for one in models if _means(one, given)]
    if len(meant) != 1 and len(models) > 1:
        needed = [name for model in models for name in _needed(model)]
        both = [name for name in needed if name in given]
        said = f"{_listed(both, 'and')} exclude each other; give one of them." if len(both) > 1 else ""
        return _error(inside, said or f"give {_listed(needed, 'or')}.")
    (model,) = meant or models
    wrong = [(where, fault) for where, fault in placed if len(models) == 1 or model.__name__ in fault["loc"]]
    where, fault = next(iter(wrong), placed[0])
    if fault["type"] == "extra_forbidden":
        return _error(where, f"does not belong to {_listed(_needed(model), 'and')}; leave it out.")
    if fault["type"] == "missing":
        return _error(where, "is missing.")
    return _of_value(where, _wanted(model, where[-1:]), [one for place, one in wrong if place == where])


def _means(model: type[BaseModel], given: Mapping[str, Any]) -> bool:
    """Whether an object is meant to be of a kind, by its `type` or by what it has."""
    said = model.model_fields.get("type")
    if said is not None and "type" in given:
        return given["type"] in typing.get_args(said.annotation)
    needed = _needed(model)
    return bool(needed) and all(name in given for name in needed)


def _needed(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _unknown(inside: Where, name: str, known: Sequence[str], models: Sequence[type[BaseModel]]) -> ApiError:
    near = get_close_matches(name.lower(), known, 1, 0.6)
    if (other := OTHERS.get(name.lower(), "")) in known:
        near = [other]
    meant = f" Did you mean {near[0]}?" if near else ""
    if len(models) > 1:
        needed = [one for model in models for one in _needed(model)]
        said = f"give {_listed(needed, 'or')}; {_cut(name)} is none of them.{meant}"
        return _error(inside, said, param=(*inside, name))
    fields = f"The fields are {', '.join(known)}."
    at = f" in {_dotted(inside)}" if inside else ""
    return ApiError(
        400,
        f"There is no field {_cut(name)}{at}.{meant} {fields}",
        code="invalid_value",
        param=_dotted((*inside, name)),
    )


def _of_value(where: Where, wanted: Sequence[Any], faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """Of a value that is of another type, or out of its range."""
    for fault in faults:
        if fault["type"] == "missing":
            return _error(where, "is missing.")
        if not fault["type"].endswith(("_type", "_error", "_parsing", "_attributes_type")):
            return _error(where, f"{_plain(fault['msg'])}.")
    said: list[str] = []
    for one in wanted:
        if typing.get_origin(one) is Literal:
            said += typing.get_args(one)
        elif typing.get_origin(one) is list:
            said.append("a list")
        else:
            said.append(_WORDS.get(one, "an object"))
    said = [one for one in dict.fromkeys(said) if one != "null"]
    if said:
        return _error(where, f"give {_listed(said, 'or')}.")
    return _error(where, f"{faults[0]['msg'] if faults else 'is not understood'}.")


def _plain(said: str) -> str:
    """What pydantic says, without its own terms."""
    said = said.replace("Input should be", "must be").replace(" after validation", "")
    return f"{said[:1].lower()}{said[1:]}"


def _error(where: Where, said: str, param: Where | None = None) -> ApiError:
    name = _dotted(where)
    verb = " " if said.startswith(("is ", "does ", "must ")) else ": "
    return ApiError(
        400,
        f"{name or 'The body'}{verb}{said}",
        code="invalid_value",
        param=_dotted(where if param is None else param),
    )


def _dotted(where: Where) -> str:
    return ".".join(str(part)[:SHOWN] for part in where)


def _cut(name: str) -> str:
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}…")


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
