"""Preprocessing against the original libraries, bit for bit.

The references were made by `tools/make_golden.py` with transformers 4.57 (Pillow), transformers 5.23 (torchvision
tensors), open_clip 3.3 and timm 1.0; no library but Pillow and NumPy is needed to be held to them. Nothing here has a
tolerance.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bowerbird.errors import ModelFormatError
from bowerbird.models.vision.families import FAMILIES
from bowerbird.models.vision.processors import PROFILES, read_steps
from bowerbird.models.vision.steps import Steps

TOOL = Path(__file__).resolve().parents[3] / "tools" / "make_golden.py"


def load_tool():
    """The tool is a script; its pictures, its cases and its file format are used here."""
    spec = importlib.util.spec_from_file_location("make_golden", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_golden"] = module
    spec.loader.exec_module(module)
    return module


golden = load_tool()
REFERENCES = {profile: golden.Reference.read(profile) for profile in PROFILES}
EVERY = [(profile, name) for profile, reference in REFERENCES.items() for name in reference.cases]
TAKEN: set[tuple[str, str]] = set()


def names(*words: str) -> list[tuple[str, str]]:
    """The cases whose name holds one of the words; a misspelt word is an error, not an empty test."""
    found = [(profile, name) for profile, name in EVERY if any(word in name for word in words)]
    assert all(any(word in name for _, name in found) for word in words), words
    TAKEN.update(found)
    return found


def steps_of(folder: Path, profile: str, name: str) -> Steps:
    golden.write_config(folder, profile, REFERENCES[profile].cases[name])
    return read_steps(folder, profile)


def compare(folder: Path, profile: str, name: str) -> None:
    """Every picture of a case, every output, bit for bit."""
    reference, case = REFERENCES[profile], REFERENCES[profile].cases[name]
    if not case["pictures"]:  # the library itself refuses this config
        with pytest.raises(ModelFormatError):
            steps_of(folder, profile, name)
        return
    steps = steps_of(folder, profile, name)
    assert Steps.parse(str(steps)) == steps
    for shown in case["pictures"]:
        feeds = steps.feeds([steps.pixels(golden.picture(shown))])
        expected = {key.rsplit("/", 1)[1] for key in reference.sums if key.startswith(f"{name}/{shown}/")}
        assert set(feeds) == expected
        for output, array in feeds.items():
            digest = reference.sums[f"{name}/{shown}/{output}"]
            values = array[0] if case["whole"] else array[0].ravel()[:: golden.STRIDE]
            assert np.array_equal(values, reference.arrays[digest]), f"{shown}, {output}: {steps}"
            assert golden.digest(array[0]) == digest, f"{shown}, {output}, outside of the sample: {steps}"


def test_the_pictures_are_those_of_the_references():
    """If this fails, the arrays cannot be compared: the pictures were not made alike."""
    for reference in REFERENCES.values():
        for name, digest in reference.pictures.items():
            assert golden.digest(np.asarray(golden.picture(name))) == digest


def test_every_family_is_compared_under_both_hugging_face_profiles():
    for profile in ("hf4-pil", "hf5-tv"):
        compared = {case["kind"] for case in REFERENCES[profile].cases.values() if case["pictures"]}
        # DINOv3 has worked on tensors from the start: transformers 4 without torchvision cannot run it.
        assert compared == set(FAMILIES) - ({"DINOv3ViT"} if profile == "hf4-pil" else set())


@pytest.mark.parametrize(("profile", "name"), names(" small", "open_clip", "timm"))
def test_case_01_pixel_values_of_every_family(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names(" default"))
def test_case_01_pixel_values_at_the_real_sizes(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(
    ("profile", "name"), names("not rescaled", "not normalised", "other factor", "DINOv2")
)
def test_case_02_mean_std_and_range_from_the_config(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize("profile", ["hf4-pil", "hf5-tv"])
def test_case_03_squash_against_short_side_and_crop(tmp_path, profile):
    """Of a non-square picture ViT keeps the borders, CLIP the aspect ratio; both as their references do."""
    compare(tmp_path, profile, "ViT small")
    squashed = steps_of(tmp_path, profile, "ViT small").geometry
    compare(tmp_path, profile, "CLIP small")
    cropped = steps_of(tmp_path, profile, "CLIP small").geometry
    assert ([step.op for step in squashed], squashed[0].mode) == (["resize"], "square")
    assert ([step.op for step in cropped], cropped[0].mode) == (["resize", "center_crop"], "shortest")


@pytest.mark.parametrize(("profile", "name"), names("MobileViT"))
def test_case_05_blue_first(tmp_path, profile, name):
    compare(tmp_path, profile, name)
    assert steps_of(tmp_path, profile, name).scale.order == ("rgb" if "rgb" in name else "bgr")


@pytest.mark.parametrize(
    ("profile", "name"),
    names("CLIP small", "CLIP default", "open_clip shortest 16 bicubic", "timm center 16x16 0.9"),
)
def test_case_14_odd_crop_residual_in_every_library(tmp_path, profile, name):
    """The 61x47 picture leaves odd residues in both directions."""
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names("resample", "timm nearest", "timm box", "timm hamming"))
def test_case_16_every_filter(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names("CLIP crop larger", "CLIP nothing but a crop"))
def test_case_18_crop_larger_than_the_picture(tmp_path, profile, name):
    """The odd pixel of the padding goes before the picture under Pillow, after it under torchvision."""
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names("ConvNext"))
def test_case_21_convnext_crops_below_384_and_warps_from_there(tmp_path, profile, name):
    compare(tmp_path, profile, name)
    geometry = steps_of(tmp_path, profile, name).geometry
    warps = name in ("ConvNext default", "ConvNext 384")
    assert [step.op for step in geometry] == (["resize"] if warps else ["resize", "center_crop"])


@pytest.mark.parametrize(("profile", "name"), names("Levit", "Perceiver", "DINOv3ViT", "PoolFormer"))
def test_case_22_hidden_sizes_and_reversed_orders(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names("EfficientNet"))
def test_case_23_efficientnet_offset_and_double_std(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names("Siglip2"))
def test_case_27_naflex(tmp_path, profile, name):
    """A picture of 2000x1 too; transformers 4 takes that one for a picture with one channel, and refuses it."""
    compare(tmp_path, profile, name)
    if name == "Siglip2 small":
        assert {"two lines", "two columns"} <= set(REFERENCES[profile].cases[name]["pictures"])
        assert ("line" in REFERENCES[profile].cases[name]["pictures"]) == (profile == "hf5-tv")


@pytest.mark.parametrize(
    ("profile", "name"), names("wide", "20x12", "[12, 20]", "max_height", "longest_edge")
)
def test_case_28_height_other_than_width(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(
    ("profile", "name"),
    names("2021", "2022", "nothing said", "size pair", "default_to_square", "nulls", "fast"),
)
def test_case_29_configs_as_they_were_published(tmp_path, profile, name):
    compare(tmp_path, profile, name)


@pytest.mark.parametrize(("profile", "name"), names("cropped"))
def test_a_crop_where_the_class_has_none_by_default(tmp_path, profile, name):
    compare(tmp_path, profile, name)


def test_no_case_is_left_out():
    assert set(EVERY) == TAKEN
