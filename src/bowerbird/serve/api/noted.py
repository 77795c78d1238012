"""What is known of a request when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from bowerbird.serve.encoders import Answer

__all__ = ["Noted"]


@dataclass
class Noted:
    """What is known of a request, for the log, the measures and the trace.

    Attributes:
        id: of the request.
        method: of HTTP.
        path: of its route, without what varies; empty: there is no such route.
        began: on the clock of `time.perf_counter`.
        status: of the answer; 499 where the client had left.
        caller: name of its key, or its address.
        model: that it asked for.
        answer: what the model said, where it was asked.
        stages: seconds by stage.
        code: of the error that it was answered with, such as `overloaded`; empty: none.
        traceparent: of W3C, as the client gave it; empty: none.
    """

    id: str
    method: str
    path: str
    began: float
    status: int = 0
    caller: str = ""
    model: str = ""
    answer: Answer | None = None
    stages: dict[str, float] = field(default_factory=dict)
    code: str = ""
    traceparent: str = ""

    def note(self, *, model: str = "", answer: Answer | None = None) -> None:
        """What the route knows of it."""
        self.model = model or self.model
        self.answer = answer or self.answer
