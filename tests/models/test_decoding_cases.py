"""The cases of decoding in the list of fidelity traps, through the public API: a file is given, a vector comes back.

mini's own steps follow the decoder, so a file that decodes to other pixels than it should shows in its vector.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

import bowerbird as bb

SIZE = (301, 227)


def photograph(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture with structure at every scale, unlike itself in any other orientation."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noise = rng.integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse, np.int32) + noise, 0, 255).astype(np.uint8))


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def exact():
    return bb.load("mini", precision="exact")


def same(model: bb.Encoder, data: bytes, image: Image.Image) -> None:
    """A file and the upright RGB picture that it should be give the same vector, to the last bit."""
    assert image.mode == "RGB"
    assert np.array_equal(model.embed(data, output="features"), model.embed(image, output="features"))


_SEEN = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_90),
}
"""What each value of EXIF orientation (tag 274) asks a viewer to do; EXIF 2.32, table 6."""


@pytest.mark.parametrize("orientation", _SEEN)
def test_case_04_exif_1_to_8(exact, orientation):
    stored = photograph()
    exif = Image.Exif()
    exif[274] = orientation
    same(exact, file_of(stored, exif=exif), _SEEN[orientation](stored))


def test_case_19_rgba_hidden_colour(exact):
    """Under full transparency lies a colour that no viewer shows: white is what is seen there."""
    seen = photograph()
    rgba = np.dstack([np.asarray(seen), np.full(SIZE[::-1], 255, np.uint8)])
    rgba[:100, :, 3] = 0
    rgba[:100, :, :3] = (0, 255, 0)
    shown = np.asarray(seen).copy()
    shown[:100] = 255
    same(exact, file_of(Image.fromarray(rgba)), Image.fromarray(shown))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_case_20_p_l_rgb_with_trns(exact, mode):
    image = {"P": photograph().quantize(16), "L": photograph().convert("L"), "RGB": photograph()}[mode]
    hole = image.getpixel((5, 5))
    shown = np.asarray(image.convert("RGB")).copy()
    values = np.asarray(image)
    shown[(values == hole) if values.ndim == 2 else (values == np.asarray(hole)).all(-1)] = 255
    assert (shown == 255).all(-1).any()
    same(exact, file_of(image, transparency=hole), Image.fromarray(shown))


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_case_20_la_and_pa(exact, mode):
    opaque = photograph().convert("L") if mode == "LA" else photograph().quantize(16)
    alpha = np.full(SIZE[::-1], 255, np.uint8)
    alpha[:, 150:] = 0
    layered = opaque.convert(mode)
    layered.putalpha(Image.fromarray(alpha))
    shown = np.asarray(opaque.convert("RGB")).copy()
    shown[:, 150:] = 255
    assert np.array_equal(
        exact.embed(layered, output="features"), exact.embed(Image.fromarray(shown), output="features")
    )


def test_case_24_sixteen_bit(exact):
    """The whole range counts; Pillow's own conversion would clamp everything above 255 to white."""
    grey = np.asarray(photograph().convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    same(exact, file_of(deep), Image.fromarray(grey).convert("RGB"))


def test_case_24_float(exact):
    grey = np.asarray(photograph().convert("L"))
    data = file_of(Image.fromarray(grey.astype(np.float32) / 255), "TIFF")
    same(exact, data, Image.fromarray(grey).convert("RGB"))


def test_case_24_one_bit(exact):
    image = photograph().convert("1")
    same(exact, file_of(image), image.convert("RGB"))


def test_case_25_cmyk_jpeg(exact):
    """Naive conversion, without a colour profile, as in every reference stack; Adobe's inverted values included."""
    data = file_of(photograph().convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "CMYK"
        same(exact, data, opened.convert("RGB"))


@pytest.mark.parametrize(
    "options",
    [{"subsampling": "4:2:0"}, {"subsampling": "4:4:0"}, {"subsampling": "4:4:4"}, {"progressive": True}],
    ids=str,
)
def test_case_26_jpeg_subsampling_and_progressive_equal_pillow(exact, options):
    if options.get("subsampling") == "4:4:0":
        # Pillow cannot write it: the sampling factors of luminance, 1x2, are set in the frame header by hand, after
        # writing planes that were halved in the other direction, 2x1.
        data = bytearray(
            file_of(photograph().transpose(Image.Transpose.TRANSPOSE), "JPEG", subsampling="4:2:2")
        )
        frame = data.index(b"\xff\xc0")
        width, height = bytes(data[frame + 7 : frame + 9]), bytes(data[frame + 5 : frame + 7])
        assert data[frame + 11] == 0x21
        data[frame + 11] = 0x12
        data[frame + 5 : frame + 7], data[frame + 7 : frame + 9] = width, height
        data = bytes(data)
    else:
        data = file_of(photograph(), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as opened:
        same(exact, data, opened.convert("RGB"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_case_36_first_frame_of_gif_apng_and_webp(exact, kind):
    frames = [photograph(seed).quantize(32).convert("RGB") for seed in (1, 2, 3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert sum(1 for _ in ImageSequence.Iterator(opened)) == 3
        opened.seek(0)
        first = opened.convert("RGB")
    assert np.abs(np.asarray(first, np.int32) - np.asarray(frames[0], np.int32)).max() <= 1
    same(exact, data, first)
