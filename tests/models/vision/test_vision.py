"""Preprocessing, bit for bit against plain Pillow and NumPy written as the reference processors are."""

from __future__ import annotations

import io
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.errors import ModelFormatError, UnsupportedInputError
from bowerbird.media.image import DecodePolicy, decode
from bowerbird.models.hub.fetch import locate
from bowerbird.models.vision.processors import read_steps
from bowerbird.models.vision.steps import (
    CenterCrop,
    Floats,
    Patches,
    PatchResize,
    Resize,
    Scale,
    ShareCrop,
    Steps,
)

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
        steps = read_steps(locate("mini").directory)
        image = noise(width, height, seed)
        pixels = steps.pixels(image)
        resized = np.asarray(reference_resize(image, 256, 3))
        assert np.array_equal(pixels, reference_crop(resized, 224, 224))
        values = steps.scale(pixels[None])
        assert np.array_equal(values, ((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None])

    def test_reads_as_a_recipe(self):
        steps = read_steps(locate("mini").directory)
        assert str(steps).startswith("resize short side 256 bicubic -> centre crop 224x224 -> x * 0.0078125")
        assert steps.target == 256
        assert json.loads(json.dumps(steps.to_json()))[0]["op"] == "resize"

    def test_nothing_resized_has_no_target(self):
        assert Steps((CenterCrop(4, 4),), Scale(1, (0,) * 3, (1,) * 3)).target is None


filters = st.sampled_from(range(6))
kernels = st.sampled_from(["pillow", "torch"])
pixels = st.integers(1, 2000)
numbers = st.one_of(st.floats(-4, 4), st.just(1 / 255), st.integers(-300, 300).map(float))
triples = st.tuples(numbers, numbers, numbers)
divisors = st.tuples(*[st.floats(1e-3, 300)] * 3)
crop_words = {"rounding": st.sampled_from(["floor", "even"]), "padding": st.sampled_from(["before", "after"])}


@st.composite
def resizes(draw):
    mode = draw(st.sampled_from(["shortest", "square", "inside", "over"]))
    height = draw(pixels)
    return Resize(
        height,
        height if mode == "shortest" else draw(pixels),
        mode,
        draw(filters),
        draw(st.sampled_from(["truncate", "round"])),
        draw(st.sampled_from([0, 4000])) if mode == "shortest" else 0,
        draw(kernels),
    )


crops = st.builds(CenterCrop, pixels, pixels, fill=st.tuples(*[st.integers(0, 255)] * 3), **crop_words)
geometries = st.one_of(
    resizes(),
    crops,
    st.builds(PatchResize, pixels, pixels, filters, kernels),
    st.builds(ShareCrop, st.floats(0.01, 4), st.floats(0.01, 4), **crop_words),
    st.builds(Floats, st.floats(1e-4, 2)),
)
factors = st.one_of(
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.floats(1, 300).map(lambda divisor: 1 / divisor),
    st.sampled_from([1 / 255, 1 / 127.5, 1.0, 255.0]),
)
scales = st.builds(
    Scale,
    factors,
    triples,
    divisors,
    st.sampled_from(["float64", "float32", "fused", "divide"]),
    numbers,
    st.one_of(st.just(()), divisors),
    st.sampled_from(["rgb", "bgr"]),
)
every_steps = st.builds(
    Steps,
    st.lists(geometries, max_size=4).map(tuple),
    scales,
    st.one_of(st.none(), st.builds(Patches, pixels, pixels)),
)


class TestRecipe:
    @given(every_steps)
    def test_a_recipe_says_everything(self, steps):
        """Whatever decides a value is in the text: reading it back gives the same steps."""
        assert Steps.parse(str(steps)) == steps
        assert Steps.parse(str(steps).upper().replace(" -> ", "\n")) == steps

    @given(every_steps, every_steps)
    def test_so_does_the_stored_form(self, steps, others):
        """Fingerprints are made of it: it is plain data, and the same for the same steps alone."""
        stored = json.loads(json.dumps(steps.to_json()))
        assert stored == json.loads(json.dumps(Steps.parse(str(steps)).to_json()))
        assert (stored == json.loads(json.dumps(others.to_json()))) == (steps == others)

    def test_the_stored_form_of_older_indexes_is_unchanged(self):
        """A new field must not change the fingerprint of a model that does not use it."""
        steps = Steps((Resize(256, 256), CenterCrop(224, 224)), Scale(1 / 128, (0.9,) * 3, (1.0,) * 3))
        assert steps.to_json() == [
            {
                "op": "resize",
                "height": 256,
                "width": 256,
                "mode": "shortest",
                "resample": 3,
                "rounding": "truncate",
            },
            {"op": "center_crop", "height": 224, "width": 224, "rounding": "floor"},
            {"op": "scale", "factor": 1 / 128, "mean": (0.9,) * 3, "std": (1.0,) * 3},
        ]

    @pytest.mark.parametrize(
        ("text", "steps"),
        [
            (
                "resize short side 256 bicubic -> center crop 224x224 -> x * 1/255",
                Steps((Resize(256, 256), CenterCrop(224, 224)), Scale(1 / 255, (0.0,) * 3, (1.0,) * 3)),
            ),
            (
                "Resize 320 x 200 nearest \u2192 x/255, mean 0.5, std [1/4, 0.5, 1]".replace(
                    "x/255", "x / 255"
                ),
                Steps(
                    (Resize(200, 320, "square", 0),),
                    Scale(1 / 255, (0.5,) * 3, (0.25, 0.5, 1.0), "divide"),
                ),
            ),
            (
                "resize 9x9 nearest -> x * 0.3, divided",
                Steps((Resize(9, 9, "square", 0),), Scale(0.3, (0.0,) * 3, (1.0,) * 3, "divide")),
            ),
            (
                "floats * 1/255 -> resize 8x8 bilinear, by torch -> x * 1",
                Steps(
                    (Floats(1 / 255), Resize(8, 8, "square", 2, kernel="torch")),
                    Scale(1.0, (0.0,) * 3, (1.0,) * 3),
                ),
            ),
        ],
    )
    def test_written_by_hand(self, text, steps):
        assert Steps.parse(text) == steps

    @pytest.mark.parametrize(
        ("text", "part", "accepted"),
        [
            (
                "resize short side 256 cubic -> x * 1",
                "resize short side 256 cubic",
                "resize short side 256 bicubic",
            ),
            ("rotate 90 -> x * 1", "rotate 90", "centre crop 224x224"),
            ("resize 9x9 bicubic, roundish -> x * 1", "roundish", "rounded"),
            ("centre crop 9x9, fill 1 2 -> x * 1", "fill 1 2", "fill"),
            ("centre crop 0x9 -> x * 1", "size of zero", "centre crop"),
            ("centre crop 9x9, fill 1 2 300 -> x * 1", "colour above 255", "centre crop"),
            ("x * 1, mean [1, 2]", "neither one number nor three", "mean 0.5"),
            ("x * 1, mean [1, two, 3]", "two is not a number", "mean 0.5"),
            ("x * 1, std 0", "std of zero", "std 0.5"),
            ("x * 1/0", "division by zero", "x * 1/255"),
            ("x * 1, mean 1, mean 2", "said twice", "mean 0.5"),
            ("patches of 16 -> x * 1", "patches of 16", "padded to"),
            ("", "an empty step", "resize"),
            ("x * 1 -> centre crop 8x8", "not resizes and crops, then one scale", "x * 1/255"),
            ("centre crop 8x8", "not resizes and crops, then one scale", "x * 1/255"),
            ("x * 1 -> x * 1", "not resizes and crops, then one scale", "x * 1/255"),
        ],
    )
    def test_what_is_not_understood_is_named(self, text, part, accepted):
        with pytest.raises(ModelFormatError) as caught:
            Steps.parse(text)
        assert part in caught.value.message
        assert accepted in caught.value.hint

    @given(factors)
    @example(0.7837985890347726)  # not the inverse of its inverse
    @example(255.0)
    def test_a_division_is_exact(self, factor):
        steps = Steps((), Scale(factor, (0.0,) * 3, (1.0,) * 3, "divide"))
        assert Steps.parse(str(steps)) == steps

    def test_a_division_reads_as_one(self):
        steps = Steps((), Scale(1 / 255, (0.0,) * 3, (1.0,) * 3, "divide"))
        assert str(steps) == "x / 255"

    def test_the_text_is_pleasant(self):
        steps = Steps(
            (Resize(256, 256, rounding="round"), CenterCrop(224, 200, "even", "after", (9, 8, 7))),
            Scale(1 / 255, (0.5,) * 3, (0.25, 0.5, 1.0), "fused", order="bgr"),
        )
        assert str(steps) == (
            "resize short side 256 bicubic, rounded"
            " -> centre crop 200x224, half to even, padded after, fill 9 8 7"
            " -> x * 1/255, mean 0.5, std [0.25, 0.5, 1], fused, bgr"
        )


class TestSteps:
    steps = Steps.parse("resize short side 20 bicubic -> centre crop 16x12 -> x * 1/255, mean 0.5, std 0.25")

    @settings(deadline=None)
    @given(st.integers(1, 80), st.integers(1, 80))
    def test_what_comes_out_has_the_size_that_was_said(self, width, height):
        image = noise(width, height)
        assert self.steps.size == (12, 16)
        assert self.steps.pixels(image).shape == (12, 16, 3)
        assert self.steps.feeds([self.steps.pixels(image)] * 2)["pixel_values"].shape == (2, 3, 12, 16)

    @pytest.mark.parametrize(
        ("recipe", "size", "target"),
        [
            ("resize short side 20 bicubic -> x * 1", None, 20),
            ("resize 20x30 bicubic -> x * 1", (30, 20), 30),
            ("resize inside 20x30 bicubic -> centre crop 20x30 -> x * 1", (30, 20), 30),
            ("centre crop 20x30 -> x * 1", (30, 20), None),
            ("centre crop 0.5x0.5 of the short side -> x * 1", None, None),
            ("floats * 1/255 -> resize 8x8 bilinear -> x * 1", (8, 8), 8),
            ("resize into 9 patches of 4 bilinear -> x * 1 -> patches of 4, padded to 9", None, None),
        ],
    )
    def test_size_and_target(self, recipe, size, target):
        steps = Steps.parse(recipe)
        assert (steps.size, steps.target) == (size, target)

    def test_stages_show_the_picture_after_every_step(self):
        image = noise(40, 30)
        stages = self.steps.stages(image)
        assert [name for name, _ in stages] == str(self.steps).split(" -> ")
        assert [array.shape for _, array in stages] == [(20, 26, 3), (12, 16, 3), (3, 12, 16)]
        assert np.array_equal(stages[1][1], self.steps.pixels(image))
        assert np.array_equal(stages[2][1], self.steps.feeds([stages[1][1]])["pixel_values"][0])

    @pytest.mark.parametrize("head", ["", "floats * 1/255 -> "])
    def test_bounds_are_black_and_white(self, head):
        factor = "1" if head else "1/255"
        steps = Steps.parse(f"{head}x * {factor}, mean [0.5, 0.4, 0.3], std [0.5, 0.25, 0.5]")
        values = [steps.feeds([steps.pixels(Image.new("RGB", (2, 2), (v,) * 3))]) for v in (0, 255)]
        low, high = (value["pixel_values"] for value in values)
        assert steps.bounds == (low.min(), high.max())
        assert steps.bounds == pytest.approx((-1.6, 2.4))

    def test_pictures_of_different_sizes_fit_into_no_batch(self):
        steps = Steps.parse("resize short side 8 bicubic -> x * 1")
        with pytest.raises(UnsupportedInputError, match="different sizes"):
            steps.feeds([steps.pixels(noise(20, 8)), steps.pixels(noise(8, 20))])

    def test_travels_to_workers(self):
        assert pickle.loads(pickle.dumps(self.steps)) == self.steps


@pytest.mark.parametrize("rounding", ["floor", "even"])
@given(have=st.integers(1, 60), want=st.integers(1, 60))
def test_case_14_odd_crop_residual_both_roundings(rounding, have, want):
    """A column of the picture is where the reference library's own formula puts it, cut or padded."""
    image = np.repeat(np.arange(1, have + 1, dtype=np.uint8)[None, :, None], 3, 2)
    out = np.asarray(CenterCrop(1, want, rounding, "after")(Image.fromarray(image)))[0, :, 0]
    if have >= want:
        start = int((have - want) / 2.0) if rounding == "floor" else round((have - want) / 2.0)
        assert out.tolist() == list(range(start + 1, start + 1 + want))
    else:
        before = (want - have) // 2  # torchvision's padding: the odd pixel comes after
        assert out.tolist() == [0] * before + list(range(1, have + 1)) + [0] * (want - have - before)


def test_case_18_crop_larger_than_the_image_is_padded_before_scaling():
    steps = Steps.parse("centre crop 5x5, padded after, fill 10 20 30 -> x * 1/255, mean 0.5, std 0.5")
    pixels = steps.pixels(Image.new("RGB", (2, 2), (200, 200, 200)))
    assert np.argwhere(pixels[..., 0] == 200).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert pixels[0, 0].tolist() == [10, 20, 30]
    corner = steps.feeds([pixels])["pixel_values"][0, :, 0, 0]
    assert corner == pytest.approx((np.array([10, 20, 30]) / 255 - 0.5) / 0.5)


def test_case_17_truncation_against_rounding_on_random_sizes():
    """They differ on half of all sizes, so nothing that tries a few can miss a mix-up."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 3000, (2000, 2))
    truncate, rounded = (Resize(224, 224, rounding=how) for how in ("truncate", "round"))
    differ = np.mean([truncate.size(*map(int, s)) != rounded.size(*map(int, s)) for s in sizes])
    assert 0.45 < differ < 0.55


def test_case_15_antialias_at_eightfold_downscale():
    """Stripes two pixels wide are grey after antialiasing, and stripes without it."""
    stripes = np.zeros((16, 256, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    for kernel in ("pillow", "torch"):
        smooth = np.asarray(Resize(2, 32, "square", 3, kernel=kernel)(Image.fromarray(stripes)))
        assert np.abs(smooth[:, 2:-2].astype(int) - 127).max() <= 2
    wide = np.asarray(Resize(2, 33, "square", 0)(Image.fromarray(stripes)))
    assert set(np.unique(wide)) == {0, 255}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 32), st.integers(1, 64))
def test_case_27_naflex_size_fills_the_patches_and_never_exceeds_them(width, height, patch, count):
    across, down = PatchResize(patch, count).size(width, height)
    assert across % patch == down % patch == 0
    assert 1 <= across // patch * (down // patch) <= max(count, across // patch, down // patch)


@pytest.mark.parametrize(
    ("size", "shape"), [((2000, 1), (1, 256)), ((1, 2000), (256, 1)), ((300, 300), (16, 16))]
)
def test_case_27_naflex_of_a_line(size, shape):
    steps = Steps.parse("resize into 256 patches of 16 bilinear -> x * 1/255 -> patches of 16, padded to 256")
    feeds = steps.feeds([steps.pixels(noise(*size)), steps.pixels(noise(70, 50))])
    assert feeds["pixel_values"].shape == (2, 256, 768)
    assert feeds["spatial_shapes"][0].tolist() == list(shape)
    used = feeds["spatial_shapes"].prod(1)
    assert feeds["pixel_attention_mask"].sum(1).tolist() == used.tolist()
    assert not feeds["pixel_values"][1, used[1] :].any()
    assert feeds["pixel_values"][1, used[1] - 1].any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1601, 1203), (1207, 1606)])
@pytest.mark.parametrize("kernel", ["pillow", "torch"])
def test_a_scaled_decode_keeps_the_geometry(orientation, size, kernel):
    """Whatever the scale does not divide is left out of account by no step, however the picture lies."""
    rng = np.random.default_rng(5)
    photo = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=95, exif=exif)
    resize = Resize(256, 256, kernel=kernel)
    steps = Steps((resize, CenterCrop(224, 224)), Scale(1 / 255, (0.0,) * 3, (1.0,) * 3))
    full, scaled = (
        decode(stream.getvalue(), DecodePolicy(scaled=ratio), name="x", target=256) for ratio in (None, 1.0)
    )
    assert (full.scale, scaled.scale) == (1, 4)
    assert (scaled.width, scaled.height) == full.image.size
    pixels = [steps.pixels(p.image, (p.width, p.height), p.box).astype(int) for p in (full, scaled)]
    naive = steps.pixels(scaled.image).astype(int)
    assert np.abs(pixels[0] - pixels[1]).mean() < 1.0
    assert np.abs(pixels[0] - pixels[1]).mean() <= np.abs(pixels[0] - naive).mean()
