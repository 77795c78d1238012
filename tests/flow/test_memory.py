"""What elements weigh, and what is available."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bowerbird import Failure, Record
from bowerbird.errors import InputError
from bowerbird.flow.memory import available, weigh

MB = 1 << 20


@pytest.mark.parametrize(
    ("value", "bytes_"),
    [
        (np.zeros((100, 100, 3), np.float32), 120_000),
        (Image.new("RGB", (100, 50)), 15_000),
        (Image.new("L", (100, 50)), 5_000),
        (bytes(MB), MB),
        ("x" * MB, MB),
        ([bytes(MB)] * 3, 3 * MB),
        ((bytes(MB), 5), MB),
        ({"a": bytes(MB)}, MB),
        (Record("a", image=bytes(MB), texts=("y" * MB,)), 2 * MB),
        (Record("a", vectors={"v": np.zeros(MB, np.uint8)}, facts={"thumbnail": bytes(MB)}), 2 * MB),
        (Record("a", attributes={"mask": np.zeros(MB, np.uint8)}), MB),
        (Record("a", image=Image.new("RGB", (10, 10)), origin=(bytes(MB), None)), MB),
        (Failure("a", "step", InputError("x"), Record("a", image=bytes(MB))), MB),
        (5, 28),
        (None, 16),
    ],
)
def test_what_an_element_holds(value, bytes_):
    assert bytes_ <= weigh(value) <= bytes_ + 2500


def test_what_is_available_is_less_than_there_is():
    left = available()
    if left is None:
        pytest.skip("this system does not say")
    psutil = pytest.importorskip("psutil")
    assert 0 < left <= psutil.virtual_memory().total
