"""The running service, asked what schemathesis makes of its own OpenAPI document: valid requests, and broken ones.

Nothing is answered with 5xx, and every answer is what the document says: its status, its media type, its schema.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")

from tests.serve.servers import served

from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


def fuzz(index: Path, folder: Path, *, phases: str, examples: int, seconds: int, seed: int) -> None:
    """Ask a server of its own, and fail with the report where an answer is not as it should be."""
    # So slow a machine that it says so itself is not what is tested here.
    service = LocalService(str(index), ["mini"], writable=True, limits=Limits(queue_seconds=60))
    with served(service) as http:
        done = subprocess.run(
            [
                Path(sys.executable).parent / "schemathesis",
                "--no-color",
                "run",
                f"{http.base_url}/openapi.json",
                f"--checks={','.join(CHECKS)}",
                f"--phases={phases}",
                f"--max-examples={examples}",
                f"--max-time={seconds}",
                f"--seed={seed}",
                "--generation-database=none",
                "--continue-on-failure",
                "--request-timeout=30",
                "--warnings=off",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=seconds + 120,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5000:]}"
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    assert int(tested[1]) > 10


def test_requests_that_the_document_allows_and_some_that_it_does_not(own_index, tmp_path):
    fuzz(own_index, tmp_path, phases="examples,fuzzing", examples=4, seconds=15, seed=7)


@pytest.mark.slow
def test_many_requests(own_index, tmp_path):
    fuzz(own_index, tmp_path, phases="examples,coverage,fuzzing,stateful", examples=40, seconds=75, seed=11)
