"""Arguments that name records: folders, tables, tars, addresses; and options for where the work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from bowerbird.collection.collection import Collection
    from bowerbird.flow.run import Executor

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")
PACKED_TABLES = tuple(f"{suffix}.gz" for suffix in TABLES[:4])
TARS = (".tar", ".tar.gz", ".tgz")

ImageColumn: TypeAlias = Annotated[
    str, typer.Option("--image", metavar="COLUMN", help="Of a table: the column of the pictures' paths.")
]
TextColumns: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="COLUMN", help="Of a table: the column of the texts; may be given several times."
    ),
]
IdColumn: TypeAlias = Annotated[
    str, typer.Option("--id", metavar="COLUMN", help="Of a table: the column of the ids. Default: none.")
]
Delimiter: TypeAlias = Annotated[
    str, typer.Option("--delimiter", metavar="CHARACTER", help="Of a CSV file. Default: comma or tab.")
]
Root: TypeAlias = Annotated[
    str,
    typer.Option(
        "--root", metavar="PATH", help="Where the pictures of a table lie. Default: beside the table."
    ),
]
On: TypeAlias = Annotated[str, typer.Option("--on", metavar="WHERE", help="local, or ray: a cluster.")]
Address: TypeAlias = Annotated[
    str,
    typer.Option(
        "--address", metavar="ADDRESS", help="Of the Ray cluster. Default: one that runs, or a new one."
    ),
]
Workers: TypeAlias = Annotated[
    int,
    typer.Option(
        "--workers", min=0, help="Threads here, or workers on Ray. Default: as many as there are processors."
    ),
]
Cpus: TypeAlias = Annotated[float, typer.Option("--cpus", help="On Ray: processors for each worker.")]
Gpus: TypeAlias = Annotated[float, typer.Option("--gpus", help="On Ray: GPUs for each worker.")]


@dataclass(frozen=True)
class TableOptions:
    """How tables are read; see the options above."""

    image: str = ""
    text: tuple[str, ...] = ()
    id: str = ""
    delimiter: str = ""
    root: str = ""

    @property
    def given(self) -> bool:
        """Whether any of them was."""
        return bool(self.image or self.text or self.id or self.delimiter or self.root)


def is_table(source: str) -> bool:
    """Whether a source is a table or a tar of records, by its name, rather than pictures."""
    return source.lower().endswith((*TABLES, *PACKED_TABLES, *TARS))


def is_elsewhere(source: str) -> bool:
    """Whether a source is an address in an object store or on the web."""
    from bowerbird.flow.sources.addresses import is_remote

    return is_remote(source)


def collection(source: str, options: TableOptions) -> Collection[Any]:
    """The records of a source.

    Raises:
        BowerbirdError: a table without the columns of its pictures or texts, or options that have no table.
    """
    from bowerbird.collection.collection import Collection
    from bowerbird.errors import BowerbirdError

    name = source.lower()
    if name.endswith(TARS):
        return Collection.from_webdataset(source)
    if not name.endswith((*TABLES, *PACKED_TABLES)):
        if options.given:
            raise BowerbirdError(
                f"{source} is no table, so it has no columns.",
                hint=f"Tables are {', '.join(TABLES)}; leave out --image, --text, --id, --delimiter and --root.",
            )
        return Collection.from_glob(source)
    if not (options.image or options.text):
        raise BowerbirdError(
            f"Which columns of {source} are pictures or texts is not said.",
            hint="Give --image COLUMN, --text COLUMN, or both.",
        )
    columns: dict[str, Any] = {
        "image": options.image,
        "text": options.text,
        "id": options.id,
        "root": options.root,
    }
    place = source if is_elsewhere(source) else Path(os.path.expanduser(source))
    name = name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return Collection.from_csv(place, delimiter=options.delimiter or None, **columns)
    if options.delimiter:
        raise BowerbirdError(f"{source} has no delimiter.", hint="Leave out --delimiter.")
    if name.endswith((".jsonl", ".ndjson")):
        return Collection.from_jsonl(place, **columns)
    if name.endswith(".parquet"):
        return Collection.from_parquet(place, **columns)
    return Collection.from_arrow(place, **columns)


def executor(where: str, address: str, workers: int, cpus: float, gpus: float) -> Executor:
    """Where the work is done.

    Raises:
        BowerbirdError: there is no such place, or options of another one.
        MissingExtraError: Ray is not installed.
    """
    from bowerbird.errors import BowerbirdError, MissingExtraError

    if where == "ray":
        if find_spec("ray") is None:
            raise MissingExtraError("ray", "ray")
        from bowerbird.flow.cluster import Ray

        return Ray(address, workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    if where not in ("", "local"):
        raise BowerbirdError(f"--on {where} is not known.", hint="Use local or ray.")
    if address or gpus or cpus != 1:
        raise BowerbirdError("--address, --cpus and --gpus are options of Ray.", hint="Add --on ray.")
    from bowerbird.flow.local import Local

    return Local(threads=workers)


def some(sources: Sequence[str], records: Collection[Any]) -> Collection[Any]:
    """The same records, once it is sure that there are any, or at least failures: nothing is made for none.

    Raises:
        UnreadableError: there is none.
        BowerbirdError: what the records come from cannot be read, or lacks a column that was named.
    """
    from bowerbird.errors import UnreadableError
    from bowerbird.flow.files import printable

    if next(iter(records.plan.source), None) is None:
        raise UnreadableError(
            f"There are no records in {', '.join(map(printable, sources))}.", hint="Check what was given."
        )
    return records


def together(parts: Sequence[Collection[Any]]) -> Collection[Any]:
    """The records of several sources, one after the other."""
    from bowerbird.collection.collection import Collection
    from bowerbird.flow.sources.several import Several

    return parts[0] if len(parts) == 1 else Collection.of(Several(tuple(part.plan.source for part in parts)))
