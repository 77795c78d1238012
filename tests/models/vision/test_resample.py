"""PyTorch's resize in NumPy, against PyTorch where it is installed; the golden arrays hold it where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bowerbird.models.vision.resample import resize

MODES = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def has_tie(have: int, want: int) -> bool:
    """Whether the middle of a new pixel falls just between two old ones; PyTorch's nearest takes either there."""
    return any((2 * place + 1) * have % (2 * want) == 0 for place in range(want))


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("code", MODES)
class TestAgainstTorch:
    def reference(self, pixels: np.ndarray, size: tuple[int, int], code: int) -> np.ndarray:
        torch = pytest.importorskip("torch")
        if torch.backends.cpu.get_cpu_capability() != "AVX2":
            pytest.skip("PyTorch's own resize gives other last bits without AVX2, and may with AVX-512")
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()[None]
        extra = {} if code == 0 else {"align_corners": False, "antialias": True}
        found = torch.nn.functional.interpolate(tensor, size=size[::-1], mode=MODES[code], **extra)
        return found[0].permute(1, 2, 0).numpy()

    # A width of one is left out for floats: PyTorch 2.13 returns the first row for every row there.
    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 90), st.integers(1, 90))
    def test_eight_bits_are_equal(self, code, width, height, new_width, new_height):
        assume(code != 0 or not (has_tie(width, new_width) or has_tie(height, new_height)))
        pixels = noise(width, height)
        ours = resize(pixels, (new_width, new_height), code)
        assert np.array_equal(ours, self.reference(pixels, (new_width, new_height), code))

    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 90), st.integers(1, 90))
    def test_floats_are_equal(self, code, width, height, new_width, new_height):
        assume(code != 0 or not (has_tie(width, new_width) or has_tie(height, new_height)))
        pixels = noise(width, height) * np.float32(1 / 255)
        ours = resize(pixels, (new_width, new_height), code)
        theirs = self.reference(pixels, (new_width, new_height), code)
        if code == 1:  # the sine of PyTorch's vector library differs in its last place
            assert np.abs(ours - theirs).max() <= 1e-6
        else:
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("code", MODES)
def test_a_box_is_the_same_as_cutting_first_where_nothing_outside_is_seen(code):
    pixels = noise(90, 80)
    whole = resize(pixels, (30, 20), code, (0.0, 0.0, 90.0, 80.0))
    assert np.array_equal(whole, resize(pixels, (30, 20), code))
    part = resize(pixels, (30, 20), code, (10.0, 20.0, 70.0, 60.0)).astype(int)
    cut = resize(np.ascontiguousarray(pixels[20:60, 10:70]), (30, 20), code).astype(int)
    assert np.array_equal(part[4:-4, 4:-4], cut[4:-4, 4:-4])


def test_nothing_changes_at_the_same_size():
    pixels = noise(31, 17)
    assert np.array_equal(resize(pixels, (31, 17), 3), pixels)
