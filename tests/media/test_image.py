"""Picture decoding through its public functions, on files made here."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.errors import BowerbirdError, DecodeError, InputError, UnreadableError, UnsupportedInputError
from bowerbird.media import image as module
from bowerbird.media import reading
from bowerbird.media.image import (
    IMAGE_SUFFIXES,
    DecodePolicy,
    Picture,
    decode,
    from_array,
    from_pillow,
    read_bytes,
)
from bowerbird.settings import Settings

POLICY = DecodePolicy()
DROP = DecodePolicy(alpha="drop")
CLAMP = DecodePolicy(sixteen_bit="clamp")


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth, coloured and without any symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), 127 + 100 * np.sin(x / 9 + y / 5)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(picture: Picture) -> np.ndarray:
    assert picture.image.mode == "RGB"
    return np.asarray(picture.image)


def first(
    image: Image.Image, policy: DecodePolicy = POLICY, kind: str = "PNG", **options: Any
) -> tuple[int, ...]:
    """The top left pixel after a round through a file."""
    return tuple(int(v) for v in pixels(decode(encoded(image, kind, **options), policy, name="x"))[0, 0])


def reason(data: bytes, policy: DecodePolicy = POLICY, name: str = "photo.jpg") -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, policy, name=name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x10IDAT" + b"\0" * 64


# Policy


def test_policy_defaults_come_from_settings() -> None:
    assert POLICY.max_pixels == Settings.max_pixels
    assert POLICY.max_bytes == Settings.max_bytes
    assert POLICY.seconds == Settings.decode_seconds


def test_meaning_and_numerics_hold_what_changes_vectors_and_nothing_else() -> None:
    meaning = {"exif": True, "alpha": "white", "sixteen_bit": "scale", "icc": "ignored", "frame": "first"}
    assert DecodePolicy(max_pixels=1, max_bytes=2, seconds=3, scaled=2.0).meaning() == meaning
    assert DROP.meaning() != meaning
    assert DecodePolicy(scaled=2.0).numerics() == {"scaled": 2.0}


@pytest.mark.parametrize(
    "fields", [{"alpha": "black"}, {"sixteen_bit": "log"}, {"scaled": 0.5}, {"scaled": float("nan")}]
)
def test_policy_refuses_what_it_does_not_know(fields: dict[str, Any]) -> None:
    with pytest.raises(BowerbirdError):
        DecodePolicy(**fields)


# Orientation and time


def with_exif(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"exif": exif}
    options |= {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    return encoded(photo(), kind, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright_once(kind: str, orientation: int) -> None:
    picture = decode(with_exif(kind, orientation), POLICY, name="x")
    stored = (
        np.asarray(Image.open(io.BytesIO(encoded(photo(), "JPEG", quality=95))))
        if kind == "JPEG"
        else photo()
    )
    expected = np.asarray(stored).astype(int)
    # Undo what the orientation says, spelled out: rows first, then columns.
    turned = {
        1: expected,
        2: expected[:, ::-1],
        3: expected[::-1, ::-1],
        4: expected[::-1],
        5: expected.transpose(1, 0, 2),
        6: expected[::-1].transpose(1, 0, 2),
        7: expected[::-1, ::-1].transpose(1, 0, 2),
        8: expected[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    np.testing.assert_array_equal(pixels(picture), turned)
    assert (picture.height, picture.width) == turned.shape[:2]


def test_orientation_can_be_left_alone() -> None:
    picture = decode(with_exif("JPEG", 6), DecodePolicy(exif=False), name="x")
    assert picture.image.size == (picture.width, picture.height) == (48, 32)


@pytest.mark.parametrize(
    "blob", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40, b"junk"]
)
def test_broken_exif_is_ignored(blob: bytes) -> None:
    picture = decode(encoded(photo(), "JPEG", exif=blob), POLICY, name="x")
    assert picture.image.size == (48, 32)
    assert picture.taken_at is None


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    assert decode(with_exif("JPEG", orientation), POLICY, name="x").image.size == (48, 32)


@pytest.mark.parametrize(
    ("original", "changed", "expected"),
    [
        ("2019:05:04 03:02:01", "2020:01:01 00:00:00", datetime(2019, 5, 4, 3, 2, 1)),
        (None, "2020:12:31 23:59:59", datetime(2020, 12, 31, 23, 59, 59)),
        ("0000:00:00 00:00:00", "2020:12:31 23:59:59", datetime(2020, 12, 31, 23, 59, 59)),
        ("2019-05-04T03:02:01+02:00", None, datetime(2019, 5, 4, 3, 2, 1)),
        ("2019:13:04 03:02:01", None, None),
        ("    :  :     :  :  ", None, None),
        ("0001:01:01 00:00:00", None, None),
        ("yesterday", None, None),
        (None, None, None),
    ],
)
def test_time_taken(original: str | None, changed: str | None, expected: datetime | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    if changed:
        exif[0x0132] = changed
    if original:
        exif.get_ifd(0x8769)[0x9003] = original
    assert decode(encoded(photo(), "JPEG", exif=exif), POLICY, name="x").taken_at == expected


# Transparency and modes


def test_hidden_colour_does_not_show_through_alpha() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert first(image) == (255, 255, 255)
    assert first(image, DROP) == (255, 0, 0)
    assert first(Image.new("RGBA", (4, 4), (10, 20, 30, 255))) == (10, 20, 30)


@pytest.mark.parametrize("kind", ["BMP", "TGA"])
def test_an_unused_alpha_channel_hides_nothing(kind: str) -> None:
    image = Image.new("RGBA", (2, 1), (9, 99, 199, 0))
    assert first(image, kind=kind) == (9, 99, 199)
    image.putpixel((1, 0), (0, 0, 0, 1))
    used = pixels(decode(encoded(image, "TGA"), POLICY, name="x"))
    assert used[0, 0].tolist() == [255] * 3


@given(st.tuples(*[st.integers(0, 255)] * 4))
def test_white_shows_in_proportion_to_transparency(colour: tuple[int, int, int, int]) -> None:
    got = np.array(first(Image.new("RGBA", (1, 1), colour)))
    alpha = colour[3] / 255
    assert np.abs(got - (np.array(colour[:3]) * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_grey_and_colour_with_alpha(mode: str) -> None:
    image = Image.new(mode, (2, 2))
    assert first(image) == (255, 255, 255)
    assert first(image, DROP) == (0, 0, 0)


@pytest.mark.parametrize(("mode", "hole"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 1)])
def test_one_transparent_colour(mode: str, hole: Any) -> None:
    image = Image.new(mode, (4, 4), hole)
    image.putpixel((3, 3), 0 if mode != "RGB" else (1, 2, 3))
    data = encoded(image, transparency=255 if mode == "1" else hole)
    assert pixels(decode(data, POLICY, name="x"))[0, 0].tolist() == [255] * 3
    assert pixels(decode(data, POLICY, name="x"))[3, 3].tolist() == ([1, 2, 3] if mode == "RGB" else [0] * 3)
    hidden = pixels(decode(data, DROP, name="x"))[0, 0].tolist()
    assert hidden == {"L": [7] * 3, "RGB": [7, 8, 9], "1": [255] * 3}[mode]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff", b"\x00"])
def test_transparent_palette_entries(transparency: int | bytes) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 10, 10, 0, 0, 250])
    image.putpixel((3, 3), 1)
    data = encoded(image, transparency=transparency)
    assert pixels(decode(data, POLICY, name="x"))[0, 0].tolist() == [255] * 3
    assert pixels(decode(data, POLICY, name="x"))[3, 3].tolist() == [0, 0, 250]
    assert pixels(decode(data, DROP, name="x"))[0, 0].tolist() == [200, 10, 10]


def test_palette_with_alpha_channel_and_premultiplied_modes() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([200, 10, 10])
    mask = Image.new("L", (2, 2), 0)
    layered = Image.merge("PA", (image, mask))
    layered.putpalette([200, 10, 10])
    for plain in (layered, Image.new("La", (2, 2)), Image.new("RGBa", (2, 2))):
        assert from_pillow(plain, POLICY, "x").image.getpixel((0, 0)) == (255, 255, 255), plain.mode
        assert from_pillow(plain, DROP, "x").image.mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "P"])
def test_other_modes_are_converted_as_pillow_does(mode: str) -> None:
    if mode == "LAB":
        pytest.importorskip("PIL.ImageCms")
    image = photo().convert("RGB").convert(mode)
    np.testing.assert_array_equal(pixels(from_pillow(image, POLICY, "x")), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_is_converted_without_a_profile() -> None:
    data = encoded(photo().convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(decode(data, POLICY, name="x")), expected)
    assert np.abs(expected.astype(int) - np.asarray(photo())).mean() < 12


# More than 8 bits


def sixteen(values: list[int], kind: str) -> bytes:
    """A row of 16-bit greyscale as PGM or PNG or TIFF, written by hand where Pillow's modes differ."""
    row = np.array([values], dtype=">u2")
    if kind == "PGM":
        return b"P5 %d 1 65535\n" % len(values) + row.tobytes()
    image = Image.frombytes("I;16", (len(values), 1), row.astype("<u2").tobytes())
    return encoded(image, kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_sixteen_bit_grey_is_scaled_or_clamped(kind: str) -> None:
    data = sixteen([0, 128, 129, 257, 32768, 65535], kind)
    assert pixels(decode(data, POLICY, name="x"))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert pixels(decode(data, CLAMP, name="x"))[0, :, 0].tolist() == [0, 128, 129, 255, 255, 255]


@given(st.integers(0, 65535))
def test_sixteen_bit_is_rounded_to_the_nearest(value: int) -> None:
    grey = pixels(decode(sixteen([value], "PNG"), POLICY, name="x"))[0, 0]
    assert grey.tolist() == [round(value / 257)] * 3


def test_sixteen_bit_with_a_transparent_value() -> None:
    image = Image.frombytes("I;16", (2, 1), struct.pack("<2H", 5000, 0))
    data = encoded(image, transparency=5000)
    assert pixels(decode(data, POLICY, name="x"))[0, :, 0].tolist() == [255, 0]
    assert pixels(decode(data, DROP, name="x"))[0, :, 0].tolist() == [19, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([float("nan"), 0.5, 1.0], [0, 128, 255]),
        ([float("inf"), float("-inf"), 0.5], [255, 0, 128]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([-7.0] * 3, [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_float_pictures(values: list[float], expected: list[int]) -> None:
    image = Image.frombytes("F", (3, 1), struct.pack("=3f", *values))
    assert pixels(decode(encoded(image, "TIFF"), POLICY, name="x"))[0, :, 0].tolist() == expected
    assert pixels(decode(encoded(image, "TIFF"), CLAMP, name="x")).shape == (1, 3, 3)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_any_float_becomes_a_byte(values: list[float]) -> None:
    image = Image.frombytes("F", (len(values), 1), struct.pack(f"={len(values)}f", *values))
    for policy in (POLICY, CLAMP):
        assert from_pillow(image, policy, "x").image.size == (len(values), 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 255], [0, 255]), ([0, 65535], [0, 255]), ([-5, 5], [0, 255]), ([9, 9], [9, 9])],
)
def test_thirty_two_bit_pictures(values: list[int], expected: list[int]) -> None:
    image = Image.frombytes("I", (2, 1), struct.pack("=2i", *values))
    assert pixels(from_pillow(image, POLICY, "x"))[0, :, 0].tolist() == expected


# JPEG


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}, {"subsampling": "4:4:0"}]
)
def test_full_decode_equals_pillow(options: dict[str, Any]) -> None:
    if options.get("subsampling") == "4:4:0":
        # Pillow cannot write it: exchange the sampling factors of a square 4:2:2 file.
        data = encoded(photo(64, 64), "JPEG", subsampling="4:2:2")
        at = data.index(b"\xff\xc0") + 11
        assert data[at] == 0x21
        data = data[:at] + b"\x12" + data[at + 1 :]
    else:
        data = encoded(photo(64, 64), "JPEG", **options)
    for policy in (POLICY, DecodePolicy(scaled=2)):
        picture = decode(data, policy, name="x", target=64)
        assert picture.scale == 1
        np.testing.assert_array_equal(pixels(picture), np.asarray(Image.open(io.BytesIO(data))))


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(1, 300),
    st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    st.booleans(),
)
def test_scaled_decode_is_the_smallest_that_is_safe(
    w: int, h: int, target: int, ratio: float, turned: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    data = encoded(Image.new("RGB", (w, h), (9, 99, 199)), "JPEG", exif=exif)
    picture = decode(data, DecodePolicy(scaled=ratio), name="x", target=target)
    assert (picture.width, picture.height) == ((h, w) if turned else (w, h))
    scale = picture.scale
    assert picture.image.size == (-(-picture.width // scale), -(-picture.height // scale))
    if scale > 1:
        assert min(picture.image.size) >= ratio * target
    if scale < 8 and min(w, h) >= 2 * scale:
        assert -(-min(w, h) // (2 * scale)) < ratio * target
    assert np.abs(pixels(picture).astype(int) - (9, 99, 199)).max() <= 4


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_scaled_decode_keeps_the_colours(mode: str) -> None:
    image = photo(400, 300).convert(mode)
    data = encoded(image, "JPEG", quality=95)
    small = decode(data, DecodePolicy(scaled=2), name="x", target=70)
    assert small.scale == 2
    full = decode(data, POLICY, name="x").image.resize(small.image.size, Image.Resampling.BOX)
    assert np.abs(pixels(small).astype(int) - np.asarray(full)).mean() < 2


def test_scaled_decode_is_off_without_target_or_policy_and_for_other_formats() -> None:
    data = encoded(photo(400, 300), "JPEG")
    assert decode(data, DecodePolicy(scaled=1), name="x").scale == 1
    assert decode(data, POLICY, name="x", target=10).scale == 1
    assert decode(encoded(photo(400, 300)), DecodePolicy(scaled=1), name="x", target=10).scale == 1


def test_mpo_gives_its_first_picture_scaled_or_not() -> None:
    data = encoded(photo(400, 300), "MPO", save_all=True, append_images=[Image.new("RGB", (400, 300))])
    picture = decode(data, DecodePolicy(scaled=2), name="x", target=70)
    assert (picture.format, picture.scale, picture.image.size) == ("MPO", 2, (200, 150))
    full = decode(data, POLICY, name="x")
    assert np.abs(pixels(full).astype(int) - np.asarray(photo(400, 300))).mean() < 8


# Animations


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
def test_first_frame(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    picture = decode(data, POLICY, name="x")
    assert pixels(picture)[0, 0].tolist() == [250, 0, 0]
    assert picture.format == kind


# Damaged files and files that are no pictures


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "photo.jpg is empty"),
        (b"hello, this is not a picture\n" * 10, "is a text file"),
        ("Grüße aus der Ferne".encode() * 500, "is a text file"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "is a PDF"),
        (b"\n <!DOCTYPE html><html>", "is an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "is an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript (EPS) file"),
        (b"\xd7\xcd\xc6\x9a" + b"\0" * 40, "is a Windows metafile"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "is a video"),
        (b"\x1aE\xdf\xa3" + b"\x93B\x82\x88" * 9, "is a video"),
        (b"PK\3\4" + b"\0" * 30, "is a ZIP archive"),
        (b"\xff\x0a" + b"\x11" * 30, "is a JPEG XL picture"),
        (b"\0" * 1000, "is a run of zero bytes"),
        (b"\x81\x02\x99\xfe" * 100, "is of an unknown kind"),
        (b"\xff\xd8\xff", "is a JPEG that cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is a WebP that cannot be decoded"),
    ],
)
def test_reasons(data: bytes, expected: str) -> None:
    assert expected in reason(data)


def test_truncated_jpeg() -> None:
    data = encoded(photo(300, 200), "JPEG")
    half = data[: len(data) // 2]
    assert "is a truncated JPEG: image file is truncated" in reason(half)
    with pytest.raises(DecodeError) as caught:
        decode(half, POLICY, name="x")
    # Outcomes are kept in lists: Pillow's traceback would keep its buffers alive with them.
    assert caught.value.__context__ is None


KINDS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "TGA", "ICO", "PPM"]


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS), st.data())
def test_any_damage_is_a_picture_or_a_one_line_reason(kind: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(photo(24, 16), kind))
    for _ in range(draw.draw(st.integers(0, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    policy = DecodePolicy(max_pixels=1_000_000, seconds=10)
    for content in (bytes(data), bytes(data[:cut])):
        try:
            picture = decode(content, policy, name="x.tga")
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert picture.image.mode == "RGB"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_a_reason(data: bytes) -> None:
    try:
        decode(data, DecodePolicy(max_pixels=1_000_000), name="x.tga")
    except DecodeError as error:
        assert "\n" not in str(error)


def test_names_cannot_break_the_line() -> None:
    text = reason(b"", name="a\nb\x1b[31m\udc80.jpg")
    assert text.startswith("a\\nb\\x1b[31m\\udc80.jpg is empty")
    text.encode()


def test_tga_needs_its_footer_or_its_suffix() -> None:
    data = encoded(photo(), "TGA")
    assert decode(data, POLICY, name="no suffix").format == "TGA"
    assert decode(data[:-26], POLICY, name="x.TGA").format == "TGA"
    reason(data[:-26], name="x.jpg")


def test_interrupts_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(encoded(photo()), POLICY, name="x")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ZeroDivisionError("x"),
        struct.error("a\nb"),
        RecursionError(),
        KeyError(3),
        ValueError(),
    ],
)
def test_whatever_pillow_raises_becomes_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    assert reason(encoded(photo())).startswith("photo.jpg is a ")


def test_pillow_warnings_neither_reach_the_user_nor_become_errors() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 10, 10, 0, 0, 250])
    data = encoded(image, transparency=b"\x10\x20")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(data, DROP, name="x")


# Limits


def test_pixel_cap_is_checked_before_decoding() -> None:
    data = encoded(photo(48, 32))
    assert decode(data, DecodePolicy(max_pixels=48 * 32), name="x").width == 48
    text = reason(data, DecodePolicy(max_pixels=48 * 32 - 1))
    assert "1,536 pixels" in text
    assert "1,535" in text
    assert "BOWERBIRD_MAX_PIXELS" in text


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_decompression_bomb(size: tuple[int, int]) -> None:
    text = reason(png_header(*size))
    assert f"{size[0] * size[1]:,} pixels" in text
    assert "BOWERBIRD_MAX_PIXELS" in text


def test_pixel_cap_counts_the_full_picture_of_a_scaled_decode() -> None:
    data = encoded(photo(400, 300), "JPEG")
    with pytest.raises(DecodeError, match="120,000 pixels"):
        decode(data, DecodePolicy(scaled=1, max_pixels=119_999), name="x", target=10)


def test_pixel_cap_holds_inside_an_icon() -> None:
    inner = png_header(30_000, 5_000)
    data = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert "150,000,000 pixels" in reason(data, DecodePolicy(max_pixels=1_000_000))


def test_a_cap_above_pillows_own_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    # 200 megapixels of one bit, black: 25 MB in memory until RGB is made, so only the header is tried.
    data = png_header(20_000, 10_000)
    assert "BOWERBIRD_MAX_PIXELS" in reason(data)
    monkeypatch.setattr(module, "_draft", lambda *_: (_ for _ in ()).throw(ValueError("reached")))
    assert "reached" in reason(data, DecodePolicy(max_pixels=200_000_000))
    assert "BOWERBIRD_MAX_PIXELS" in reason(png_header(20_000, 10_001), DecodePolicy(max_pixels=200_000_000))
    assert "reached" in reason(png_header(30_000, 30_000), DecodePolicy(max_pixels=0))


def test_pillows_cap_is_left_alone_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "more than the cap of 200" in reason(encoded(photo()))
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_extreme_sizes(size: tuple[int, int], kind: str) -> None:
    picture = decode(
        encoded(Image.new("RGB", size, (0, 128, 255)), kind), DecodePolicy(scaled=2), name="x", target=1
    )
    assert (picture.width, picture.height) == size
    small = Image.open(io.BytesIO(picture.thumbnail(50)))
    assert max(small.size) <= 50
    assert min(small.size) >= 1


def test_a_decode_stops_at_its_deadline() -> None:
    data = encoded(Image.effect_noise((1500, 1500), 90))
    text = reason(data, DecodePolicy(seconds=1e-6))
    assert "took longer than 1e-06 s to decode" in text
    assert "BOWERBIRD_DECODE_SECONDS" in text
    assert decode(data, DecodePolicy(seconds=0), name="x").width == 1500


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM"])
def test_the_deadline_stops_streaming_decoders_in_the_middle(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.effect_noise((900, 900), 90), kind)
    started: list[int] = []

    class Slow(module._TimedBytes):
        def read(self, size: int | None = -1, /) -> bytes:
            if size and size > 4096:
                started.append(size)
                self.deadline = 0.0 if len(started) > 1 else self.deadline
            return super().read(size)

    monkeypatch.setattr(module, "_TimedBytes", Slow)
    assert "took longer" in reason(data)
    assert len(started) == 2


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE_PIXELS", 100)
    inside, most = 0, 0
    finish = module._finish
    guard = threading.Lock()

    def counting(*args: Any) -> Picture:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        try:
            threading.Event().wait(0.01)
            return finish(*args)
        finally:
            with guard:
                inside -= 1

    monkeypatch.setattr(module, "_finish", counting)
    data = encoded(photo())
    with ThreadPoolExecutor(4) as pool:
        # Waiting for the others does not count as decoding.
        done = list(pool.map(lambda _: decode(data, DecodePolicy(seconds=0.05), name="x"), range(12)))
    assert len(done) == 12
    assert most == 1


def test_threads_agree() -> None:
    files = [encoded(photo(90 + n, 70), kind) for n in range(4) for kind in KINDS]
    expected = [decode(data, POLICY, name="x").image.tobytes() for data in files]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda data: decode(data, POLICY, name="x").image.tobytes(), files * 3))
    assert got == expected * 3


# Reading files


def test_read_bytes_gives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ä b.jpg"
    content = os.urandom(10_000_001)
    path.write_bytes(content)
    assert read_bytes(path, POLICY) == content


def refused(path: Path, policy: DecodePolicy = POLICY) -> str:
    with pytest.raises(UnreadableError) as caught:
        read_bytes(path, policy)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert "does not exist" in refused(tmp_path / "missing.jpg")
    assert "is a link to a file that does not exist" in refused(link)
    assert "could not be read" in refused(loop)
    assert "is a directory" in refused(tmp_path)
    assert "could not be read" in refused(file / "below")
    assert "could not be read" in refused(tmp_path / ("x" * 300))
    assert "could not be read" in refused(Path("a\0b"))
    text = refused(file, DecodePolicy(max_bytes=4))
    assert "5 bytes" in text
    assert "BOWERBIRD_MAX_BYTES" in text
    assert read_bytes(file, DecodePolicy(max_bytes=5)) == b"12345"
    assert read_bytes(file, DecodePolicy(max_bytes=0)) == b"12345"


def test_an_empty_file_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(DecodeError, match="is empty"):
        read_bytes(path, POLICY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_never_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    assert "is a pipe or socket" in refused(path)
    assert "is a device" in refused(Path("/dev/zero"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_forbidden(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"1")
    path.chmod(0)
    assert "permission denied" in refused(path)


def test_errors_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"12345")

    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(os, "read", fail)
    error: OSError = OSError(5, "Input/output error")
    assert "could not be read: Input/output error" in refused(path)
    error = PermissionError(13, "Permission denied")
    assert "permission denied" in refused(path)
    monkeypatch.setattr(os, "open", fail)
    error = FileNotFoundError(2, "vanished")
    assert "does not exist" in refused(path)


def test_a_file_that_grows_past_the_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"12345")
    monkeypatch.setattr(os, "read", lambda _, size: b"z" * size)
    assert "more than the cap" in refused(path, DecodePolicy(max_bytes=1000))


def test_a_slow_file_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slow.jpg"
    path.write_bytes(b"12345")
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(reading, "monotonic", lambda: next(clock))
    text = refused(path, DecodePolicy(seconds=5))
    assert "took longer than 5 s to read" in text
    assert "BOWERBIRD_DECODE_SECONDS" in text


def test_decode_refuses_more_bytes_than_the_cap() -> None:
    with pytest.raises(UnreadableError, match="BOWERBIRD_MAX_BYTES"):
        decode(encoded(photo()), DecodePolicy(max_bytes=10), name="x")


# Pictures in memory


def test_from_pillow_takes_plain_rgb_as_it_is() -> None:
    image = photo()
    picture = from_pillow(image, POLICY, "x")
    assert picture.image is image
    assert (picture.width, picture.height, picture.format, picture.scale) == (48, 32, "PIL", 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_from_pillow_agrees_with_the_file(kind: str) -> None:
    data = with_exif(kind, 6)
    by_file = decode(data, POLICY, name="x")
    by_image = from_pillow(Image.open(io.BytesIO(data)), POLICY, "x")
    np.testing.assert_array_equal(pixels(by_file), pixels(by_image))
    assert (by_image.format, by_image.width) == (kind, by_file.width)


def test_from_pillow_refuses() -> None:
    with pytest.raises(UnsupportedInputError, match="not a Pillow image"):
        from_pillow("photo.jpg", POLICY, "input 3")  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match="no pixels"):
        from_pillow(Image.new("RGB", (0, 5)), POLICY, "x")
    with pytest.raises(DecodeError, match="BOWERBIRD_MAX_PIXELS"):
        from_pillow(photo(), DecodePolicy(max_pixels=9), "x")
    with pytest.raises(DecodeError, match="truncated"):
        from_pillow(Image.open(io.BytesIO(encoded(photo(99, 99), "JPEG")[:900])), POLICY, "x")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_from_array(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    if shape[-1] == 4:
        array[..., 3] = 255
    picture = from_array(array, "x")
    grey = array if array.ndim == 3 else array[:, :, None]
    expected = np.broadcast_to(grey[:, :, :3], (5, 7, 3)).copy()
    array[:] = 0  # the picture is not a view
    np.testing.assert_array_equal(pixels(picture), expected)
    assert (picture.width, picture.height, picture.format, picture.taken_at) == (7, 5, "array", None)


def test_from_array_takes_views_and_composites_alpha() -> None:
    array = np.asarray(photo())
    np.testing.assert_array_equal(pixels(from_array(array[::-1, ::2], "x")), array[::-1, ::2])
    hidden = np.zeros((2, 2, 4), np.uint8)
    assert from_array(hidden, "x").image.getpixel((0, 0)) == (255, 255, 255)
    assert from_array(hidden, "x", DROP).image.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4), np.bool_),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_from_array_says_what_it_accepts(array: Any) -> None:
    with pytest.raises(UnsupportedInputError, match=r"uint8 arrays of shape \(H, W\)"):
        from_array(array, "x")


def test_from_array_refuses_no_pixels() -> None:
    with pytest.raises(DecodeError, match="no pixels"):
        from_array(np.zeros((0, 4, 3), np.uint8), "x")


# Thumbnails


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 300))
@hypothesis_settings(max_examples=40, deadline=None)
def test_thumbnails_fit_and_are_never_enlarged(w: int, h: int, side: int) -> None:
    data = from_pillow(Image.new("RGB", (w, h)), POLICY, "x").thumbnail(side)
    small = Image.open(io.BytesIO(data))
    assert small.format == "JPEG"
    assert max(small.size) == min(side, max(w, h))


def test_thumbnails_look_like_the_picture_and_carry_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    smooth = photo(90, 60).resize((900, 600))
    picture = decode(encoded(smooth, "JPEG", exif=exif, comment=b"private"), POLICY, name="x")
    for side in (90, 2000):
        data = picture.thumbnail(side, quality=90)
        assert b"camera" not in data
        assert b"private" not in data
        back = Image.open(io.BytesIO(data))
        expected = picture.image.resize(back.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(back).astype(int) - np.asarray(expected)).mean() < 3


# HEIF


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


def test_heif_without_the_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    text = reason(HEIC, name="x.heic")
    assert "pillow-heif" in text
    assert "pip install 'bowerbird[heic]'" in text


def test_heif_with_the_extra() -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    heif.from_pillow(photo(64, 40)).save(stream, exif=exif.tobytes())
    picture = decode(stream.getvalue(), POLICY, name="x.heic")
    assert (picture.format, picture.width, picture.height) == ("HEIF", 40, 64)
    assert "cannot be decoded" in reason(HEIC, name="x.heic")


def test_suffixes_are_lower_case_and_cover_the_formats() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".heic", ".avif", ".jp2"} <= IMAGE_SUFFIXES
    assert all(s.startswith(".") and s == s.lower() for s in IMAGE_SUFFIXES)
    assert not IMAGE_SUFFIXES & {".eps", ".pdf", ".svg", ".wmf", ".txt"}
