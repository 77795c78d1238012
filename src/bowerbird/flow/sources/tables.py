"""Tables in text files, CSV and JSON Lines: a record for each row."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError, InputError, RowError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import base_name, folder_of, located, shown
from bowerbird.flow.sources.cells import Survey, converter
from bowerbird.flow.sources.lines import MAX_CHARACTERS, Lines, StoppedError, TooLongError, open_lines
from bowerbird.flow.sources.rows import Columns, Repeats
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

LOG = logging.getLogger("bowerbird")

_OTHER_DELIMITERS = ",;\t|#:~^ "


@dataclass(frozen=True)
class CsvSource(Source):
    """A CSV or TSV file, read with Python's `csv` module in its strict mode; a record for each row.

    The first row names the columns; one without a name is `column_3` by its place, a second one of the same name gets
    its place behind it. UTF-8 with or without a byte order mark, any line ends; quoted fields may hold the delimiter,
    line ends, and doubled quotes. Blank lines are left out. A file that ends in `.gz` is unpacked.

    The file is read twice: first for the types of its columns, which are the same in all rows, then for the rows.
    Attributes are int, float, bool (`true`, `false`), datetime (ISO 8601 dates and times) or else str; an empty cell
    is None. The columns named here stay text, and become no attributes. When a few cells alone make a column of
    numbers text, a warning is logged that names the first of them.

    A broken row is a `Failure` at its place. When a quote is not closed, the row that opens it is the broken one and
    reading goes on with the next line.

    Attributes:
        path: a local path or an address.
        delimiter: one character; None: a tab for `.tsv` and `.tab`, and where the first line has tabs and no comma;
            otherwise a comma. Others are never guessed.
        image: column of the picture: a path, or an address. Empty cells are records without one. Whether the file is
            there is not looked for here.
        text: column of the text, or several; empty texts are left out.
        id: column of the id; without it, ids are `annotations.csv:17`, where 17 is the line that the row starts in.
        root: folder or address that relative pictures are below; empty: the one the file is in.
        quote: what encloses fields; empty: nothing does, as in files that were written without quoting.

    Raises:
        BowerbirdError: `delimiter` or `quote` is not one character.
    """

    path: str | Path
    delimiter: str | None = None
    image: str = ""
    text: str | Sequence[str] = ""
    id: str = ""
    root: str | Path = ""
    quote: str = '"'
    _warned: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    label = "from_csv"

    def __post_init__(self) -> None:
        _settle(self)
        for name, value in (("delimiter", self.delimiter), ("quote", self.quote or None)):
            if value is not None and (len(value) != 1 or value in "\r\n\0"):
                raise BowerbirdError(
                    f"{name}={value!r} is not one character.", hint="Give one, such as ';' or '#'."
                )
        if self.delimiter is not None and self.delimiter == self.quote:
            raise BowerbirdError(
                f"{self.delimiter!r} cannot be delimiter and quote at once.", hint="Change one."
            )

    def describe(self) -> str:
        """See `Source`."""
        return f"rows of {shown(str(self.path))}"

    def names(self) -> list[str]:
        """The columns."""
        with self._open(_columns(self)) as (header, _):
            return header

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: the file cannot be opened, has no header, or lacks a column that was named.
        """
        columns = _columns(self)
        name = base_name(str(self.path))
        kinds, repeats = self._survey(columns)
        with self._open(columns) as (header, rows):
            attributes = [
                (place, column, converter(kinds[place]))
                for place, column in enumerate(header)
                if column not in columns.used
            ]
            for line, row in rows:
                place = f"{name}:{line}"
                try:
                    cells = _fields(row, header, place)
                    values = {column: convert(cells[at]) for at, column, convert in attributes}
                    record = columns.record(dict(zip(header, cells, strict=True)), place, values)
                    if columns.id:
                        repeats.check(record.id, place)
                    yield record
                except InputError as error:
                    yield Failure(place, self.label, error)
                except ValueError:
                    changed = RowError(f"{place} has changed while the file was read.", hint="Run again.")
                    yield Failure(place, self.label, changed)

    def _survey(self, columns: Columns) -> tuple[list[str], Repeats]:
        """The first pass: types of the columns, and the ids."""
        repeats = Repeats()
        with self._open(columns) as (header, rows):
            survey = Survey(
                len(header), [place for place, column in enumerate(header) if column not in columns.used]
            )
            id_place = header.index(columns.id) if columns.id else -1
            for line, row in rows:
                if isinstance(row, InputError) or len(row) != len(header):
                    continue
                if columns.id:
                    repeats.note(row[id_place])
                survey.look(row, line)
        repeats.settle()
        for place, (cell, line) in survey.odd().items():
            self._warn(header[place], cell, line)
        return survey.kinds, repeats

    def _warn(self, column: str, cell: str, line: int) -> None:
        """Say once what makes a column of numbers text, however often the file is read."""
        if column not in self._warned:
            self._warned.append(column)
            LOG.warning(
                "%s:%d: the cell %r makes text of the column %r, which otherwise holds numbers. Mend it, or leave it "
                "empty.",
                base_name(str(self.path)),
                line,
                one_line(cell, 60),
                one_line(column, 60),
            )

    @contextmanager
    def _open(
        self, columns: Columns
    ) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str] | InputError]]]]:
        """The names of the columns, and the rows with the lines they start in."""
        table = shown(str(self.path))
        with open_lines(str(self.path)) as lines:
            first = lines.peek()
            delimiter = self.delimiter or _delimiter(str(self.path), first)
            rows = _rows(lines, delimiter, self.quote)
            _, header = next(rows, (0, []))
            if isinstance(header, InputError):
                raise BowerbirdError(
                    f"The header of {table} cannot be read: {header.message}", hint="Mend its first line."
                )
            if not header:
                raise BowerbirdError(f"{table} is empty.", hint="Its first line has to name the columns.")
            header = _names(header)
            columns.check(header, table, _other_delimiter(columns, delimiter, first))
            yield header, rows


@dataclass(frozen=True)
class JsonLinesSource(Source):
    """A JSON Lines file: an object in each line becomes a record. UTF-8; blank lines are left out.

    Values stay as they are, nested ones too. A line that is no JSON object is a `Failure` at its place.

    Attributes:
        path: a local path or an address; one that ends in `.gz` is unpacked.
        image: key of the picture: a path, or an address. Null, empty or missing: a record without one.
        text: key of the text, or several; each a string or a list of strings. Empty ones are left out.
        id: key of the id, a string or a whole number; without it, ids are `photos.jsonl:17`.
        root: folder or address that relative pictures are below; empty: the one the file is in.
    """

    path: str | Path
    image: str = ""
    text: str | Sequence[str] = ""
    id: str = ""
    root: str | Path = ""

    label = "from_jsonl"

    def __post_init__(self) -> None:
        _settle(self)

    def describe(self) -> str:
        """See `Source`."""
        return f"lines of {shown(str(self.path))}"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: the file cannot be opened, or no line has a key that was named.
        """
        columns = _columns(self)
        name = base_name(str(self.path))
        repeats = self._survey(columns)
        for line, row in self._rows():
            place = f"{name}:{line}"
            try:
                if isinstance(row, InputError):
                    raise _at(place, row)
                attributes = {key: value for key, value in row.items() if key not in columns.used}
                record = columns.record(row, place, attributes)
                if columns.id:
                    repeats.check(record.id, place)
                yield record
            except InputError as error:
                yield Failure(place, self.label, error)

    def _survey(self, columns: Columns) -> Repeats:
        """The ids, and whether the keys that were named are there; read no further than needed for that."""
        repeats = Repeats()
        missing, have = set(columns.used), dict[str, None]()
        if not missing:
            return repeats
        rows = 0
        for _, row in self._rows():
            if isinstance(row, InputError):
                continue
            rows += 1
            if columns.id in row:
                repeats.note(str(row[columns.id]))
            missing.difference_update(row)
            if len(have) < 1000:
                have.update(dict.fromkeys(row))
            if not missing and not columns.id:
                break
        if rows and missing:
            columns.check([key for key in have if key not in missing], shown(str(self.path)))
        repeats.settle()
        return repeats

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
        with open_lines(str(self.path)) as lines:
            while True:
                lines.mark()
                start = lines.number + 1
                try:
                    text = next(lines)
                except StopIteration:
                    return
                except StoppedError as stopped:
                    yield start, stopped.error
                    return
                except TooLongError as error:
                    yield start, RowError(f"{error}.", hint="Mend or remove the line.")
                    continue
                if not text.isspace():
                    yield start, _object(text, lines.damage)


def _settle(source: CsvSource | JsonLinesSource) -> None:
    """Make the places absolute, whatever folder the source is iterated in."""
    object.__setattr__(source, "path", located(source.path))
    object.__setattr__(source, "root", located(source.root) if source.root else folder_of(str(source.path)))


def _columns(source: CsvSource | JsonLinesSource) -> Columns:
    return Columns.of(source.image, source.text, source.id, str(source.root))


def _at(place: str, error: InputError) -> InputError:
    """The same error, naming the place."""
    return type(error)(f"{place}: {error.message}", hint=error.hint) if isinstance(error, RowError) else error


def _object(text: str, damage: str) -> dict[str, Any] | RowError:
    if damage:
        return RowError(f"{damage}.", hint="Save the file as UTF-8.")
    try:
        value = json.loads(text)
        # Escapes may spell halves of surrogate pairs, which no file or index takes.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return RowError("the line holds half of a surrogate pair.", hint="Mend its \\u escapes.")
    except RecursionError:
        return RowError("the line is nested too deeply.", hint="Mend or remove the line.")
    except ValueError as error:
        return RowError(f"the line is not JSON: {one_line(error, 200)}.", hint="Mend or remove the line.")
    if not isinstance(value, dict):
        return RowError(
            f"the line is not a JSON object but of type {type(value).__name__}.", hint="Use {...}."
        )
    return value


def _rows(lines: Lines, delimiter: str, quote: str) -> Iterator[tuple[int, list[str] | InputError]]:
    """The rows of a CSV file with the lines they start in; an error in the place of each that is broken."""
    # One limit for the whole process; it is only ever raised, and our own holds anyway.
    if csv.field_size_limit() < MAX_CHARACTERS:
        csv.field_size_limit(MAX_CHARACTERS)
    if quote:
        reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    while True:
        lines.mark()
        start = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except StoppedError as stopped:
            yield start, stopped.error
            return
        except (csv.Error, TooLongError) as error:
            yield start, RowError(f"{_reason(error)}.", hint="Mend the row, or leave it out.")
            lines.back()
            continue
        if lines.damage:
            yield start, RowError(f"{lines.damage}.", hint="Save the file as UTF-8.")
        elif row:
            yield start, row


def _reason(error: Exception) -> str:
    said = str(error)
    if "unexpected end of data" in said:
        return "a quote is not closed before the end of the file"
    if "expected after" in said:
        return "a closing quote is followed by more of the field; was a quote before it not closed, or not doubled?"
    return said


def _fields(row: list[str] | InputError, header: list[str], place: str) -> list[str]:
    if isinstance(row, InputError):
        raise _at(place, row)
    if len(row) != len(header):
        raise RowError(
            f"{place} has {len(row)} fields where the header has {len(header)}.",
            hint="Quote fields that hold the delimiter, and write every delimiter of empty ones.",
        )
    return row


def _names(header: list[str]) -> list[str]:
    names: list[str] = []
    for place, name in enumerate(header, start=1):
        unique = name or f"column_{place}"
        while unique in names:
            unique = f"{unique}_{place}"
        names.append(unique)
    return names


def _delimiter(path: str, first: str) -> str:
    if path.lower().removesuffix(".gz").endswith((".tsv", ".tab")):
        return "\t"
    return "\t" if "\t" in first and "," not in first else ","


def _other_delimiter(columns: Columns, delimiter: str, first: str) -> str:
    """What to do about a missing column, if another delimiter would find it; else empty."""
    names = first.rstrip("\r\n")
    for other in _OTHER_DELIMITERS:
        if other == delimiter or other not in names:
            continue
        if columns.used <= {name.strip('"') for name in names.split(other)}:
            return (
                f"It was read with delimiter {delimiter!r}, and its first line looks as if it were {other!r}: "
                f"give delimiter={other!r}."
            )
    return ""
