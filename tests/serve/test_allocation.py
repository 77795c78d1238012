"""What a service does to the memory of its process, and that it is undone."""

from __future__ import annotations

import gc

import pytest

from bowerbird.serve.allocation import keep_what_is_here, without_collecting


class TestCollecting:
    def test_what_was_imported_is_not_looked_through_and_later_it_is_again(self) -> None:
        assert gc.isenabled()
        with without_collecting():
            assert not gc.isenabled()
            keep_what_is_here()
            assert gc.isenabled()
            assert gc.get_freeze_count() > 10_000
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0

    def test_it_is_undone_when_the_start_fails(self) -> None:
        with pytest.raises(OSError, match="taken"), without_collecting():
            raise OSError("taken")
        assert gc.isenabled()

    def test_who_does_not_collect_goes_on_without(self) -> None:
        gc.disable()
        try:
            with without_collecting():
                keep_what_is_here()
            assert not gc.isenabled()
        finally:
            gc.enable()
