"""`bowerbird evaluate`: an index against what is known to be right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import Display, is_terminal, result, say

if TYPE_CHECKING:
    from bowerbird.judge.evaluation import Evaluation


@app.command()
def evaluate(
    index: Annotated[
        str,
        typer.Argument(
            envvar="BOWERBIRD_INDEX", help="The index. Default: that of this folder.", show_default=False
        ),
    ] = "",
    pairs: Annotated[
        str,
        typer.Option(
            metavar="TABLE", help="Pictures and captions: CSV, JSON Lines or Parquet.", show_default=False
        ),
    ] = "",
    queries: Annotated[
        str,
        typer.Option(metavar="TSV", help="Queries of TREC: id, tab, words or a picture.", show_default=False),
    ] = "",
    qrels: Annotated[
        str,
        typer.Option(metavar="FILE", help="Judgements of TREC: query, 0, record, grade.", show_default=False),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="Of a table: the pictures. Default: guessed.", show_default=False
        ),
    ] = "",
    text: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Of a table: the texts. Default: guessed.", show_default=False),
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model of the index; may be repeated. Default: all.", show_default=False),
    ] = None,
    fusion: Annotated[
        list[str] | None,
        typer.Option(
            help="calibrated, rank, weighted or raw; may be repeated. Default: all.", show_default=False
        ),
    ] = None,
    measures: Annotated[
        str, typer.Option(metavar="NAMES", help="Such as R@1,R@10,nDCG@10,AP,RR.", show_default=False)
    ] = "",
    depth: Annotated[
        int, typer.Option("--depth", "-k", min=1, help="Results of each query that are judged.")
    ] = 100,
    where: Annotated[
        str,
        typer.Option(metavar="SQL", help="Only records that pass are there to be found.", show_default=False),
    ] = "",
    by_words: Annotated[
        bool, typer.Option("--words", help="With --queries: also search texts for the words (BM25).")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Write a report (HTML).", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the values of every query.")] = False,
    run_out: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Write what the first system found, for trec_eval.", show_default=False
        ),
    ] = "",
    matrix: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="With --pairs: every text against every picture, .npy or .png.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Measure how well an index finds what is known to be right.

    \b
    bowerbird evaluate photos.bower --pairs captions.csv -o report.html
    bowerbird evaluate photos.bower --pairs captions.csv --measures R@1,R@10,nDCG@10 --matrix similarity.npy
    bowerbird evaluate photos.bower --queries q.tsv --qrels qrels.txt --run-out run.txt

    Every model of the index is judged, and every fusion of them. Measures are spelled and defined as in ir-measures;
    each comes with a 95 % interval and a p-value against the first system. On a terminal a table; in a pipe, for each
    figure one line of direction, models, fusion, measure, mean, low, high and p, with tabs between.
    """
    from bowerbird.errors import BowerbirdError
    from bowerbird.judge.evaluate import MEASURES, evaluate_index
    from bowerbird.search.fuse import FUSIONS
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    if matrix and not pairs:
        raise BowerbirdError(
            "--matrix compares texts and pictures of pairs.", hint="Add --pairs, or leave it out."
        )
    if matrix and not matrix.lower().endswith((".npy", ".png")):
        raise BowerbirdError(f"--matrix {matrix} is no name of a matrix.", hint="Give one in .npy or .png.")
    if (image or text) and not pairs:
        raise BowerbirdError("--image and --text are columns of a table.", hint="Add --pairs TABLE.")
    opened = Index.open(resolve(index, Path.cwd()))
    with Display("Asking") as display:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if not shown:
                display.start(total)
            display.advance(done - shown)
            shown = done

        found = evaluate_index(
            opened,
            pairs=pairs or None,
            queries=queries or None,
            qrels=qrels or None,
            image=image,
            text=text,
            models=model or "all",
            fusions=fusion or FUSIONS,
            measures=measures.split(",") if measures else MEASURES,
            k=depth,
            where=where,
            by_words=by_words,
            whole_matrix=bool(matrix),
            progress=progress,
        )
    for problem in found.problems:
        say(problem)
    _files(found, output, run_out, matrix)
    if as_json:
        result(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    elif is_terminal():
        _table(found)
    else:
        _lines(found)


def _files(found: Evaluation, output: str, run_out: str, matrix: str) -> None:
    """Write what was asked for."""
    from bowerbird.judge.trec import write_run
    from bowerbird.store.location import writable

    if run_out:
        first = found.rows[0]
        write_run(Path(run_out).expanduser(), first.run, "+".join(first.models.split()))
        say(f"Run of {first.models}: {run_out}")
    if matrix and found.similarity is not None:
        found.similarity.save(Path(matrix).expanduser())
        rows, columns = found.similarity.values.shape
        say(f"Matrix of {rows:,} texts and {columns:,} pictures: {matrix}")
    if output:
        place = Path(output).expanduser()
        with writable(place):
            place.write_text(found.page(), "utf-8")
        say(f"Report: {output}")


def _lines(found: Evaluation) -> None:
    for row in found.rows:
        for one, figure in row.figures.items():
            p = "" if figure.p is None else f"{figure.p:.4g}"
            numbers = (f"{figure.mean:.4f}", f"{figure.low:.4f}", f"{figure.high:.4f}", p)
            result("\t".join((row.direction, row.models, row.fusion, str(one), *numbers)))


def _table(found: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    for task in found.tasks:
        rows = [row for row in found.rows if row.direction == task.direction]
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("system", overflow="fold")
        for one in found.measures:
            table.add_column(str(one), justify="right")
        for row in rows:
            cells = []
            for one in found.measures:
                figure = row.figures[one]
                form = "g" if one.less_is_better else ".3f"
                sure = "*" if figure.p is not None and figure.p < 0.05 else ""
                cell = Text(f"{figure.mean:{form}}{sure}")
                cells.append(cell.append(f"\n{figure.low:{form}}-{figure.high:{form}}", style="dim"))
            table.add_row(Text(f"{row.models}{f', {row.fusion}' if row.fusion else ''}"), *cells)
        answers = f"{len(rows[0].scores.queries):,} queries, {task.pool:,} answers to choose from"
        console.print(Text(f"{task.direction}: ", style="bold").append(answers, style="not bold dim"))
        console.print(table)
        console.print()
    last = "95 % intervals below each figure"
    if any(figure.p is not None for row in found.rows for figure in row.figures.values()):
        last += "; * differs from the first system of its table, p below 0.05"
    console.print(Text(last, style="dim"))
