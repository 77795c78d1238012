"""Recipes of preprocessing: the text that ``str(Steps)`` writes, read back.

A recipe is steps with ``->`` between them; a step is a phrase, and after commas what differs from the ordinary::

    resize short side 256 bicubic -> centre crop 224x224 -> x * 1/255, mean [0.485, 0.456, 0.406], std [...]

Sizes are width x height.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from bowerbird.errors import ModelFormatError
from bowerbird.models.vision.steps import (
    RESAMPLE_NAMES,
    CenterCrop,
    Floats,
    Patches,
    PatchResize,
    Resize,
    Scale,
    ShareCrop,
    Step,
)

Fields: TypeAlias = dict[str, Any]

_FILTER = rf"(?P<resample>{'|'.join(RESAMPLE_NAMES)})"
_SIZE = r"(?P<width>\d+)\s*x\s*(?P<height>\d+)"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_FRACTION = rf"(?:{_NUMBER})(?:\s*/\s*{_NUMBER})?"
_TRIPLE = rf"(?:{_FRACTION}|\[[^\]]*\])"


@dataclass(frozen=True)
class Option:
    """One phrase after a comma.

    Attributes:
        example: shown when nothing fits.
        pattern: of the whole phrase.
        says: the match to fields of the step.
    """

    example: str
    pattern: str
    says: Callable[[re.Match[str]], Fields]


@dataclass(frozen=True)
class Rule:
    """One way to say a step.

    Attributes:
        example: shown when nothing fits.
        pattern: of the phrase before the first comma; its named groups are the step's fields.
        build: fields to step.
        options: what may follow after commas.
    """

    example: str
    pattern: str
    build: Callable[..., Step]
    options: tuple[Option, ...] = ()


def _word(text: str, **fields: Any) -> Option:
    """A fixed phrase that stands for these fields."""
    return Option(text, re.escape(text), lambda _: fields)


def _numbers(text: str) -> tuple[float, ...]:
    """``0.5`` or ``[0.5, 0.5, 0.5]``, also with fractions, to three numbers."""
    found = tuple(_value(part) for part in text.strip("[] ").split(","))
    if len(found) not in (1, 3):
        raise ValueError(f"{text} is neither one number nor three")
    return found * 3 if len(found) == 1 else found


def _value(text: str) -> float:
    if not re.fullmatch(_FRACTION, text.strip(), re.IGNORECASE):
        raise ValueError(f"{text.strip() or 'nothing'} is not a number")
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


_KERNELS = (_word("by torch", kernel="torch"), _word("by pillow", kernel="pillow"))
_RESIZED = (_word("rounded", rounding="round"), _word("truncated", rounding="truncate"), *_KERNELS)
_CROPPED = (
    _word("half to even", rounding="even"),
    _word("padded after", padding="after"),
    _word("padded before", padding="before"),
)
_FILLED = Option(
    "fill 0 0 0", r"fill (\d+) (\d+) (\d+)", lambda found: {"fill": tuple(map(int, found.groups()))}
)
_SCALED = (
    Option("mean 0.5", rf"mean (?P<mean>{_TRIPLE})", re.Match.groupdict),
    Option("std 0.5", rf"std (?P<std>{_TRIPLE})", re.Match.groupdict),
    Option("minus 1", rf"minus (?P<value>{_FRACTION})", lambda found: {"offset": _value(found["value"])}),
    Option("std again 0.5", rf"std again (?P<again>{_TRIPLE})", re.Match.groupdict),
    _word("bgr", order="bgr"),
    _word("rgb", order="rgb"),
)
_PRECISE = (
    _word("in float32", arithmetic="float32"),
    _word("fused", arithmetic="fused"),
    _word("divided", arithmetic="divide"),
)


def _resize(width: int, height: int, resample: str, mode: str = "", **rest: Any) -> Step:
    return Resize(height, width, mode or "square", RESAMPLE_NAMES.index(resample), **rest)


def _short_side(side: int, resample: str, longest: int = 0, **rest: Any) -> Step:
    return Resize(side, side, "shortest", RESAMPLE_NAMES.index(resample), longest=longest, **rest)


def _scale(factor: str, mean: str = "0", std: str = "1", again: str = "", **rest: Any) -> Step:
    numbers = _numbers(again) if again else ()
    return Scale(_value(factor), _numbers(mean), _numbers(std), again=numbers, **rest)


def _divided(divisor: str, **rest: Any) -> Step:
    return _scale(f"1/{divisor}", arithmetic="divide", **rest)


RULES = (
    Rule(
        "resize short side 256 bicubic",
        rf"resize short(?:er|est)? side (?P<side>\d+)(?: at most (?P<longest>\d+))? {_FILTER}",
        _short_side,
        _RESIZED,
    ),
    Rule(
        "resize 224x224 bicubic",
        rf"resize (?:(?P<mode>inside|over) )?{_SIZE} {_FILTER}",
        _resize,
        _RESIZED,
    ),
    Rule(
        "resize into 256 patches of 16 bilinear",
        rf"resize into (?P<count>\d+) patches of (?P<patch>\d+) {_FILTER}",
        lambda resample, **rest: PatchResize(resample=RESAMPLE_NAMES.index(resample), **rest),
        _KERNELS,
    ),
    Rule(
        "centre crop 224x224",
        rf"cent(?:re|er) crop {_SIZE}",
        CenterCrop,
        (*_CROPPED, _FILLED),
    ),
    Rule(
        "centre crop 0.875x0.875 of the short side",
        rf"cent(?:re|er) crop (?P<width>{_NUMBER})\s*x\s*(?P<height>{_NUMBER}) of the short side",
        lambda width, height, **rest: ShareCrop(float(height), float(width), **rest),
        _CROPPED,
    ),
    Rule("floats * 1/255", rf"floats \* (?P<factor>{_FRACTION})", lambda factor: Floats(_value(factor))),
    Rule(
        "x * 1/255, mean 0.5, std 0.5",
        rf"x \* (?P<factor>{_FRACTION})",
        _scale,
        (*_SCALED, *_PRECISE),
    ),
    Rule("x / 255, mean 0.5, std 0.5", rf"x / (?P<divisor>{_NUMBER})", _divided, _SCALED),
    Rule(
        "patches of 16, padded to 256",
        r"patches of (?P<patch>\d+)",
        Patches,
        (Option("padded to 256", r"padded to (\d+)", lambda found: {"count": int(found[1])}),),
    ),
)
_COUNTS = frozenset({"width", "height", "side", "longest", "count", "patch"})


def parse(text: str) -> list[Step]:
    """The steps that a recipe names, in its order.

    Raises:
        ModelFormatError: names the part that is not understood and what would be accepted.
    """
    return [_parse_step(part.strip()) for part in re.split(r"->|→|\n", text.strip())]


def _parse_step(text: str) -> Step:
    head, *rest = (part.strip() for part in re.split(r",(?![^\[]*\])", text))
    for rule in RULES:
        if found := re.fullmatch(rule.pattern, head, re.IGNORECASE):
            break
    else:
        raise _refuse(text, head, [rule.example for rule in RULES])
    fields: Fields = {}
    for name, value in found.groupdict().items():
        if value is not None:
            whole = name in _COUNTS and value.isdigit()
            fields[name] = int(value) if whole else value.lower()
    for part in rest:
        fields |= _parse_option(rule, text, part, fields)
    try:
        step = rule.build(**fields)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise _refuse(text, str(error), [rule.example]) from error
    return _checked(step, text, rule)


def _parse_option(rule: Rule, text: str, part: str, fields: Fields) -> Fields:
    for option in rule.options:
        if found := re.fullmatch(option.pattern, part, re.IGNORECASE):
            said = option.says(found)
            if set(said) & set(fields):
                raise _refuse(text, f"{part}, which is said twice", [rule.example])
            return said
    raise _refuse(text, part, [f"{rule.example}, and then {option.example}" for option in rule.options])


def _checked(step: Step, text: str, rule: Rule) -> Step:
    """Refuse sizes of zero, colours above 255 and scales that divide by zero."""
    sizes = [getattr(step, name, 1) for name in ("width", "height", "patch", "count")]
    if min(sizes) <= 0 or max(getattr(step, "fill", (0,)), default=0) > 255:
        raise _refuse(text, "a size of zero or a colour above 255", [rule.example])
    if isinstance(step, Scale) and (0 in step.std or 0 in step.again or step.factor == 0):
        raise _refuse(text, "a factor or std of zero", [rule.example])
    return step


def _refuse(text: str, part: str, accepted: list[str]) -> ModelFormatError:
    within = f" in {text!r}" if part != text else ""
    return ModelFormatError(
        f"The preprocessing recipe is not understood: {part or 'an empty step'}{within}.",
        hint=f"It would accept: {'; '.join(accepted)}.",
    )
