"""What is told of records: nothing of where files lie on the server, unless it was started so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from bowerbird.serve.indexed import PLACES

REMOTE = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
"""Addresses of these are shown in any case."""

SIGNED = frozenset({"x-amz-signature", "x-goog-signature", "signature", "sig", "token", "key"})
"""Not with these among their parameters: whoever has such an address may do what its maker may."""


def shown_uri(uri: str, *, show_paths: bool) -> str:
    """Where a picture lies; empty where that is nobody's business."""
    if not uri:
        return ""
    scheme, colon, _ = uri.partition("://")
    if colon and scheme.lower() in REMOTE:
        try:
            split = urlsplit(uri)
        except ValueError:
            return ""
        signed = not SIGNED.isdisjoint(map(str.lower, parse_qs(split.query, keep_blank_values=True)))
        return "" if "@" in split.netloc or signed else uri
    return uri if show_paths else ""


def shown_attributes(attributes: Mapping[str, Any], uri: str, *, show_paths: bool) -> dict[str, Any]:
    """What is known of a record, as far as it is anybody's business."""
    public = bool(shown_uri(uri, show_paths=show_paths))
    return {name: value for name, value in attributes.items() if public or name not in PLACES}


def image_address(id_: str, attributes: Mapping[str, Any]) -> str | None:
    """Path of a record's picture; None where it has none."""
    return f"/v1/records/{quote(id_, safe='')}/image" if attributes.get("width") is not None else None
