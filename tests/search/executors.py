"""Executors for tests: one that sends rows to the writer, and one whose workers write rows by themselves."""

from __future__ import annotations

import pytest

import bowerbird as bb


class Distributed(bb.Local):
    """Runs here what a cluster runs: threads write pieces of the table, as workers do."""

    @property
    def distributed(self) -> bool:
        return True


def made(name: str) -> bb.Local:
    """`local` or `distributed`."""
    if name == "local":
        return bb.Local(threads=2)
    pytest.importorskip("lance_ray", reason="needs lance-ray")
    return Distributed(threads=2)
