"""Records of any plan become rows of an index."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, RecordError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.plan import Plan, Source, Step
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.flow.run import carried_out
from bowerbird.models.encoder import load
from bowerbird.record import Failure, Record
from bowerbird.search.claims import Claims
from bowerbird.search.index import Index
from bowerbird.search.pieces import WritePieces
from bowerbird.search.writer import Progress, Report, Writer
from bowerbird.store import manifest as manifests
from bowerbird.store.location import Location

if TYPE_CHECKING:
    from bowerbird.flow.report import RunReport
    from bowerbird.flow.run import Executor


PEEKED = 1000
"""Records of a source that are looked at to find out which columns they need."""


def write_index(plan: Plan, executor: Executor, target: str) -> RunReport:
    """Bring an index up to date with the records of a plan, and make it if there is none.

    Records are added, or replace those of the same id; none is removed. What the index holds already is not embedded
    again. A plan that does not embed is embedded with the model of the index, or the default one.

    Raises:
        BowerbirdError: the plan embeds with several models.
        SpaceMismatchError: the index is of another model.
        StoreError: the index cannot be written to.
    """
    index = opened(plan, target)
    report = add_records(index, plan, executor)
    done = executor.report
    done.counts.update(
        {
            name: number
            for name in ("added", "changed", "moved", "unchanged", "copies")
            if (number := getattr(report, name))
        }
    )
    if report.interrupted:
        raise KeyboardInterrupt
    return done


def opened(plan: Plan, target: str, *, precision: str = "") -> Index:
    """The index at a place, made if there is none, for the model that a plan embeds with.

    Args:
        plan: what will be written.
        target: path or address of the index.
        precision: that the model is loaded with where the plan does not embed; see `load`.
    """
    embeds = [step for step in plan.steps if isinstance(step, Embed)]
    if len(embeds) > 1:
        names = ", ".join(step.recipe.name for step in embeds)
        raise BowerbirdError(
            f"The records are embedded with several models: {names}; an index holds the vectors of one.",
            hint="Write one index for each model.",
        )
    encoder = embeds[0].encoder() if embeds else None
    if manifests.exists(Location.of(target)):
        return Index.open(target, encoder, precision=precision)
    return Index.create(target, encoder or load(precision=precision))


def add_records(
    index: Index, plan: Plan, executor: Executor, *, progress: Progress | None = None, total: int = 0
) -> Report:
    """Write the records of a plan into an open index.

    Ctrl-C ends the run early, and keeps what was done; see `Report.interrupted`.
    """
    report = Report()
    started = time.monotonic()
    with index.writing():
        embed, plan = _with_embed(plan, index)

        def refused(failure: Failure) -> None:
            executor.report.take(failure)
            executor.report.done -= 1
            if plan.on_error == "raise":
                raise RecordError(failure.id, failure.step, failure.error)

        writer = Writer(index, embed, report, progress=progress, refused=refused)
        if plan.steps[-1] is embed:
            plan = replace(plan, steps=only_new(plan.steps, writer, executor, plan.source))
        if progress:
            progress.start(total)
        writer.write(carried_out(plan, executor, pictures=False))
    report.seconds = time.monotonic() - started
    report.verdict = executor.report.verdict
    return report


def only_new(steps: tuple[Step, ...], writer: Writer, executor: Executor, source: Source) -> tuple[Step, ...]:
    """Steps that end in `embed`, so that they embed only what the table lacks; on a cluster, the workers write too.

    Args:
        steps: of the plan.
        writer: for what they give.
        executor: that will run them.
        source: of the plan; its first records show which columns the table needs.
    """
    known = writer.known
    embed = steps[-1]
    assert isinstance(embed, Embed)
    claimed, replaced = executor.shared(Claims(known.by_content, known.by_place), "__call__", "replaced")
    # The table is the cache here: what it holds is not embedded again.
    embed = replace(embed.with_known(claimed), cached=False)
    if not executor.distributed:
        return (*steps[:-1], embed)
    _make_room(writer, source)
    layout, table = writer.layout, writer.index.table
    writer.alone = False
    pieces = WritePieces(
        table.piece_writer(), layout.columns, layout.names, layout.attributes.fields, replaced
    )
    return (*steps[:-1], embed, pieces)


def _make_room(writer: Writer, source: Source) -> None:
    """Add the columns that the first records of a source need: workers write only what fits those that there are."""
    first = [] if source.once else [item for item in islice(source, PEEKED) if isinstance(item, Record)]
    if any(record.texts for record in first) and writer.index.model.card.text:
        writer.make_room_for_texts()
    rows: list[dict[str, Any]] = []
    for record in first:
        rows.append({})
        writer.layout.attributes.add(rows[-1], record.attributes)
    writer.layout.attributes.settle(rows, writer.index.table)


def _with_embed(plan: Plan, index: Index) -> tuple[Embed, Plan]:
    """The step that embeds, made to keep thumbnails, and the plan with it."""
    found = next((step for step in plan.steps if isinstance(step, Embed)), None)
    if found is None:
        found = Embed(ModelRecipe.of(index.model), f"embed({index.model.card.name})")
        plan = plan.then(found)
    embed = replace(found, thumbnails=True)
    steps = tuple(embed if step is found else step for step in plan.steps)
    return embed, replace(plan, steps=steps)
