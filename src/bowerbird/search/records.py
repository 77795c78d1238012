"""Records of any plan become rows of an index."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, RecordError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.functions import DropMissing, Filter, Tee
from bowerbird.flow.order import DedupeContent, DedupeVectors, Limit, Sample, Sort
from bowerbird.flow.order import Report as Watched
from bowerbird.flow.pictures import Decode
from bowerbird.flow.plan import Plan, Step
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.flow.run import carried_out, closed
from bowerbird.models.encoder import load
from bowerbird.record import Failure, Record
from bowerbird.search.claims import Claims
from bowerbird.search.index import Index
from bowerbird.search.pieces import WritePieces
from bowerbird.search.report import Progress, Report
from bowerbird.search.writer import Writer
from bowerbird.store import manifest as manifests
from bowerbird.store.location import Location

if TYPE_CHECKING:
    from bowerbird.flow.report import RunReport
    from bowerbird.flow.run import Executor


PEEKED = 1000
"""Records of a source that are looked at to find out which columns they need."""

# Steps after which records say of themselves what they said before.
_KEEP_ATTRIBUTES = (
    Embed,
    Decode,
    Filter,
    Tee,
    DropMissing,
    Limit,
    Sample,
    Sort,
    DedupeContent,
    DedupeVectors,
    Watched,
)


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

    Ctrl-C ends the run early, and keeps what was done; see `Report.interrupted`. So does any error but one of the
    store.

    What the columns for attributes accept is settled by the first `PEEKED` records of the source: numbers among
    which there is a word become text. Where the source can be read only once, or functions make the attributes, by
    the records of the first commit. A column that is new after that takes the type of its first value; whole numbers
    that meet a fraction become fractions, unless workers of a cluster write them.
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
            _make_room(writer, plan, texts=executor.distributed)
            plan = replace(plan, steps=only_new(plan.steps, writer, executor))
        else:
            _make_room(writer, plan)
        if progress:
            progress.start(total)
        writer.write(carried_out(plan, executor, pictures=False, keep_failures=True))
    report.seconds = time.monotonic() - started
    report.verdict = executor.report.verdict
    return report


def only_new(steps: tuple[Step, ...], writer: Writer, executor: Executor) -> tuple[Step, ...]:
    """Steps that end in `embed`, so that they embed only what the table lacks; on a cluster, the workers write too.

    Args:
        steps: of the plan.
        writer: for what they give.
        executor: that will run them.
    """
    known = writer.known
    embed = steps[-1]
    assert isinstance(embed, Embed)
    # Rows without vectors are in nobody's way, but no piece may bring another row of their ids.
    replaceable = {
        *known.by_place,
        *(f"id:{known.ids[row]}" for rows in known.empty.values() for row in rows),
    }
    claims = Claims(known.by_content, replaceable)
    claimed, replaced = executor.shared(claims, "__call__", "replaced")
    # The table is the cache here: what it holds is not embedded again.
    embed = replace(embed.with_known(claimed), cached=False)
    if not executor.distributed:
        return (*steps[:-1], embed)
    layout, table = writer.layout, writer.index.table
    writer.alone = False
    writer.fixed = frozenset(layout.attributes.fields.names)
    lacking = frozenset({embed.vector_name("text")}.difference(layout.names.values()))
    pieces = WritePieces(
        table.piece_writer(), layout.columns, layout.names, layout.attributes.fields, replaced, lacking
    )
    return (*steps[:-1], embed, pieces)


def _make_room(writer: Writer, plan: Plan, *, texts: bool = False) -> None:
    """Add the columns that the first records of a source need, so that nothing depends on when commits happen.

    Args:
        writer: of the table.
        plan: whose source is looked at.
        texts: add the column for vectors of texts too: workers write only what fits the columns that there are.
    """
    told = all(isinstance(step, _KEEP_ATTRIBUTES) for step in plan.steps)
    if plan.source.once or not (texts or told):
        return
    attributes, has_texts = writer.layout.attributes, False
    rows: list[dict[str, Any]] = []
    # What a source raises the run will meet again, and keep what came before it.
    source: Iterator[Any] = iter(plan.source)
    with suppress(Exception), closed(source):
        for record in islice(source, PEEKED):
            if isinstance(record, Record):
                has_texts = has_texts or bool(record.texts)
                rows.append({})
                attributes.add(rows[-1], record.attributes)
    if told:
        attributes.settle(rows, writer.index.table)
        writer.settled = True
    if texts and has_texts and writer.index.model.card.text:
        writer.make_room_for_texts()


def _with_embed(plan: Plan, index: Index) -> tuple[Embed, Plan]:
    """The step that embeds, made to keep thumbnails, and the plan with it."""
    found = next((step for step in plan.steps if isinstance(step, Embed)), None)
    if found is None:
        found = Embed(ModelRecipe.of(index.model), f"embed({index.model.card.name})")
        plan = plan.then(found)
    embed = replace(found, thumbnails=True)
    steps = tuple(embed if step is found else step for step in plan.steps)
    return embed, replace(plan, steps=steps)
