"""PyTorch's antialiased resize of pictures, in NumPy and bit for bit.

torchvision resizes a uint8 tensor otherwise than Pillow resizes a picture: Pillow keeps its weights to 22 bits, PyTorch
quantises them to int16, so that some pixels differ by a level. Both filter along the rows, round to 8 bits, and filter
along the columns. For float tensors PyTorch rounds nothing in between and adds up in float32.

This is what PyTorch 2.13 does on a processor with AVX2, found by comparison with it: all results on uint8, and those of
nearest, bilinear and bicubic on floats, are equal (`tests/models/vision/test_resample.py`); lanczos on floats is off by
at most 5e-7. On a processor without AVX2, PyTorch itself differs from this: by 3e-6 on floats, and torchvision resizes
uint8 bilinearly as floats, which moves some pixels by a level. Of Pillow's filters PyTorch has no box and no hamming.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
Box: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


@dataclass(frozen=True)
class Filter:
    """A separable filter: its value at a distance from the centre, and the distance at which it ends.

    Attributes:
        weigh: distances, in pixels of the coarser picture, to weights of the same dtype.
        support: in the same pixels.
    """

    weigh: Callable[[Floats], Floats]
    support: float


def _bilinear(x: Floats) -> Floats:
    x = np.abs(x)
    return np.where(x < 1, 1 - x, np.zeros_like(x))


def _bicubic(x: Floats) -> Floats:
    """Keys' cubic with a = -0.5, as Pillow's; without antialiasing PyTorch takes -0.75."""
    x = np.abs(x)
    wide = x.astype(np.float64)

    # Each line is one multiply-add that rounds once: in float64 the product of two float32 is exact.
    def rounded(value: Floats) -> Floats:
        return value.astype(x.dtype)

    near = rounded(1.5 * wide - 2.5)
    near = rounded(rounded(near * x) * wide + 1)
    far = rounded((x - 5) * wide + 8)
    far = rounded(far * wide - 4) * x.dtype.type(-0.5)
    return np.where(x < 1, near, np.where(x < 2, far, np.zeros_like(x)))


def _lanczos(x: Floats) -> Floats:
    def sinc(value: Floats) -> Floats:
        angle = value * value.dtype.type(math.pi)
        return np.divide(np.sin(angle), angle, out=np.ones_like(angle), where=angle != 0)

    return np.where((x >= -3) & (x < 3), sinc(x) * sinc(x / 3), np.zeros_like(x))


FILTERS = {1: Filter(_lanczos, 3.0), 2: Filter(_bilinear, 1.0), 3: Filter(_bicubic, 2.0)}
"""By Pillow's code. 0, nearest, weighs nothing."""


def resize(
    pixels: NDArray[Any], size: tuple[int, int], resample: int, box: Box | None = None
) -> NDArray[Any]:
    """Resize as ``torchvision.transforms.v2.functional.resize`` does a tensor on the CPU.

    Args:
        pixels: (height, width, channels), uint8 or float32.
        size: (width, height) to resize to.
        resample: 0 nearest (`nearest-exact` in PyTorch), 1 lanczos, 2 bilinear, 3 bicubic.
        box: the part of `pixels` to take, all of it when None.

    Returns:
        (height, width, channels) of the dtype that came in.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    # Both passes run down the first axis, where what belongs to one weight lies together in memory.
    if (left, right, size[0]) != (0, width, width):
        columns = np.ascontiguousarray(pixels.swapaxes(0, 1))
        pixels = _down(columns, left, right - left, size[0], resample).swapaxes(0, 1)
    if (top, bottom, size[1]) != (0, height, height):
        pixels = _down(np.ascontiguousarray(pixels), top, bottom - top, size[1], resample)
    return np.ascontiguousarray(pixels)


def _down(pixels: NDArray[Any], start: float, length: float, wanted: int, resample: int) -> NDArray[Any]:
    """(rows, n, c) to (wanted, n, c)."""
    have = pixels.shape[0]
    if resample == 0:
        scale = np.float32(length) / np.float32(wanted)
        source = np.float32(start) + (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale
        nearest: NDArray[Any] = pixels[np.minimum(source.astype(np.int64), have - 1)]
        return nearest
    if pixels.dtype == np.uint8:
        return _add_quantised(pixels, Taps.of(have, start, length, wanted, FILTERS[resample], np.float64))
    return _add_floats(pixels, Taps.of(have, start, length, wanted, FILTERS[resample], np.float32))


@dataclass(frozen=True)
class Taps:
    """Which source rows an output row is made of.

    Attributes:
        rows: (wanted, n) source rows; the last one is repeated where the weight is zero.
        weights: (wanted, n), each row adds up to 1.
        count: (wanted,) how many of the n are in use.
    """

    rows: NDArray[np.int64]
    weights: Floats
    count: NDArray[np.int64]

    @classmethod
    def of(cls, have: int, start: float, length: float, wanted: int, kernel: Filter, dtype: Any) -> Taps:
        """The taps that take `length` of `have` rows from `start` on to `wanted` rows.

        The reference mixes `dtype` with float64 in its formulas; each ``.astype(dtype)`` is where it rounds.
        """
        scale = np.float64(dtype(length) / dtype(wanted))
        stretch = max(scale, np.float64(1))
        support, inverse = dtype(kernel.support * stretch), dtype(1 / stretch)
        centre = (start + scale * (np.arange(wanted) + 0.5)).astype(dtype)
        first = np.maximum(((centre - support).astype(np.float64) + 0.5).astype(np.int64), 0)
        last = np.minimum(((centre + support).astype(np.float64) + 0.5).astype(np.int64), have)
        taps = np.arange(int((last - first).max()))
        rows = taps[None] + first[:, None]
        distance = (rows.astype(dtype) - centre[:, None]).astype(np.float64) + 0.5
        weights = kernel.weigh((distance * np.float64(inverse)).astype(dtype))
        weights = np.where(taps[None] < (last - first)[:, None], weights, dtype(0))
        total = np.zeros(wanted, dtype)
        for tap in taps:  # one by one, as the reference adds them up
            total += weights[:, tap]
        return cls(np.minimum(rows, have - 1), weights / total[:, None], last - first)


def _add_quantised(pixels: NDArray[np.uint8], taps: Taps) -> NDArray[np.uint8]:
    """Weights become int16 with as many binary digits as the largest one leaves room for."""
    largest, digits = taps.weights.max(), 0
    while digits < 22 and int(0.5 + largest * (1 << (digits + 1))) < 1 << 15:
        digits += 1
    scaled = taps.weights * (1 << digits)
    quantised = np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32)
    total = np.full((len(taps.count), *pixels.shape[1:]), 1 << (digits - 1), np.int32)
    for row, weight in zip(taps.rows.T, quantised.T, strict=True):
        total += np.multiply(pixels[row], weight[:, None, None], dtype=np.int32)
    levels: NDArray[np.int32] = np.clip(total >> digits, 0, 255)
    return levels.astype(np.uint8)


def _add_floats(pixels: NDArray[np.float32], taps: Taps) -> NDArray[np.float32]:
    """Sums in float32, in the order and with the roundings of the reference's compiled loop.

    After the first tap it multiplies four at a time, rounds the products, and adds them one by one; what four does not
    divide is added by fused multiply-adds, which round once.
    """
    total = np.zeros((len(taps.count), *pixels.shape[1:]), np.float32)
    fused_from = 1 + (taps.count - 1) // 4 * 4
    for tap, (row, weight) in enumerate(zip(taps.rows.T, taps.weights.T[..., None, None], strict=True)):
        fused = (fused_from <= tap) & (tap > 0)
        if not fused.any():
            total += pixels[row] * weight
            continue
        product = pixels[row].astype(np.float64) * weight.astype(np.float64)  # exact
        product[~fused] = product[~fused].astype(np.float32)
        total = (product + total).astype(np.float32)
    return total
