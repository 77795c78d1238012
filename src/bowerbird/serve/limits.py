"""What a service takes on at the most. Every cap is checked before memory is spent on what it caps."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bowerbird.errors import BowerbirdError


@dataclass(frozen=True)
class Limits:
    """Caps of a service.

    Attributes:
        body_bytes: of a request, uploads included.
        bodies_bytes: of all requests that are here at the moment, with the pictures that were fetched for them, and all
            answers that their clients have not taken, together; what comes beyond is refused (503). Of pictures that
            are being fetched, of which there are `fetches`, it is known only when they are here.
        inputs: of one request: texts and pictures to embed, documents to rerank, records to add.
        text_chars: of one text; the model reads its first tokens in any case.
        tokens: of all texts of one request, as the model counts them.
        pixels: of one picture, width x height; larger ones are refused before they are decoded.
        request_pixels: of all pictures of one request together.
        results: of one search, `offset` included.
        request_seconds: for a request from its last byte to its answer.
        header_seconds: until the headers of a request are there.
        body_seconds: until its body is there.
        idle_seconds: that a connection is kept open between two requests.
        queue_seconds: of work that may come before a request; where more would, it is told to come back (503).
        queue_bytes: that waiting pictures may hold.
        connections: at once; beyond that, new ones are told to come back (503). An address that is no proxy's may have
            half of them.
        per_minute: requests that one key, or one address where there are no keys, may make in a minute; 0: any number.
        concurrent: requests of one key, or one address, at once; 0: any number.
        fetch_bytes: of one picture at an address.
        fetch_seconds: to fetch it.
        fetches: pictures at addresses that are fetched at once, for all requests together.
        drain_seconds: that a service that is told to stop takes to finish what it has accepted.
    """

    body_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    inputs: int = 2048
    text_chars: int = 1 << 20
    tokens: int = 300_000
    pixels: int = 64_000_000
    request_pixels: int = 1_000_000_000
    results: int = 10_000
    request_seconds: float = 60.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 30.0
    queue_seconds: float = 3.0
    queue_bytes: int = 512 << 20
    connections: int = 1000
    per_minute: int = 0
    concurrent: int = 0
    fetch_bytes: int = 32 << 20
    fetch_seconds: float = 20.0
    fetches: int = 8
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise BowerbirdError(
                    f"{field.name}={getattr(self, field.name)} is not zero or more.",
                    hint=f"The default is {field.default}.",
                )
