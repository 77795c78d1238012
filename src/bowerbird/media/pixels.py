"""Pixels of any mode to 8-bit RGB: transparency, deep greyscale, palettes, CMYK.

Pillow's own `convert("RGB")` is the reference wherever it keeps the picture recognisable (CMYK without a
colour profile, YCbCr, HSV, LAB, palettes, 1-bit). Two cases are decided here: what shows through
transparent pixels, and how more than 8 bits become 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Rows of deep greyscale are mapped in bands of about this many pixels, so that the float64 working copy
# stays small beside the picture.
_BAND_PIXELS = 1 << 20


def to_rgb(image: Image.Image, *, alpha: str = "white", sixteen_bit: str = "scale") -> Image.Image:
    """Give the picture as mode RGB, 0 to 255; the same object when it is plain RGB already.

    Args:
        image: a loaded picture of any mode.
        alpha: `white` composites on white, whether the transparency is a channel, one colour (tRNS) or
            lies in the palette (an alpha of zero everywhere counts as unused in BMP and TGA, where it
            mostly is); `drop` shows the colours hidden under it, as `convert("RGB")` does.
        sixteen_bit: how modes I;16, I and F become 8 bits. `clamp` cuts at 0 and 255 as `convert` does.
            `scale` maps a range to 0..255, rounded: the full range of the type for I;16 (0..65535, or
            0..4095 for a 12-bit TIFF) and for I from PNG and PGM; otherwise the declared range is not
            known, and the smallest of 0..1 (F only), 0..255 and 0..65535 that holds every value is taken,
            or else the picture's own minimum and maximum. Infinities go to the ends, NaN to 0.

    Raises:
        ValueError: Pillow knows no conversion.
    """
    mode, transparency = image.mode, image.info.get("transparency")
    if mode == "RGB" and (transparency is None or alpha == "drop"):
        return image
    if mode in ("I", "F") or mode.startswith("I;"):
        return _deep_to_rgb(image, transparency if alpha == "white" else None, sixteen_bit)
    if mode == "La":
        # The only mode from which Pillow has no way to RGB or RGBA in one step.
        image = image.convert("LA")
    see_through = transparency is not None or mode in ("LA", "La", "PA", "RGBA", "RGBa")
    palette = image.palette if mode == "P" else None
    if alpha == "drop" or not (see_through or (palette is not None and palette.mode == "RGBA")):
        return image.convert("RGB")
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    extremes = layered.getchannel("A").getextrema()
    # Programs that write 32-bit BMP and TGA often leave the fourth byte zero and mean opaque.
    unused = image.format in ("BMP", "DIB", "TGA") and extremes == (0, 0)
    if unused or extremes == (255, 255):
        return layered.convert("RGB")
    white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layered).convert("RGB")


def _deep_to_rgb(image: Image.Image, hole: object, sixteen_bit: str) -> Image.Image:
    values: NDArray[Any] = np.asarray(image)  # (height, width) of uint16, int32 or float32
    if sixteen_bit == "clamp":
        grey = _mapped(values, 0.0, 255.0, 0.0)
    elif values.dtype.kind == "u" and values.dtype.itemsize == 2:
        grey = _sixteen(_depth_top(image))[values]
    else:
        low, high = _span(values, fixed=image.mode == "I" and image.format in ("PNG", "PPM"))
        grey = _mapped(values, low, high, 0.5)
    if isinstance(hole, int):
        grey[values == hole] = 255
    return Image.fromarray(grey).convert("RGB")


def _depth_top(image: Image.Image) -> int:
    """The largest value of a 16-bit mode: 4095 where a TIFF says that it has 12 bits."""
    tags = getattr(image, "tag_v2", None)
    return 4095 if tags is not None and tags.get(258) == (12,) else 65535


def _sixteen(top: int) -> NDArray[np.uint8]:
    """A table (65536,) from a 16-bit value to round(255 * value / top)."""
    table = (np.arange(65536, dtype=np.uint32) * 255 + top // 2) // top
    return np.minimum(table, 255).astype(np.uint8)


def _span(values: NDArray[Any], *, fixed: bool) -> tuple[float, float]:
    """The range that is mapped to 0..255; see `to_rgb`."""
    if fixed:
        return 0.0, 65535.0
    finite = np.isfinite(values)
    if not finite.all():
        values = values[finite]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for top in (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0):
            if high <= top:
                return 0.0, top
    return low, high


def _mapped(values: NDArray[Any], low: float, high: float, rounding: float) -> NDArray[np.uint8]:
    """Map `low`..`high` to 0..255, cut what lies outside; NaN becomes 0."""
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // max(1, values.shape[1]))
    span = high - low
    # A picture of one value has no span; errstate is per thread.
    with np.errstate(all="ignore"):
        for top in range(0, values.shape[0], rows):
            band = values[top : top + rows].astype(np.float64)
            band = (band - low) / (span if span > 0 else 1.0) * 255.0 + rounding
            grey[top : top + rows] = np.nan_to_num(np.clip(band, 0.0, 255.0), nan=0.0)
    return grey
