"""The table of faults: each changes what it says, and nothing where there is nothing to change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bowerbird.judge.faults import FAULTS, PointResize, Recipe, ShiftedCrop, faults_of
from bowerbird.media.image import DecodePolicy, from_array
from bowerbird.models.vision.steps import CenterCrop, Resize, Steps

CLIP = "mean [0.48145466, 0.4578275, 0.40821073], std [0.26862954, 0.26130258, 0.27577711]"
RECIPES = {
    "clip": f"resize short side 224 bicubic -> centre crop 224x224 -> x * 1/255, {CLIP}",
    "siglip": "resize 224x224 bicubic -> x * 1/255, mean 0.5, std 0.5",
    "dinov3": "floats * 1/255 -> resize 224x224 bilinear, by torch -> x * 1, mean [0.485, 0.456, 0.406], std 0.25",
    "naflex": "resize into 256 patches of 16 bilinear -> x * 1/255, mean 0.5, std 0.5 "
    "-> patches of 16, padded to 256",
    "mobilevit": "resize short side 224 bilinear -> centre crop 256x256 -> x * 1/255, bgr",
}


def names(recipe: str) -> set[str]:
    return {fault.name for fault, _ in faults_of(Recipe(Steps.parse(RECIPES[recipe]), DecodePolicy()))}


def test_a_recipe_only_has_the_faults_it_can_have() -> None:
    everything = {fault.name for fault in FAULTS}
    assert everything - names("clip") == {"bicubic", "CLIP mean/std", "crop for squash"}
    assert everything - names("siglip") == {"bicubic", "[-1,1]", "squash", "crop + 1 px"}
    assert {"float resize", "crop + 1 px"}.isdisjoint(names("dinov3"))
    assert {"nearest", "squash", "no antialias"}.isdisjoint(names("naflex"))
    assert "BGR" in names("mobilevit")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_fault_changes_what_the_network_takes(recipe: str) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (301, 452, 3), np.uint8)
    picture = from_array(pixels, "noise")
    right = Recipe(Steps.parse(RECIPES[recipe]), DecodePolicy())
    expected = right.prepare(picture)["pixel_values"]
    for fault, wrong in faults_of(right):
        if fault.concerns == "all":
            values = wrong.prepare(picture)["pixel_values"]
            assert values.shape == expected.shape, fault.name
            assert values.dtype == np.float32
            # A height of 224 leaves nothing to round: there both conventions agree.
            assert fault.name == "other rounding" or not np.array_equal(values, expected), fault.name


def test_swapping_red_and_blue_is_what_reading_bgr_gives() -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (90, 120, 3), np.uint8)
    for text in RECIPES.values():
        right = Recipe(Steps.parse(text), DecodePolicy())
        wrong = {fault.name: recipe for fault, recipe in faults_of(right)}["BGR"]
        swapped = from_array(np.ascontiguousarray(pixels[..., ::-1]), "swapped")
        given_bgr = right.prepare(swapped)["pixel_values"]
        ours = wrong.prepare(from_array(pixels, "plain"))["pixel_values"]
        if len(set(right.steps.scale.mean)) == 1 == len(set(right.steps.scale.std)):
            assert np.array_equal(ours, given_bgr)


@settings(max_examples=20, deadline=None)
@given(
    have=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    want=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    code=st.sampled_from([2, 3]),
)
def test_point_resize_is_torch_without_antialiasing(
    have: tuple[int, int], want: tuple[int, int], code: int
) -> None:
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(sum(have)).random((*have, 3), np.float32) * 255
    ours = PointResize(want[0], want[1], "square", code)(pixels)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(pixels.transpose(2, 0, 1))[None],
        want,
        mode={2: "bilinear", 3: "bicubic"}[code],
        antialias=False,
    )[0]
    assert np.abs(ours - theirs.numpy().transpose(1, 2, 0)).max() < 2e-2  # of 255


def test_point_resize_rounds_8_bit_pictures() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8))
    small = PointResize(20, 30, "square", 3)(image)
    assert (small.dtype, small.shape) == (np.uint8, (20, 30, 3))
    enlarged = PointResize(100, 140, "square", 2)(image)
    filtered = np.asarray(Resize(100, 140, "square", 2)(image))
    assert np.abs(enlarged.astype(int) - filtered).max() <= 1  # there is nothing to filter when enlarging


@given(width=st.integers(20, 60), height=st.integers(20, 60))
def test_shifted_crop_is_off_by_one_pixel(width: int, height: int) -> None:
    pixels = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3).astype(np.uint8)
    larger = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), mode="edge")
    top, left = (height - 20) // 2 + 1, (width - 20) // 2 + 1
    expected = larger[top : top + 20, left : left + 20]
    assert np.array_equal(np.asarray(ShiftedCrop(20, 20)(Image.fromarray(pixels))), expected)
    assert CenterCrop(20, 20) != ShiftedCrop(20, 20)
