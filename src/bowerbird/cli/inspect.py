"""`bowerbird inspect`: what a model does, exactly; and a picture after every step of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.given import EngineOption, JsonOption, PrecisionOption
from bowerbird.cli.screen import bytes_, native_libraries_silent, numerics_line, result, say


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A name or a directory.")],
    picture: Annotated[
        Path | None, typer.Argument(help="A picture, to be shown after every step.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Draw the picture after every step in this file.", show_default=False
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List every layer.")] = False,
    precision: PrecisionOption = "",
    engine: EngineOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show a model's exact steps, sizes, prompts, pooling, outputs, layers, fingerprint and files.

    \b
    bowerbird inspect mini
    bowerbird inspect mini cat.jpg -o stages.png
    """
    from bowerbird.judge.portrait import portrait, stages
    from bowerbird.models.encoder import load

    if out is not None and picture is None:
        raise typer.BadParameter("There is no picture to draw.", param_hint="--out")
    encoder = load(model, precision=precision, engine=engine)
    facts = portrait(encoder)
    if picture is not None:
        with native_libraries_silent():
            found = stages(encoder, picture)
        facts["picture"] = {"name": str(picture), "stages": [stage.to_json() for stage in found]}
        if out is not None:
            _draw(
                found,
                out,
                f"{facts['model']}: {picture.name}",
                f"space {facts['space']}: {facts['image']['recipe']}",
            )
    if as_json:
        result(json.dumps(facts, indent=1))
        return
    for heading, value in _lines(facts, every_layer=layers):
        result(f"{heading:<12}{value}".rstrip())
    if picture is not None and out is None:
        say("With -o FILE.png the picture is also drawn after every step.")


def _draw(found: Sequence[Any], out: Path, title: str, subtitle: str) -> None:
    from bowerbird.judge.panels import draw
    from bowerbird.search.index import writable

    with writable(out):
        draw(found, title, subtitle).save(out, "PNG")
    say(f"Every step is drawn in {out}.")


def _lines(facts: Mapping[str, Any], *, every_layer: bool) -> Iterator[tuple[str, str]]:
    """(heading, value) for people."""
    yield "model", facts["model"]
    yield "space", facts["space"]
    yield "directory", facts["directory"]
    yield "licence", facts["license"] or "its files do not say"
    for name, value in facts["options"].items():
        yield name, str(value)
    for tower, title, conditions in (("image", "pictures", _of_pictures), ("text", "texts", _of_texts)):
        if facts[tower]:
            yield "", ""
            yield title, numerics_line(facts["numerics"][tower])
            yield from (
                (f"  {heading}" if heading else "", value) for heading, value in conditions(facts[tower])
            )
            yield from _of_graph(facts[tower], every_layer=every_layer)
    yield "", ""
    for number, file in enumerate(facts["files"]):
        yield "" if number else "files", f"{file['sha256'][:16]}  {bytes_(file['bytes']):>9}  {file['path']}"
    if "picture" in facts:
        yield "", ""
        yield from _of_picture(facts["picture"])


def _of_pictures(tower: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "decode", ", ".join(f"{name} {_plain(value)}" for name, value in tower["decode"].items())
    for number, step in enumerate(tower["recipe"].split(" -> "), 1):
        yield "" if number > 1 else "steps", f"{number}  {step}"
    low, high = tower["range"]
    size = f", {tower['size'][1]} x {tower['size'][0]}" if tower["size"] else ""
    yield "values", f"{low:.4g} to {high:.4g}{size}" + (", given by you" if tower["prepared"] else "")
    shared, similar = tower["output"], tower["similarity_output"]
    yield "vector", f"{shared}, {tower['dimensions'][shared]} dimensions"
    if similar != shared:
        yield "", f"{similar}, {tower['dimensions'][similar]} dimensions, between pictures"


def _of_texts(tower: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    padding = f"padded to {tower['padding']}" if tower["padding"] else "padded to the longest of a batch"
    masked = "" if tower["masked"] else ", padding is not masked"
    yield (
        "tokens",
        f"at most {tower['max_tokens']}, {padding} on the {tower['pad_side']} with {tower['pad_id']}{masked}",
    )
    if tower["clean"]:
        yield "cleaned", ", ".join(tower["clean"])
    for number, (name, prompt) in enumerate(tower["prompts"].items()):
        default = "  (default)" if name == tower["default_prompt"] else ""
        yield "" if number else "prompts", f"{name}: {prompt!r}{default}"
    output = tower["outputs"].get(tower["output"])
    by_graph = output is not None and len(output["shape"]) == 2
    yield (
        "pooling",
        ", ".join([" + ".join(tower["pooling"])] * bool(tower["pooling"]) + ["by the graph"] * by_graph),
    )
    for module in tower["after"]:
        yield "then", ", ".join(f"{name} {_plain(value)}" for name, value in module.items())
    yield "vector", f"{tower['output']}, {tower['dimensions']} dimensions"


def _of_graph(tower: Mapping[str, Any], *, every_layer: bool) -> Iterator[tuple[str, str]]:
    yield "  graph", tower["graph"] + (f" ({tower['variant']})" if tower["variant"] else "")
    for heading, specs in (("inputs", tower["inputs"]), ("outputs", tower["outputs"])):
        for number, (name, spec) in enumerate(specs.items()):
            yield "" if number else f"  {heading}", f"{name}  {spec['dtype']} {_shape(spec['shape'])}"
    layers = tower["layers"]
    shown = layers if every_layer or len(layers) <= 7 else [*layers[:3], None, *layers[-3:]]
    for number, layer in enumerate(shown):
        hidden = f"... {len(layers) - 6} more, with --layers"
        line = (
            f"{layer['number']:>3}  {layer['name']}  {_shape(layer['shape'])}" if layer else f"     {hidden}"
        )
        yield "" if number else "  layers", line
    if tower["penultimate"]:
        yield "", f"     penultimate: {tower['penultimate']}"


def _of_picture(picture: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "picture", picture["name"]
    for number, stage in enumerate(picture["stages"], 1):
        yield "", f"{number}  {stage['step']}"
        yield "", f"   {_shape(stage['shape'])} {stage['dtype']}"
        for figure in ("min", "max", "mean"):
            yield "", f"   {figure:<5}" + "".join(f"{value:>10.4g}" for value in stage[figure])


def _shape(shape: Sequence[int | None] | None) -> str:
    from bowerbird.judge.portrait import shape_of

    return shape_of(shape)


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
