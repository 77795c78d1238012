"""Preprocessing, bit for bit against plain Pillow and NumPy written as the reference processors are."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.errors import ModelFormatError, UnsupportedInputError
from bowerbird.media.image import DecodePolicy, decode
from bowerbird.models.fetch import locate
from bowerbird.models.vision import CenterCrop, Resize, Scale, Steps, read_steps

sides = st.integers(1, 400)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def reference_resize(image: Image.Image, short: int, resample: int) -> Image.Image:
    """`get_resize_output_image_size` and `resize` of the processors that work on Pillow images."""
    width, height = image.size
    low, high = (width, height) if width <= height else (height, width)
    new_short, new_long = short, int(short * high / low)
    size = (new_short, new_long) if width <= height else (new_long, new_short)
    return image.resize(size, resample=resample)


def reference_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`center_crop` of the same processors: floor for the crop, ceil for the zero padding before the picture."""
    have_height, have_width = image.shape[:2]
    top, left = (have_height - height) // 2, (have_width - width) // 2
    bottom, right = top + height, left + width
    if top >= 0 and bottom <= have_height and left >= 0 and right <= have_width:
        return image[top:bottom, left:right]
    new_height, new_width = max(height, have_height), max(width, have_width)
    padded = np.zeros((new_height, new_width, 3), np.uint8)
    top_pad, left_pad = math.ceil((new_height - have_height) / 2), math.ceil((new_width - have_width) / 2)
    padded[top_pad : top_pad + have_height, left_pad : left_pad + have_width] = image
    top, bottom, left, right = top + top_pad, bottom + top_pad, left + left_pad, right + left_pad
    return padded[max(0, top) : min(new_height, bottom), max(0, left) : min(new_width, right)]


class TestResize:
    @settings(deadline=None, max_examples=40)
    @given(sides, sides, st.integers(1, 96), st.sampled_from(range(6)))
    def test_short_side_is_the_reference_for_all_six_filters(self, width, height, short, resample):
        if max(width, height) * short > 40_000 * min(width, height):
            return  # only large, no other case
        image = noise(width, height)
        ours = Resize(short, short, "shortest", resample)(image)
        theirs = reference_resize(image, short, resample)
        assert ours.size == theirs.size
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))

    @pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (500, 20), (7, 7), (33, 32)])
    def test_antialiased_eight_bit_two_pass(self, width, height):
        """Pillow rounds to 8 bits between its two passes; a single pass over floats would differ."""
        image = noise(width, height)
        across = image.resize((20, height), Image.Resampling.BICUBIC)
        both = across.resize((20, 20), Image.Resampling.BICUBIC)
        ours = Resize(20, 20, "square", 3)(image)
        assert np.array_equal(np.asarray(ours), np.asarray(both))

    @given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 1024))
    def test_truncation_against_rounding(self, width, height, short):
        low, high = sorted((width, height))
        truncated = Resize(short, short).size(width, height)
        rounded = Resize(short, short, rounding="round").size(width, height)
        assert min(truncated) == min(rounded) == short or high * short < low
        assert max(truncated) == int(short * high / low)
        assert max(rounded) == round(short * high / low)
        assert (truncated[0] <= truncated[1]) == (width <= height) or truncated[0] == truncated[1]

    def test_the_two_roundings_differ_where_it_matters(self):
        assert Resize(256, 256).size(500, 375) == (341, 256)
        assert Resize(256, 256).size(400, 267) == (383, 256)  # 383.52
        assert Resize(256, 256, rounding="round").size(400, 267) == (384, 256)

    def test_already_the_right_size(self):
        image = noise(256, 300)
        assert Resize(256, 256)(image) is image

    def test_too_elongated_is_refused_and_names_the_size(self):
        with pytest.raises(UnsupportedInputError, match="1x20000"):
            Resize(256, 256)(Image.new("RGB", (1, 20_000)))

    def test_elongated_is_fine(self):
        assert Resize(256, 256)(noise(10, 2000)).size == (256, 51_200)


class TestCenterCrop:
    @settings(deadline=None)
    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
    def test_floor_and_padding_are_the_reference(self, width, height, crop_width, crop_height):
        image = noise(width, height)
        ours = np.asarray(CenterCrop(crop_height, crop_width)(image))
        assert np.array_equal(ours, reference_crop(np.asarray(image), crop_height, crop_width))

    @given(st.integers(4, 40), st.integers(4, 40))
    def test_half_even_is_that_of_torchvision(self, width, height):
        image = noise(width, height)
        ours = np.asarray(CenterCrop(4, 4, rounding="even")(image))
        top, left = round((height - 4) / 2.0), round((width - 4) / 2.0)
        assert np.array_equal(ours, np.asarray(image)[top : top + 4, left : left + 4])

    def test_floor_and_half_even_differ_on_odd_residues(self):
        image = noise(7, 4)  # residue 3: floor takes column 1, half to even takes column 2
        floor, even = CenterCrop(4, 4)(image), CenterCrop(4, 4, rounding="even")(image)
        assert np.array_equal(np.asarray(floor), np.asarray(image)[:, 1:5])
        assert np.array_equal(np.asarray(even), np.asarray(image)[:, 2:6])

    def test_the_odd_pixel_of_padding_comes_before_the_picture(self):
        out = np.asarray(CenterCrop(4, 4)(Image.new("RGB", (1, 1), (9, 9, 9))))
        assert np.argwhere(out[..., 0]).tolist() == [[2, 2]]


class TestScale:
    @pytest.mark.parametrize(
        ("factor", "mean", "std"),
        [
            (1 / 255, CLIP_MEAN, CLIP_STD),
            (1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            (0.00392156862745098, CLIP_MEAN, CLIP_STD),
            (0.0078125, (0.9921875,) * 3, (1.0,) * 3),
        ],
    )
    def test_every_level_bit_for_bit(self, factor, mean, std):
        levels = np.arange(256, dtype=np.uint8)
        pixels = np.stack([levels] * 3, -1).reshape(1, 16, 16, 3)
        out = Scale(factor, mean, std)(pixels)
        assert out.shape == (1, 3, 16, 16)
        assert out.dtype == np.float32
        for channel in range(3):
            expected = [
                (np.float32(np.float64(level) * factor) - np.float32(mean[channel]))
                / np.float32(std[channel])
                for level in range(256)
            ]
            assert np.asarray(expected, np.float32).tobytes() == out[0, channel].tobytes()

    @given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
    def test_batches_and_channels_keep_their_places(self, count, height, width):
        rng = np.random.default_rng(height * 10 + width)
        pixels = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        expected = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
        expected = (expected - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)
        out = Scale(1 / 255, CLIP_MEAN, CLIP_STD)(pixels)
        assert np.array_equal(out, expected.transpose(0, 3, 1, 2))


class TestWholeWay:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(3, 500), st.integers(3, 500), st.integers(0, 9))
    def test_mini_is_short_side_256_crop_224_minus_127_over_128(self, width, height, seed):
        steps = read_steps(locate("mini").directory / "preprocessor_config.json")
        image = noise(width, height, seed)
        pixels = steps.pixels(image)
        resized = np.asarray(reference_resize(image, 256, 3))
        assert np.array_equal(pixels, reference_crop(resized, 224, 224))
        values = steps.scale(pixels[None])
        assert np.array_equal(values, ((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None])

    def test_reads_as_a_recipe(self):
        steps = read_steps(locate("mini").directory / "preprocessor_config.json")
        assert str(steps).startswith("resize short side 256 bicubic -> centre crop 224x224 -> x * 0.0078125")
        assert steps.target == 256
        assert json.loads(json.dumps(steps.to_json()))[0]["op"] == "resize"

    def test_nothing_resized_has_no_target(self):
        assert Steps((CenterCrop(4, 4),), Scale(1, (0,) * 3, (1,) * 3)).target is None


BASE: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor"}


class TestReadSteps:
    def write(self, tmp_path: Path, **keys: Any) -> Path:
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps({**BASE, **keys}), "utf-8")
        return path

    def read(self, tmp_path: Path, **keys: Any) -> Steps:
        return read_steps(self.write(tmp_path, **keys))

    @pytest.mark.parametrize(
        ("size", "default_to_square", "expected"),
        [
            (96, None, Resize(96, 96, "shortest")),  # CLIP: an integer is the short side
            (96, True, Resize(96, 96, "square")),
            (96, False, Resize(96, 96, "shortest")),
            ({"shortest_edge": 96}, None, Resize(96, 96, "shortest")),
            ({"height": 96, "width": 128}, None, Resize(96, 128, "square")),
            ([96, 128], None, Resize(96, 128, "square")),  # (height, width)
        ],
    )
    def test_spellings_of_size(self, tmp_path, size, default_to_square, expected):
        square = {} if default_to_square is None else {"default_to_square": default_to_square}
        assert self.read(tmp_path, size=size, **square).geometry[0] == expected

    @pytest.mark.parametrize(
        ("crop", "expected"), [(64, (64, 64)), ({"height": 64, "width": 80}, (64, 80)), ([64, 80], (64, 80))]
    )
    def test_spellings_of_crop_size(self, tmp_path, crop, expected):
        assert self.read(tmp_path, crop_size=crop).geometry[1] == CenterCrop(*expected)

    def test_what_is_not_said_is_the_default_of_the_class(self, tmp_path):
        steps = self.read(tmp_path)
        assert steps.geometry == (Resize(224, 224, "shortest", 3), CenterCrop(224, 224))
        assert steps.scale == Scale(1 / 255, CLIP_MEAN, CLIP_STD)

    def test_steps_that_are_switched_off(self, tmp_path):
        steps = self.read(tmp_path, do_resize=False, do_rescale=False, do_normalize=False)
        assert steps.geometry == (CenterCrop(224, 224),)
        assert steps.scale == Scale(1.0, (0.0,) * 3, (1.0,) * 3)
        assert self.read(tmp_path, do_center_crop=False, size=[8, 9]).geometry == (Resize(8, 9, "square"),)

    def test_feature_extractor_type_is_the_older_spelling(self, tmp_path):
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps({"feature_extractor_type": "CLIPFeatureExtractor", "size": 32}), "utf-8")
        assert read_steps(path).geometry[0] == Resize(32, 32)

    @pytest.mark.parametrize("code", range(6))
    def test_resample(self, tmp_path, code):
        assert self.read(tmp_path, resample=code).geometry[0].resample == code

    @pytest.mark.parametrize("key", ["crop_pct", "do_flip_channel_order", "rescale_offset", "a_new_one"])
    def test_an_unknown_key_is_named(self, tmp_path, key):
        with pytest.raises(ModelFormatError, match=key) as caught:
            self.read(tmp_path, **{key: 1})
        assert "preprocessor_config.json" in str(caught.value)

    @pytest.mark.parametrize("kind", ["ViTImageProcessor", None, 5])
    def test_an_unknown_class_is_named(self, tmp_path, kind):
        with pytest.raises(ModelFormatError, match=f"image_processor_type {kind!r}"):
            self.read(tmp_path, image_processor_type=kind)

    @pytest.mark.parametrize(
        "keys",
        [
            {"size": {"longest_edge": 5}},
            {"size": {"shortest_edge": 5, "longest_edge": 9}},
            {"size": "224"},
            {"size": 0},
            {"size": {"height": -1, "width": 5}},
            {"size": [1, 2, 3]},
            {"crop_size": "x"},
            {"resample": 6},
            {"resample": "bicubic"},
            {"image_mean": [0.5]},
            {"image_mean": 0.5},
            {"image_std": [1, 1, 0]},
            {"image_std": ["a", "b", "c"]},
            {"rescale_factor": "x"},
            {"rescale_factor": None},
            {"do_center_crop": False},  # pictures would come out in different sizes
            {"do_resize": False, "do_center_crop": False},
        ],
        ids=str,
    )
    def test_nonsense_is_refused_and_the_file_named(self, tmp_path, keys):
        with pytest.raises(ModelFormatError, match=r"preprocessor_config\.json"):
            self.read(tmp_path, **keys)

    @pytest.mark.parametrize("content", ["", "[]", "nothing", "\xff", "null"])
    def test_damaged(self, tmp_path, content):
        path = tmp_path / "preprocessor_config.json"
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(ModelFormatError, match=r"preprocessor_config\.json"):
            read_steps(path)
        path.unlink()
        with pytest.raises(ModelFormatError, match=r"preprocessor_config\.json"):
            read_steps(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1601, 1203), (1207, 1606)])
def test_a_scaled_decode_keeps_the_geometry(orientation, size):
    """Whatever the scale does not divide is left out of account by no step, however the picture lies."""
    rng = np.random.default_rng(5)
    photo = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=95, exif=exif)
    steps = Steps((Resize(256, 256), CenterCrop(224, 224)), Scale(1 / 255, (0.0,) * 3, (1.0,) * 3))
    full, scaled = (
        decode(stream.getvalue(), DecodePolicy(scaled=ratio), name="x", target=256) for ratio in (None, 1.0)
    )
    assert (full.scale, scaled.scale) == (1, 4)
    assert (scaled.width, scaled.height) == full.image.size
    pixels = [steps.pixels(p.image, (p.width, p.height), p.box).astype(int) for p in (full, scaled)]
    naive = steps.pixels(scaled.image).astype(int)
    assert np.abs(pixels[0] - pixels[1]).mean() < 1.0
    assert np.abs(pixels[0] - pixels[1]).mean() <= np.abs(pixels[0] - naive).mean()
