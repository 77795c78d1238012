"""The child's side of the line protocol; imports nothing that a peer's environment may lack."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def answer(verbs: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer requests until stdin closes: `do` names the verb, the rest are its arguments."""
    # Whatever a library prints goes to stderr; stdout belongs to the protocol.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        channel.write(json.dumps(verbs[request.pop("do")](**request)) + "\n")
        channel.flush()
