"""Records of any plan become rows of an index."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
from bowerbird.record import Failure, Modality, Record
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
    from bowerbird.models.encoder import Encoder
    from bowerbird.store import filters


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
    again. A plan that does not embed is embedded with the index's own model, or the default one; vectors of the other
    models of the index, if the plan does not have them, are filled in at the end.

    Raises:
        BowerbirdError: the plan embeds twice with the same model.
        SpaceMismatchError: the plan embeds with a model that the index does not have.
        StoreError: the index cannot be written to.
    """
    index = opened(plan, target)
    report = add_records(index, plan, executor)
    done = executor.report
    done.counts.update(
        {
            name: number
            for name in ("added", "changed", "moved", "unchanged", "copies", "filled")
            if (number := getattr(report, name))
        }
    )
    if report.interrupted:
        raise KeyboardInterrupt
    return done


def opened(plan: Plan, target: str, *, models: Sequence[Encoder] = (), precision: str = "") -> Index:
    """The index at a place, made if there is none, for the models that a plan embeds with.

    Args:
        plan: what will be written.
        target: path or address of the index.
        models: of an index that has to be made, if the plan does not embed; none: the default one.
        precision: that models are loaded with; see `load`.

    Raises:
        BowerbirdError: the plan embeds twice with the same model.
        SpaceMismatchError: the plan embeds with a model that the index does not have.
    """
    encoders = [step.encoder() for step in plan.steps if isinstance(step, Embed)]
    if len({encoder.card.space for encoder in encoders}) < len(encoders):
        names = ", ".join(encoder.card.name for encoder in encoders)
        raise BowerbirdError(
            f"The records are embedded twice with the same model: {names}.",
            hint="An index holds the vectors of a model once: leave out one of the steps.",
        )
    encoders = encoders or list(models)
    if manifests.exists(Location.of(target)):
        return Index.open(target, encoders, precision=precision)
    return Index.create(target, encoders, precision=precision)


def add_records(
    index: Index,
    plan: Plan,
    executor: Executor,
    *,
    progress: Progress | None = None,
    total: int = 0,
    only: filters.Filter | None = None,
    upkeep: bool = True,
    peek: bool = True,
) -> Report:
    """Write the records of a plan into an open index.

    Ctrl-C ends the run early, and keeps what was done; see `Report.interrupted`. So does any error but one of the
    store.

    What the columns for attributes accept is settled by the first `PEEKED` records of the source: numbers among
    which there is a word become text. Where the source can be read only once, or functions make the attributes, by
    the records of the first commit. A column that is new after that takes the type of its first value; whole numbers
    that meet a fraction become fractions, unless workers of a cluster write them.

    Args:
        index: is locked for it.
        plan: whose records are written.
        executor: runs it.
        progress: told about every record.
        total: of its records, for `progress`.
        only: rows of the index that these records can have anything to do with, those of their ids and contents: what
            a few records cost need not grow with the index. None: any.
        peek: False: nothing is looked at before; a column that is new takes the type of its first value.
        upkeep: False: leave tidying up and calibrating for later; see `bowerbird.search.filling.tidy`.
    """
    report = Report()
    started = time.monotonic()
    with index.writing():
        embeds, plan = _with_embeds(plan, index)

        def refused(failure: Failure) -> None:
            executor.report.take(failure)
            executor.report.done -= 1
            if plan.on_error == "raise":
                raise RecordError(failure.id, failure.step, failure.error)

        writer = Writer(
            index,
            embeds,
            report,
            executor=executor,
            progress=progress,
            refused=refused,
            on_error=plan.on_error,
            only=only,
            upkeep=upkeep,
        )
        writer.settled = not peek
        if plan.steps[-len(embeds) :] == embeds:
            if peek:
                _make_room(writer, plan, texts=executor.distributed)
            plan = replace(plan, steps=only_new(plan.steps, writer, executor))
        elif peek:
            _make_room(writer, plan)
        if progress:
            progress.start(total)
        writer.write(carried_out(plan, executor, pictures=False, keep_failures=True))
    report.seconds = time.monotonic() - started
    report.verdict = executor.report.verdict
    return report


def only_new(steps: tuple[Step, ...], writer: Writer, executor: Executor) -> tuple[Step, ...]:
    """Steps that end in those of `Writer.embeds`, so that they embed only what the table lacks.

    On a cluster, the workers write too.

    Args:
        steps: of the plan.
        writer: for what they give.
        executor: that will run them.
    """
    known = writer.known
    # Rows without vectors are in nobody's way, but no piece may bring another row of their ids.
    replaceable = {
        *known.by_place,
        *(f"id:{known.ids[row]}" for rows in known.empty.values() for row in rows),
    }
    claims = Claims(known.by_content, replaceable)
    claimed, replaced = executor.shared(claims, "__call__", "replaced")
    # The table is the cache here: what it holds is not embedded again.
    embeds = [replace(embed.with_known(claimed), cached=False) for embed in writer.embeds]
    steps = (*steps[: len(steps) - len(embeds)], *embeds)
    layout, table = writer.layout, writer.index.table
    if not (executor.distributed and table.pieces):
        return steps
    writer.alone = False
    writer.fixed = frozenset(layout.attributes.fields.names)
    pieces = WritePieces(
        table.piece_writer(),
        layout.columns,
        layout.names,
        layout.attributes.fields,
        replaced,
        frozenset(writer.lacking()),
    )
    return (*steps, pieces)


def _make_room(writer: Writer, plan: Plan, *, texts: bool = False) -> None:
    """Add the columns that the first records of a source need, so that nothing depends on when commits happen.

    Args:
        writer: of the table.
        plan: whose source is looked at.
        texts: add columns for vectors of texts too: workers write only what fits the columns that there are.
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
    if texts and has_texts:
        entries = {entry.space: entry for entry in writer.index.manifest.models}
        lacking = writer.lacking()
        writer.make_room_for_texts([name for name, space in lacking.items() if entries[space].takes("text")])


def _with_embeds(plan: Plan, index: Index) -> tuple[tuple[Embed, ...], Plan]:
    """The steps that embed, made to keep what a table needs, and the plan with them."""
    if not any(isinstance(step, Embed) for step in plan.steps):
        plan = plan.then(Embed(ModelRecipe.of(index.model), f"embed({index.model.card.name})"))
    steps = tuple(for_table(step, index) if isinstance(step, Embed) else step for step in plan.steps)
    return tuple(step for step in steps if isinstance(step, Embed)), replace(plan, steps=steps)


def for_table(embed: Embed, index: Index) -> Embed:
    """A step that embeds, for records that become rows: with thumbnails, and with regard to the other models."""
    models = index.manifest.models
    parts = (part for part in Modality if any(entry.takes(part) for entry in models))
    return replace(
        embed, thumbnails=True, also=frozenset(map(str, parts)) if len(models) > 1 else frozenset()
    )
