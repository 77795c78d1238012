"""`bowerbird calibrate`: measure what unrelated pairs score in an index, so that a match can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption
from bowerbird.cli.screen import result, say

if TYPE_CHECKING:
    from bowerbird.search.background import Background
    from bowerbird.search.index import Index
    from bowerbird.search.labels import Fit
    from bowerbird.store.manifest import ModelEntry


@app.command()
def calibrate(
    index: Annotated[
        str,
        typer.Argument(
            metavar="[INDEX]",
            help="Directory or address of an index. Default: that of the current folder.",
            show_default=False,
        ),
    ] = "",
    pairs: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Judged pairs, CSV: query, record, label (1 or 0). Refines the match. Paths are relative to the "
            "file's folder, then to the working directory.",
            show_default=False,
        ),
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Which of its models; may be repeated. Default: all.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    forget_labels: Annotated[
        bool, typer.Option("--forget-labels", help="Drop what was learned from judged pairs before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what unrelated pairs score, so that `match` means the same for pictures and texts under any model.

    \b
    bowerbird calibrate photos.bower
    bowerbird calibrate photos.bower --pairs labelled.csv
    bowerbird calibrate photos.bower --forget-labels

    Indexing does this by itself when a tenth of an index came, went or changed. What was learned from pairs is kept
    until it is learned anew or forgotten.
    """
    from bowerbird.search.calibrate import calibrate as measured
    from bowerbird.search.calibrate import calibrate_with
    from bowerbird.search.entries import labels
    from bowerbird.search.index import Index
    from bowerbird.search.labels import read_pairs
    from bowerbird.search.places import resolve

    judged = read_pairs(pairs) if pairs else []
    opened = Index.open(resolve(index, Path.cwd(), model or ()))
    learned: dict[str, tuple[list[Fit], list[str]]] = {}
    if pairs:
        learned = calibrate_with(opened, judged, model or "all", seed=seed, forget_labels=forget_labels)
    else:
        measured(opened, model or "all", seed=seed, forget_labels=forget_labels)
    names = labels(opened.manifest.models)
    facts = [_facts(opened, entry, names[entry.space], learned) for entry in opened.entries(model or "all")]
    if as_json:
        result(json.dumps(facts, indent=1))
        return
    for fact in facts:
        _lines(fact)


def _facts(
    opened: Index, entry: ModelEntry, name: str, learned: dict[str, tuple[list[Fit], list[str]]]
) -> dict[str, Any]:
    """What was measured for a model, as plain data."""
    from dataclasses import asdict

    background: Background = opened.background(entry)
    fits, problems = learned.get(entry.space, ([], []))
    return {
        "model": name,
        "records": background.records,
        "correction": asdict(background.correction),
        "pairs": [
            {"query": kind, "column": column, **pair.to_dict()}
            for (kind, column), pair in background.pairs.items()
        ],
        "labels": [asdict(fit) for fit in fits],
        "problems": problems,
    }


def _lines(fact: dict[str, Any]) -> None:
    correction = fact["correction"]
    result(f"{fact['model']}: measured on {fact['records']:,} records")
    result(f"  modality gap: {'corrected' if correction['on'] else 'left as it is'}, as {correction['why']}")
    for pair in fact["pairs"]:
        result(
            f"  {pair['query']} -> {pair['column']}: unrelated pairs score "
            f"{pair['raw']:.3f} on average, give or take {pair['raw_deviation']:.3f}"
        )
    for fit in fact["labels"]:
        result(
            f"  {fit['query']} -> {fit['column']}: {fit['method']} on {fit['pairs']:,} labelled pairs; "
            f"log loss {fit['before']:.3f} before, {fit['after']:.3f} on pairs left out of the fit"
        )
    for problem in fact["problems"][:5]:
        say(problem)
    if len(fact["problems"]) > 5:
        say(f"... and {len(fact['problems']) - 5:,} more")
