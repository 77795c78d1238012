"""Files, bytes, Pillow images and arrays to upright RGB pictures.

`decode` is the boundary behind which Pillow may raise anything at all: whatever happens comes out as one
of Bowerbird's errors with a reason on one line. Three limits bound what a hostile or damaged file may
cost: bytes (`BOWERBIRD_MAX_BYTES`, before reading), pixels (`BOWERBIRD_MAX_PIXELS`, from the header,
before any pixel is decoded) and time (`BOWERBIRD_DECODE_SECONDS`).

The time limit works through the reads that a decoder makes. It stops JPEG, MPO, PNG, GIF, BMP, PPM, TGA, PSD
and uncompressed TIFF in the middle; WebP, AVIF, HEIF, JPEG 2000 and compressed TIFF are decoded in one call
of a C library which cannot be interrupted, so there it is noticed only afterwards.

Two things are changed for the whole process, because Pillow has no other way:

* a warning filter that ignores what the modules `PIL.*` emit about damaged files. It is put in place
  whenever it is missing, not set and reset around a decode, because `warnings.catch_warnings` is not safe
  between threads;
* `PIL.Image.MAX_IMAGE_PIXELS` is raised, never lowered, when a policy allows more pixels than Pillow.
"""

from __future__ import annotations

import importlib
import io
import logging
import math
import re
import struct
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bowerbird.errors import DecodeError, InputError, UnsupportedInputError
from bowerbird.media.exif import orientation_and_time
from bowerbird.media.pixels import to_rgb
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import check_bytes, empty, one_line, read_bytes
from bowerbird.media.sniff import PLUGINS, icon_pixels, sniff
from bowerbird.settings import Settings

__all__ = [
    "IMAGE_SUFFIXES",
    "DecodePolicy",
    "Picture",
    "decode",
    "from_array",
    "from_pillow",
    "read_bytes",
]

_SUFFIXES = """
    jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff avif avifs heic heics heif hif
    jp2 j2k j2c jpc jpf jpx ppm pgm pbm pnm pfm tga ico psd
"""
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Lower-case suffixes of the files that `index` walks for."""

# One picture above this is decoded at a time, whatever the number of threads: at 4 bytes a pixel and a
# copy or two on the way to RGB it takes up to a gigabyte.
_LARGE_PIXELS = 64_000_000
_LARGE = threading.Lock()
_RAISING_CAP = threading.Lock()

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ACCEPTED_ARRAYS = "Accepted are uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA."
_NOT_A_PICTURE = "Pictures are JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, HEIC, PPM, TGA, ICO or PSD."

# Without a handler of its own, what Pillow logs about odd TIFFs would be printed by logging's last resort.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: mode RGB, upright, possibly decoded at 1/`scale`.
        width: of the full picture as it is looked at, in pixels.
        height: of the full picture as it is looked at, in pixels.
        format: Pillow's name of the format (`JPEG`, `PNG`, ...), or `array`, or `PIL` when not known.
        taken_at: EXIF DateTimeOriginal, else DateTime, without a time zone; None when absent or nonsense.
        scale: 1, 2, 4 or 8, the divisor of a scaled JPEG decode.
        box: (left, top, right, bottom): the part of `image` that the picture covers, in its pixels; None for all
            of it. A scaled decode rounds sizes up: 4001 columns become 1001, of which 1000.25 hold the picture.
            Left out of account, that moves a crop by a pixel (features fall to cosine 0.99).
    """

    image: Image.Image
    width: int
    height: int
    format: str
    taken_at: datetime | None
    scale: int
    box: tuple[float, float, float, float] | None = None

    def thumbnail(self, side: int = 224, quality: int = 80) -> bytes:
        """Give a JPEG whose long side is at most `side` pixels, never enlarged and without metadata."""
        long = max(self.image.size)
        if long > side:
            size = tuple(max(1, round(length * side / long)) for length in self.image.size)
            small = self.image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=1.0)
        else:
            small = self.image.copy()
        small.info.clear()
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=quality)
        return stream.getvalue()


def decode(data: bytes, policy: DecodePolicy, *, name: str, target: int | None = None) -> Picture:
    """Decode the first frame of a picture file. May be called from several threads at once.

    Args:
        data: the whole file.
        policy: orientation, transparency, depth and limits.
        name: what errors call the picture; its suffix tells TGA, which has no magic number.
        target: short side in pixels that the preprocessing wants; without it JPEG is decoded in full.

    Raises:
        DecodeError: not a picture, damaged, of an unsupported kind, too many pixels, or over time.
        UnreadableError: over the size cap.
    """
    shown = one_line(name)
    if not data:
        raise empty(shown)
    check_bytes(len(data), shown, policy)
    _silence_pillow()
    problem: InputError
    try:
        return _decode(data, policy, shown, target)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files make Pillow raise nearly every type there is
        problem = _explain(error, data, shown, policy)
    # Raised outside the handler, so that it does not drag Pillow's traceback and its buffers along.
    raise problem


def from_pillow(image: Image.Image, policy: DecodePolicy, name: str) -> Picture:
    """Take an image that was opened or made with Pillow; its current frame, turned upright by its EXIF.

    The image itself is not changed, except that one opened lazily is loaded.

    Raises:
        UnsupportedInputError: not a Pillow image.
        DecodeError: no pixels, too many, or they cannot be loaded or converted.
    """
    shown = one_line(name)
    if not isinstance(image, Image.Image):
        raise UnsupportedInputError(
            f"{shown} is a {type(image).__name__}, not a Pillow image.", hint="Give a PIL.Image.Image."
        )
    _silence_pillow()
    problem: InputError
    try:
        _check_pixels(*image.size, shown, policy)
        with _one_large_at_a_time(*image.size):
            image.load()
            return _finish(image, image.size, 1, policy)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - loading a lazy image is decoding
        problem = DecodeError(f"{shown} cannot be taken: {one_line(error, 300) or type(error).__name__}.")
    raise problem


def from_array(array: Any, name: str, policy: DecodePolicy | None = None) -> Picture:
    """Take pixels as an array: uint8, 0 to 255, shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        UnsupportedInputError: another type, dtype or shape; floats are not guessed at.
        DecodeError: no pixels, or too many.
    """
    shown = one_line(name)
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise UnsupportedInputError(f"{shown} is a {kind}, not an array.", hint=_ACCEPTED_ARRAYS)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not fits:
        raise UnsupportedInputError(
            f"{shown} is an array of {array.dtype} with shape {array.shape}.", hint=_ACCEPTED_ARRAYS
        )
    policy = policy or DecodePolicy()
    height, width = array.shape[:2]
    _check_pixels(width, height, shown, policy)
    plain = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    with _one_large_at_a_time(width, height):
        # A copy: Pillow shares the memory of some arrays, and the caller may write to it later.
        image = to_rgb(Image.fromarray(np.array(plain, order="C")), alpha=policy.alpha)
    return Picture(image, width, height, "array", None, 1)


class _OutOfTime(Exception):
    """The deadline has passed in the middle of a decode."""


class _TimedBytes(io.BytesIO):
    """A file in memory whose reads fail once the deadline has passed."""

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self.deadline = monotonic() + seconds if seconds else math.inf

    def check(self) -> None:
        if monotonic() > self.deadline:
            raise _OutOfTime

    def read(self, size: int | None = -1, /) -> bytes:
        self.check()
        return super().read(size)


def _decode(data: bytes, policy: DecodePolicy, shown: str, target: int | None) -> Picture:
    kind = sniff(data, shown)
    if not kind.format:
        raise DecodeError(f"{shown} is {kind.label}, not a picture that can be decoded.", hint=_NOT_A_PICTURE)
    _import_plugin(kind.format, shown)
    _lift_pillow_cap(policy)
    if kind.format == "ICO" and (pixels := icon_pixels(data)):
        _check_pixels(pixels, 1, shown, policy)
    stream = _TimedBytes(data, policy.seconds)
    image = Image.open(stream, formats=(kind.format,))
    full = image.size
    _check_pixels(*full, shown, policy)
    # The tiles of a TIFF may be far larger than the picture, and are decoded whole.
    tile: tuple[int, int] = getattr(image, "_tile_size", full)
    _check_pixels(*tile, shown, policy)
    scale = _draft(image, policy.scaled, target)
    asked = monotonic()
    with _one_large_at_a_time(*image.size):
        stream.deadline += monotonic() - asked  # waiting for the others is not this picture's fault
        stream.check()
        image.load()
        stream.check()
        return _finish(image, full if scale > 1 else image.size, scale, policy)


def _finish(image: Image.Image, full: tuple[int, int], scale: int, policy: DecodePolicy) -> Picture:
    """From a loaded image to an upright RGB picture."""
    orientation, taken_at = orientation_and_time(image)
    upright = to_rgb(image, alpha=policy.alpha, sixteen_bit=policy.sixteen_bit)
    width, height = full
    box = (0.0, 0.0, width / scale, height / scale)
    turn = _UPRIGHT.get(orientation) if policy.exif else None
    if turn is not None:
        box = _turned(box, upright.size, orientation)
        upright = upright.transpose(turn)
        if orientation >= 5:
            width, height = height, width
    covered = box if scale > 1 else None
    return Picture(upright, width, height, image.format or "PIL", taken_at, scale, covered)


def _turned(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Where a box of a stored picture of `size` lies once the picture is upright."""
    left, top, right, bottom = box
    width, height = size
    if orientation in (2, 3, 7, 8):  # columns run the other way
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):  # rows run the other way
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _draft(image: Image.Image, ratio: float | None, target: int | None) -> int:
    """Ask for a scaled JPEG decode where that is safe; gives the divisor, 1 when there is none."""
    if ratio is None or target is None or image.format not in ("JPEG", "MPO"):
        return 1
    width, height = image.size
    short = min(width, height)
    for scale in (8, 4, 2):
        if short >= scale and -(-short // scale) >= ratio * target:
            # No mode: draft would turn colour to grey or YCbCr. For a size of 1/scale, rounded down and
            # at least 1, Pillow chooses exactly `scale`.
            drafted = image.draft(None, (width // scale, height // scale))
            return 1 if drafted is None else scale
    return 1


def _import_plugin(kind: str, shown: str) -> None:
    """Register the one Pillow plugin that is needed."""
    if kind != "HEIF":
        importlib.import_module(f"PIL.{PLUGINS[kind]}")
        return
    try:
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        raise DecodeError(
            f"{shown} is a HEIF (HEIC) picture, and the package 'pillow-heif' is not installed.",
            hint="Run: pip install 'bowerbird[heic]'",
        ) from None


def _silence_pillow() -> None:
    # `filterwarnings` moves a filter that exists to the front, so this is the same tuple each time. It is
    # looked for at each decode because frameworks (pytest, notebooks) reset the filters.
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_FILTER_MODULE)


_FILTER_MODULE = r"PIL\."
_FILTER = ("ignore", None, Warning, re.compile(_FILTER_MODULE), 0)


def _lift_pillow_cap(policy: DecodePolicy) -> None:
    """Pillow refuses above twice MAX_IMAGE_PIXELS on its own; make room for a policy that allows more."""
    # A host that has set a lower cap than Pillow's default keeps it, unless more is asked for expressly.
    if 0 < policy.max_pixels <= Settings.max_pixels:
        return
    with _RAISING_CAP:
        cap = Image.MAX_IMAGE_PIXELS
        if cap is not None and (not policy.max_pixels or 2 * cap < policy.max_pixels):
            Image.MAX_IMAGE_PIXELS = -(-policy.max_pixels // 2) if policy.max_pixels else None


def _check_pixels(width: int, height: int, shown: str, policy: DecodePolicy) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"{shown} has no pixels: it is {width} x {height}.")
    if policy.max_pixels and width * height > policy.max_pixels:
        raise _too_many(f"{width * height:,} pixels", policy.max_pixels, shown)


def _too_many(count: str, cap: int, shown: str) -> DecodeError:
    return DecodeError(
        f"{shown} has {count}, more than the cap of {cap:,}.",
        hint="Raise BOWERBIRD_MAX_PIXELS if you trust the file.",
    )


def _one_large_at_a_time(width: int, height: int) -> AbstractContextManager[object]:
    return _LARGE if width * height > _LARGE_PIXELS else nullcontext()


def _explain(error: Exception, data: bytes, shown: str, policy: DecodePolicy) -> DecodeError:
    """One line about what went wrong, from whatever Pillow raised."""
    if isinstance(error, _OutOfTime):
        late = f"{shown} took longer than {policy.seconds:g} s to decode."
        return DecodeError(late, hint="Raise BOWERBIRD_DECODE_SECONDS.")
    if isinstance(error, Image.DecompressionBombError):
        pillow = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        count = re.search(r"\((\d+) pixels\)", str(error))
        return _too_many(f"{int(count[1]):,} pixels" if count else "too many pixels", pillow, shown)
    kind = sniff(data, shown)
    if isinstance(error, MemoryError):
        return DecodeError(
            f"{shown} is {kind.label} that does not fit into memory.", hint="Use fewer threads."
        )
    if isinstance(error, UnidentifiedImageError):
        error = _refusal(data, kind.format) or error
    reason = one_line(error, 300).rstrip(".") or type(error).__name__
    if isinstance(error, struct.error) or isinstance(error.__cause__, struct.error):
        reason = "it ends in the middle of a header"
    elif reason.startswith("decoder error"):
        reason = f"its pixel data is damaged ({reason})"
    if isinstance(error, EOFError) or re.search(
        "truncated|only got|ends in the middle", reason, re.IGNORECASE
    ):
        _, label = kind.label.split(" ", 1)
        return DecodeError(f"{shown} is a truncated {label}: {reason}.", hint="Copy or download it again.")
    hint = "If a viewer opens it, save it there as PNG or JPEG."
    return DecodeError(f"{shown} is {kind.label} that cannot be decoded: {reason}.", hint=hint)


def _refusal(data: bytes, kind: str) -> Exception | None:
    """Why the plugin did not take the file: `Image.open` swallows that."""
    try:
        factory, accept = Image.OPEN[kind]
        said = accept(data[:16]) if accept else True
        if isinstance(said, str):
            return OSError(said)
        factory(io.BytesIO(data), "")
    except Exception as error:  # noqa: BLE001 - this is what we came for
        return error
    return None
