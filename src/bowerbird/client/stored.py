"""The records of a served index: read, added, and taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bowerbird.client.calls import Answer, Call, Request, one, segment
from bowerbird.client.parcels import Parcel, parcels
from bowerbird.client.pictures import data_url, picture_bytes
from bowerbird.client.refusals import input_error
from bowerbird.errors import InputError, UnsupportedInputError
from bowerbird.record import Record

__all__ = ["Added", "RecordPage", "StoredRecord", "add", "delete", "image", "page", "record"]


@dataclass(frozen=True)
class StoredRecord:
    """A record as a served index holds it.

    Attributes:
        id: of the record.
        text: its texts, one on a line.
        attributes: what else is known of it; times are texts.
        uri: where its picture lies, as far as the service tells; else empty.
    """

    id: str
    text: str
    attributes: Mapping[str, Any]
    uri: str = ""


@dataclass(frozen=True)
class RecordPage:
    """Some records, in the order of their ids.

    Attributes:
        records: so many as were asked for, or fewer.
        more: whether there are further ones.
    """

    records: Sequence[StoredRecord]
    more: bool


@dataclass
class Added:
    """What became of records that were added.

    Attributes:
        added: how many are new.
        changed: how many took the place of others of the same id.
        unchanged: how many were there already.
        ids: by index of the record in the call, what it is called; those that failed are left out.
        errors: by index, why it was not taken.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    ids: dict[int, str] = field(default_factory=dict)
    errors: dict[int, InputError] = field(default_factory=dict)


def page(*, after: str = "", limit: int = 100, where: str = "") -> Call[RecordPage]:
    """Records in the order of their ids, from behind one.

    Args:
        after: an id; empty: from the first.
        limit: at most so many.
        where: a filter, such as ``width > 1000``.

    Raises:
        QueryError: the filter cannot be understood.
        IndexNotFoundError: the service has no index.
        ServiceError: the service cannot be reached, or refuses.
    """
    query = {"after": after or None, "limit": limit, "where": where or None}
    return one(Request("GET", "/v1/records", _page, query=query))


def record(id: str) -> Call[StoredRecord | None]:
    """One record; None when there is none.

    Raises:
        IndexNotFoundError: the service has no index.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> StoredRecord | None:
        return None if _is_missing(answer) else _stored(answer, answer.fields())

    return one(Request("GET", f"/v1/records/{segment(id)}", read))


def image(id: str, *, size: str = "thumbnail") -> Call[bytes | None]:
    """The picture of a record, as a file; None when there is no such record, or it has no picture.

    Args:
        id: of the record.
        size: `thumbnail`, a small JPEG; `320`, `480`, `640`, `960`, `1280` or `1920`, one of at most so many pixels a
            side; or `original`, the file that was indexed.

    Raises:
        UnreadableError: the original is not there any more.
        IndexNotFoundError: the service has no index.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> bytes | None:
        return None if _is_missing(answer) else answer.checked().content

    return one(Request("GET", f"/v1/records/{segment(id)}/image", read, query={"size": size}))


def delete(ids: str | Iterable[str]) -> Call[int]:
    """Take records out of the index. How many there were.

    Raises:
        IndexReadOnlyError: the service takes no changes.
        ServiceError: the service cannot be reached, or refuses.
    """

    def read(answer: Answer) -> int:
        return 0 if _is_missing(answer) else int(answer.checked() is answer)

    listed = dict.fromkeys([ids] if isinstance(ids, str) else ids)
    return Call((Request("DELETE", f"/v1/records/{segment(id_)}", read) for id_ in listed), sum)


def add(
    records: Iterable[Record | Mapping[str, Any] | Path] | Record | Mapping[str, Any] | Path,
) -> Call[Added]:
    """Add records, or replace those of the same id; long lists as several requests.

    Args:
        records: each a `Record`; a dictionary with `image`, `text` or `texts`, and as wanted `id` and `attributes`; or
            the `Path` of a picture, whose name becomes the id. Pictures are on this machine: they are sent.

    Raises:
        IndexReadOnlyError: the service takes no changes.
        ServiceError: the service cannot be reached, or refuses.
        IndexBusyError: another process is writing and did not finish in time.
    """
    single = isinstance(records, (Record, Mapping, Path))
    adding = _Adding([records] if single else records)  # type: ignore[arg-type]
    return Call(adding.requests(), lambda _: adding.report, blocking=True)


class _Adding:
    """The records of one call on their way."""

    def __init__(self, records: Iterable[Any]) -> None:
        self._records = records
        self.report = Added()

    def requests(self) -> Iterator[Request[None]]:
        for parcel in parcels(self._items()):
            yield self._request(parcel)

    def _items(self) -> Iterator[tuple[int, Any, bool]]:
        for index, value in enumerate(self._records):
            try:
                said = _said(value)
            except InputError as error:
                self.report.errors[index] = error
            else:
                yield index, said, "image" in said

    def _request(self, parcel: Parcel) -> Request[None]:
        def halves() -> tuple[Request[None], Request[None]] | None:
            found = parcel.halves()
            return found and (self._request(found[0]), self._request(found[1]))

        # A second time they are found unchanged: their ids are given, or made from what they are.
        return Request(
            "POST",
            "/v1/records",
            lambda answer: self._read(parcel, answer),
            body=parcel.body("records", {}),
            halves=halves,
        )

    def _read(self, parcel: Parcel, answer: Answer) -> None:
        if refused := answer.refused_inputs(len(parcel.indices)):
            for place, error in refused.items():
                self.report.errors[parcel.indices[place]] = input_error(error)
            return
        said = answer.fields()
        try:
            self.report.added += int(said["added"])
            self.report.changed += int(said["changed"])
            self.report.unchanged += int(said["unchanged"])
            for place, id_ in enumerate(said["ids"]):
                if id_ is not None:
                    self.report.ids[parcel.indices[place]] = str(id_)
            for entry in said["failed"]:
                self.report.errors[parcel.indices[int(entry["index"])]] = input_error(entry["error"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise answer.misread(error) from None


def _said(value: Any) -> dict[str, Any]:
    """One record of `POST /v1/records`.

    Raises:
        InputError: it is no record, or its picture cannot be read.
    """
    if isinstance(value, Path):
        return {"id": value.name, "image": data_url(picture_bytes(value))}
    if isinstance(value, Record):
        parts = {"id": value.id, "image": value.source, "texts": value.texts, "attributes": value.attributes}
    elif isinstance(value, Mapping):
        parts = dict(value)
    else:
        raise UnsupportedInputError(
            f"A {type(value).__name__} is no record.",
            hint='Give a Record, a Path, or a dictionary such as {"id": "1", "text": "a red dress"}.',
        )
    said = {name: part for name, part in parts.items() if part is not None and (name == "image" or part)}
    if "image" in said:
        said["image"] = data_url(picture_bytes(said["image"]))
    return said


def _is_missing(answer: Answer) -> bool:
    """Whether there is no such record; of other things that are not there, `checked` tells."""
    return answer.status == 404 and answer.code in ("record_not_found", "picture_not_found")


def _page(answer: Answer) -> RecordPage:
    said = answer.fields()
    try:
        return RecordPage([_stored(answer, entry) for entry in said["data"]], bool(said["has_more"]))
    except (KeyError, TypeError) as error:
        raise answer.misread(error) from None


def _stored(answer: Answer, entry: Mapping[str, Any]) -> StoredRecord:
    try:
        attributes = dict(entry.get("attributes") or {})
        return StoredRecord(
            str(entry["id"]), str(entry.get("text") or ""), attributes, str(entry.get("uri") or "")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise answer.misread(error) from None
