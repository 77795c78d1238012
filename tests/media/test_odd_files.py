"""Real odd files: every one is decoded, or refused for a reason that was looked at.

The files are Pillow's own test pictures and the EXIF orientation examples in ../shared/data, which a user's
machine has not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bowerbird.errors import DecodeError
from bowerbird.media.image import IMAGE_SUFFIXES, DecodePolicy, Picture, decode, from_pillow, read_bytes

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ODD = sorted((DATA / "odd-images").glob("*")) if DATA.is_dir() else []
POLICY = DecodePolicy()

pytestmark = [
    pytest.mark.skipif(not ODD, reason="../shared/data is not on this machine"),
    pytest.mark.filterwarnings("ignore:::PIL"),  # some tests open the files with Pillow itself
]

# Each was opened by hand: damaged on purpose, or of a kind that Pillow does not decode.
REFUSED = {
    "00r0_gray_l.jp2": "broken data stream",  # fuzzed: a subsampling of 13
    "LICENSE.pillow": "is a text file",
    "badheadersize.bmp": "Unsupported BMP header type (66)",
    "broken.png": "broken PNG file",
    "broken_data_stream.png": "unrecognized data stream",
    "combined_larger_than_size.psd": "is a truncated PSD",
    "crash-1185209cf7655b5aed8ae5e77784dfdd18ab59e9.tif": "its pixel data is damaged",
    "crash-4fb027452e6988530aa5dabee76eecacb3b79f8a.j2k": "broken data stream",
    "crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif": "its pixel data is damaged",
    "crash-ccca68ff40171fdae983d924e127a721cab2bd50.j2k": "broken data stream",
    "crash-f46f5b2f43c370fe65706c11449f567ecc345e74.tif": "its pixel data is damaged",
    "cross_scan_line_truncated.tga": "is a truncated TGA",
    "expected_to_read.jp2": "is a truncated JPEG 2000",
    "invalid_header_length.jp2": "Invalid header length",
    "libtiff_segfault.tif": "Invalid value for samples per pixel",
    "negative_size.ppm": "is a text file",  # P632 is no PPM
    "p_8.tga": "unknown TGA map depth",
    "pal8os2v2-16.bmp": "Unsupported BMP header type (16)",  # valid, and rare enough
    "pal8oversizepal.bmp": "invalid palette size",
    "reallybig.bmp": "BOWERBIRD_MAX_PIXELS",
    "rgb16-231.bmp": "Unsupported BMP bitfields layout",  # valid, and rare enough
    "rgb32bf.bmp": "Unsupported BMP bitfields layout",  # valid, and rare enough
    "seek_too_large.tif": "Unable to seek to frame",
    "shortfile.bmp": "is a truncated BMP",
    "truncated_end_chunk.png": "is a truncated PNG",
    "unbound_variable.jp2": "Malformed JP2 header",
    "unknown_compression_method.png": "Unknown compression method",
    "unknown_mode.j2k": "unable to determine J2K image mode",
}


def opened(path: Path, policy: DecodePolicy = POLICY) -> Picture:
    return decode(read_bytes(path, policy), policy, name=path.name)


@pytest.mark.parametrize("path", ODD, ids=lambda path: path.name)
def test_decoded_or_refused_with_a_reason(path: Path) -> None:
    if path.name in REFUSED:
        with pytest.raises(DecodeError) as caught:
            opened(path)
        text = str(caught.value)
        assert text.startswith(path.name)
        assert REFUSED[path.name] in text
        assert "\n" not in text
        assert caught.value.hint
        return
    picture = opened(path)
    assert picture.image.mode == "RGB"
    assert picture.image.size == (picture.width, picture.height)
    assert picture.scale == 1
    assert picture.thumbnail(64)[:2] == b"\xff\xd8"


@pytest.mark.parametrize("path", ODD, ids=lambda path: path.name)
def test_what_pillow_converts_well_is_left_to_it(path: Path) -> None:
    """With alpha dropped and 16 bits clamped, pixels are exactly those of exif_transpose and convert."""
    if path.name in REFUSED:
        pytest.skip("is refused")
    plain = DecodePolicy(alpha="drop", sixteen_bit="clamp")
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
        if image.mode == "F":
            pytest.skip("what Pillow makes of floats differs between its versions")
    got = opened(path, plain)
    np.testing.assert_array_equal(np.asarray(got.image), np.asarray(expected))


def test_the_suffixes_cover_the_odd_files() -> None:
    assert {path.suffix for path in ODD} - IMAGE_SUFFIXES == {".pillow"}


def test_threads_agree_on_the_odd_files() -> None:
    def digest(path: Path) -> object:
        try:
            return opened(path).image.tobytes()
        except DecodeError as error:
            return str(error)

    some = ODD[::3]
    alone = [digest(path) for path in some]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(digest, some)) == alone


EXIF = [DATA / "exif" / f"Landscape_{n}.jpg" for n in range(9)]


@pytest.mark.parametrize("scaled", [None, 2.0])
def test_the_nine_orientations_come_out_alike(scaled: float | None) -> None:
    policy = DecodePolicy(scaled=scaled)
    pictures = [decode(read_bytes(path, policy), policy, name=path.name, target=224) for path in EXIF]
    assert {(picture.width, picture.height) for picture in pictures} == {(1800, 1200)}
    assert {picture.scale for picture in pictures} == {1 if scaled is None else 2}
    small = [
        np.asarray(picture.image.resize((180, 120), Image.Resampling.BOX)).astype(int) for picture in pictures
    ]
    for other in small[1:]:
        # They were compressed apart from each other: alike, not equal.
        assert np.abs(other - small[0]).mean() < 1.5
    ignored = DecodePolicy(exif=False)
    assert {opened(path, ignored).image.size for path in EXIF} == {(1800, 1200), (1200, 1800)}


@pytest.mark.parametrize(
    "name", ["hopper_orientation_5.jpg", "hopper_orientation_5.webp", "g4_orientation_5.tif"]
)
def test_already_open_images_agree_with_their_files(name: str) -> None:
    path = DATA / "odd-images" / name
    with Image.open(path) as image:
        got = from_pillow(image, POLICY, name)
    np.testing.assert_array_equal(np.asarray(got.image), np.asarray(opened(path).image))


def test_progressive_and_odd_sampling_equal_pillow() -> None:
    photos = sorted((DATA / "clothing").rglob("*.jpg"))[::40]
    assert photos
    for path in photos:
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(np.asarray(opened(path).image), expected)
