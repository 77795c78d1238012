"""Files of TREC: judgements (qrels), runs, and queries.

- A line of qrels is `QUERY 0 RECORD GRADE`, of a run `QUERY Q0 RECORD RANK SCORE NAME`, with blanks or tabs between.
  Where a line has tabs, fields are separated by tabs alone, so that ids may hold blanks.
- A line of queries is `QUERY<TAB>TEXT`. A text that is the path of a picture which exists, absolute or relative to the
  file's folder, is that picture. Blank lines are left out everywhere.

Files are UTF-8; those that end in `.gz` are unpacked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bowerbird.errors import QueryError, RowError
from bowerbird.flow.files import picture_at
from bowerbird.flow.sources.addresses import base_name, folder_of, located
from bowerbird.flow.sources.lines import StoppedError, TooLongError, open_lines
from bowerbird.judge.measures import Qrels, Run, ranked
from bowerbird.judge.pairs import closest
from bowerbird.media.reading import one_line
from bowerbird.store.location import writable

SHOWN = 3
"""Examples of unknown records in a message."""


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Judgements: query -> record -> grade.

    Raises:
        UnreadableError: the file cannot be opened.
        RowError: a line is malformed, or judges a record for the second time; it names the file and the line.
    """
    found: dict[str, dict[str, int]] = {}
    for place, line in _lines(path):
        fields = _fields(line)
        if len(fields) != 4:
            raise RowError(
                f"{place} has {len(fields)} fields, and a line of qrels has 4.",
                hint="Write QUERY 0 RECORD GRADE; separate them by tabs where ids hold blanks.",
            )
        query, _, record, grade = fields
        try:
            value = int(grade)
        except ValueError:
            raise RowError(
                f"{place}: the grade {one_line(grade, 60)!r} is not a whole number.",
                hint="Grades are 0 for not relevant, 1 and more for relevant.",
            ) from None
        if record in found.setdefault(query, {}):
            raise RowError(
                f"{place} judges {record!r} for query {query!r} again.", hint="Keep one of the lines."
            )
        found[query][record] = value
    if not found:
        raise RowError(
            f"{base_name(str(path))} holds no judgement.", hint="Write QUERY 0 RECORD GRADE on each line."
        )
    return found


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """What some system found: query -> record -> score. Ranks are not looked at, as by trec_eval.

    Raises:
        UnreadableError: the file cannot be opened.
        RowError: a line is malformed, or a record is found twice; it names the file and the line.
    """
    found: dict[str, dict[str, float]] = {}
    for place, line in _lines(path):
        fields = _fields(line)
        if len(fields) != 6:
            raise RowError(
                f"{place} has {len(fields)} fields, and a line of a run has 6.",
                hint="Write QUERY Q0 RECORD RANK SCORE NAME; separate them by tabs where ids hold blanks.",
            )
        query, _, record, _, score, _ = fields
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise RowError(
                f"{place}: the score {one_line(score, 60)!r} is not a number.", hint="Mend the line."
            )
        if record in found.setdefault(query, {}):
            raise RowError(
                f"{place} finds {record!r} for query {query!r} again.", hint="Keep one of the lines."
            )
        found[query][record] = value
    return found


def read_queries(path: str | Path) -> dict[str, str | Path]:
    """Queries: words, or the path of a picture.

    Raises:
        UnreadableError: the file cannot be opened.
        RowError: a line is malformed, or repeats the id of a query; it names the file and the line.
    """
    folder = folder_of(located(path))
    found: dict[str, str | Path] = {}
    for place, line in _lines(path):
        query, tab, text = line.partition("\t")
        query, text = query.strip(), text.strip()
        if not (tab and query and text):
            raise RowError(
                f"{place} is not a query.", hint="Write its id, a tab, and its words or a picture's path."
            )
        if query in found:
            raise RowError(
                f"{place} repeats the query id {query!r}.", hint="Give each query an id of its own."
            )
        found[query] = picture_at(text, folder) or text
    if not found:
        raise RowError(f"{base_name(str(path))} holds no query.", hint="Write its id, a tab, and its words.")
    return found


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write judgements, to hand them to other tools, with tabs where an id holds blanks.

    Raises:
        StoreError: the file cannot be written.
        QueryError: an id holds a tab or the end of a line.
    """
    rows = [(query, "0", record, str(grade)) for query in qrels for record, grade in qrels[query].items()]
    _write(path, rows)


def write_run(path: str | Path, run: Run, name: str = "bowerbird") -> None:
    """Write what was found, best first, with tabs where an id holds blanks.

    The scores written count down to 1, so that trec_eval sees the same order: a list whose scores belong to several
    scales has no others.

    Raises:
        StoreError: the file cannot be written.
        QueryError: an id holds a tab or the end of a line.
    """
    rows = []
    for query, found in run.items():
        order = ranked(found)
        rows += [
            (query, "Q0", record, str(rank), str(len(order) - rank + 1), name)
            for rank, record in enumerate(order, 1)
        ]
    _write(path, rows)


def known_only(
    qrels: Qrels, known: Callable[[str], str], ids: Sequence[str]
) -> tuple[dict[str, dict[str, int]], str]:
    """Judgements under the ids that an index has, and a sentence about the records that it does not have.

    Those are kept as they are: relevant, and never found, as trec_eval counts them.

    Args:
        qrels: as they were read.
        known: gives the id of the record that a name means; empty: there is none.
        ids: of the index, to suggest from.

    Raises:
        QueryError: the index knows none of them.
    """
    means = {record: known(record) for grades in qrels.values() for record in grades}
    lost = [record for record, id_ in means.items() if not id_]
    if len(lost) == len(means):
        raise QueryError(
            f"None of the {len(means):,} records of the qrels is in the index, for example {lost[0]!r}.",
            hint=f"Its ids look like {ids[0]!r}; qrels may also name records by path or file name."
            if ids
            else "The index is empty.",
        )
    kept: dict[str, dict[str, int]] = {}
    for query, grades in qrels.items():
        into = kept.setdefault(query, {})
        for record, grade in grades.items():
            id_ = means[record] or record
            # Two names of one record: what is good under one of them is good.
            into[id_] = max(grade, into.get(id_, grade))
    return kept, _told(lost, len(means), ids)


def _told(lost: Sequence[str], judged: int, ids: Sequence[str]) -> str:
    if not lost:
        return ""
    examples = []
    for record in lost[:SHOWN]:
        near = closest(record, ids)
        examples.append(f"{one_line(record, 80)!r}" + (f" (did you mean {near!r}?)" if near else ""))
    more = " ..." if len(lost) > SHOWN else ""
    verb = "is" if len(lost) == 1 else "are"
    return (
        f"{len(lost):,} of the {judged:,} judged records {verb} not in the index and can never be found: "
        f"{', '.join(examples)}{more}"
    )


def _lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and the line; blank ones are left out."""
    name = base_name(str(path))
    with open_lines(located(path)) as lines:
        while True:
            lines.mark()
            try:
                line = next(lines)
            except StopIteration:
                return
            except StoppedError as stopped:
                raise stopped.error from None
            except TooLongError as error:
                raise RowError(f"{name}:{lines.number}: {error}.", hint="Is this a text file?") from None
            if lines.damage:
                raise RowError(f"{name}: {lines.damage}.", hint="Save the file as UTF-8.")
            if line.strip():
                yield f"{name}:{lines.number}", line.rstrip("\r\n")


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split("\t")] if "\t" in line.strip() else line.split()


def _write(path: str | Path, rows: Sequence[tuple[str, ...]]) -> None:
    for row in rows:
        for field in row:
            if any(character in field for character in "\t\r\n") or not field.strip():
                raise QueryError(
                    f"The id {field!r} cannot be written to a file of TREC.", hint="Use another id."
                )
    blank = any(len(field.split()) != 1 for row in rows for field in row)
    text = "".join(("\t" if blank else " ").join(row) + "\n" for row in rows)
    with writable(Path(path)):
        Path(path).write_text(text, "utf-8", "surrogateescape")
