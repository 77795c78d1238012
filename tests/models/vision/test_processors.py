"""Which file decides, which keys are understood, and what is said about those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import ModelFormatError
from bowerbird.models.vision.families import (
    CLIP_MEAN,
    CLIP_STD,
    FAMILIES,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODEL_TYPES,
)
from bowerbird.models.vision.processors import PROFILES, read_steps
from bowerbird.models.vision.steps import CenterCrop, PatchResize, Resize, Scale, ShareCrop, Steps

HUGGING_FACE = ("hf4-pil", "hf5-tv")
CLIP_CONFIG = {"image_processor_type": "CLIPImageProcessor"}


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def read(folder: Path, profile: str = "", **keys: Any) -> Steps:
    write(folder, "preprocessor_config.json", {**CLIP_CONFIG, **keys})
    return read_steps(folder, profile)


class TestWhichFile:
    def test_the_first_of_the_list_decides(self, tmp_path):
        """Taken away one by one, the next one is read."""
        files = [
            ("preprocessor_config.json", {**CLIP_CONFIG, "size": 11, "crop_size": 11}),
            ("processor_config.json", {"image_processor": {**CLIP_CONFIG, "size": 12, "crop_size": 12}}),
            ("open_clip_config.json", {"preprocess_cfg": {"size": 13}}),
            ("visual/preprocess_cfg.json", {"size": [14, 14]}),
            ("preprocess_cfg.json", {"size": 15}),
            ("config.json", {"architecture": "x", "pretrained_cfg": {"input_size": [3, 16, 16]}}),
        ]
        for name, content in files:
            write(tmp_path, name, content)
        for number, (name, _) in enumerate(files):
            assert read_steps(tmp_path).size == (11 + number, 11 + number)
            (tmp_path / name).unlink()
        with pytest.raises(ModelFormatError, match="says nowhere") as caught:
            read_steps(tmp_path)
        assert all(name in caught.value.hint for name, _ in files[:4])

    @pytest.mark.parametrize(("profile", "side"), [("", 11), ("hf4-pil", 11), ("hf5-tv", 12)])
    def test_of_two_that_differ_each_version_takes_its_own(self, tmp_path, profile, side):
        """transformers 4.57 reads preprocessor_config.json, 5.23 the block in processor_config.json."""
        block = {**CLIP_CONFIG, "size": 12, "crop_size": 12}
        write(tmp_path, "preprocessor_config.json", {**CLIP_CONFIG, "size": 11, "crop_size": 11})
        write(
            tmp_path, "processor_config.json", {"processor_class": "CLIPProcessor", "image_processor": block}
        )
        assert read_steps(tmp_path, profile).size == (side, side)
        (tmp_path / "preprocessor_config.json").unlink()
        assert read_steps(tmp_path, profile).size == (12, 12)

    def test_a_profile_passes_over_the_files_of_other_libraries(self, tmp_path):
        write(tmp_path, "preprocessor_config.json", {**CLIP_CONFIG, "size": 32, "crop_size": 32})
        write(tmp_path, "open_clip_config.json", {"preprocess_cfg": {"size": 32}})
        scales = {profile: read_steps(tmp_path, profile).scale for profile in PROFILES[:3]}
        assert [scale.arithmetic for scale in scales.values()] == ["float64", "fused", "divide"]
        assert read_steps(tmp_path) == read_steps(tmp_path, "hf4-pil")
        with pytest.raises(ModelFormatError, match="under the profile timm"):
            read_steps(tmp_path, "timm")

    def test_an_unknown_profile(self, tmp_path):
        with pytest.raises(ModelFormatError, match="'hf6'") as caught:
            read_steps(tmp_path, "hf6")
        assert "hf4-pil" in caught.value.hint

    def test_a_processor_config_without_a_picture_block_is_passed_over(self, tmp_path):
        write(tmp_path, "processor_config.json", {"processor_class": "CLIPProcessor"})
        write(tmp_path, "preprocess_cfg.json", {})
        assert read_steps(tmp_path).scale.arithmetic == "divide"

    def test_an_ordinary_config_is_not_one_of_timm(self, tmp_path):
        write(tmp_path, "config.json", {"model_type": "clip", "architectures": ["CLIPModel"]})
        with pytest.raises(ModelFormatError, match="says nowhere"):
            read_steps(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"[]", b"nothing", b"\xff", b"null", b"{"])
    @pytest.mark.parametrize(
        "name", ["preprocessor_config.json", "open_clip_config.json", "preprocess_cfg.json", "config.json"]
    )
    def test_a_damaged_file_is_named(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFormatError, match=name.replace(".", r"\.")):
            read_steps(tmp_path)


class TestWhichClass:
    @pytest.mark.parametrize("name", sorted(FAMILIES))
    @pytest.mark.parametrize(
        "suffix", ["FeatureExtractor", "ImageProcessor", "ImageProcessorFast", "ImageProcessorPil"]
    )
    def test_the_suffix_does_not_matter(self, tmp_path, name, suffix):
        found = []
        for kind in (f"{name}ImageProcessor", f"{name}{suffix}"):
            config = {"image_processor_type": kind, "size": {"height": 32, "width": 32}, "crop_size": 32}
            if FAMILIES[name].sides == ("shortest",):
                config["size"] = {"shortest_edge": 32}
            if name == "Siglip2":
                config = {"image_processor_type": kind}
            if FAMILIES[name].crop is None:
                config.pop("crop_size", None)
            write(tmp_path, "preprocessor_config.json", config)
            found.append(read_steps(tmp_path))
        assert found[0] == found[1]

    @pytest.mark.parametrize(("model", "family"), sorted(MODEL_TYPES.items()))
    def test_a_config_without_a_class_asks_the_model_type(self, tmp_path, model, family):
        size = (
            {"shortest_edge": 32} if FAMILIES[family].sides == ("shortest",) else {"height": 32, "width": 32}
        )
        config = {} if family == "Siglip2" else {"size": size}
        write(tmp_path, "preprocessor_config.json", config)
        write(tmp_path, "config.json", {"model_type": model})
        unnamed = read_steps(tmp_path)
        write(
            tmp_path,
            "preprocessor_config.json",
            {**config, "image_processor_type": f"{family}ImageProcessor"},
        )
        assert unnamed == read_steps(tmp_path)

    @pytest.mark.parametrize("kind", ["DetrImageProcessor", "CLIP", "ImageProcessor", None, 5])
    def test_an_unknown_class_is_named(self, tmp_path, kind):
        with pytest.raises(ModelFormatError, match=f"image_processor_type {kind!r}") as caught:
            read(tmp_path, image_processor_type=kind)
        assert "SiglipImageProcessor" in caught.value.hint


class TestKeys:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (96, Resize(96, 96, "shortest")),  # CLIP: an integer is the short side
            ({"shortest_edge": 96}, Resize(96, 96, "shortest")),
            ({"height": 96, "width": 128}, Resize(96, 128, "square")),
            ([96, 128], Resize(96, 128, "square")),  # (height, width)
            ({"shortest_edge": 96, "longest_edge": 200}, Resize(96, 96, "shortest")),  # 4 does not look at it
        ],
    )
    def test_spellings_of_size(self, tmp_path, size, expected):
        assert read(tmp_path, size=size).geometry[0] == expected

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ({"shortest_edge": 96, "longest_edge": 200}, Resize(96, 96, longest=200, kernel="torch")),
            ({"max_height": 96, "max_width": 200}, Resize(96, 200, "inside", kernel="torch")),
        ],
    )
    def test_spellings_that_only_transformers_5_obeys(self, tmp_path, size, expected):
        assert read(tmp_path, "hf5-tv", size=size).geometry[0] == expected

    def test_default_to_square_is_obeyed_by_transformers_5_alone(self, tmp_path):
        modes = [read(tmp_path, p, size=32, default_to_square=True).geometry[0].mode for p in HUGGING_FACE]
        assert modes == ["shortest", "square"]

    @pytest.mark.parametrize(
        ("crop", "expected"), [(64, (64, 64)), ({"height": 64, "width": 80}, (64, 80)), ([64, 80], (64, 80))]
    )
    def test_spellings_of_crop_size(self, tmp_path, crop, expected):
        assert read(tmp_path, crop_size=crop).geometry[1] == CenterCrop(*expected)

    def test_what_is_not_said_is_the_default_of_the_class(self, tmp_path):
        steps = read(tmp_path)
        assert steps.geometry == (Resize(224, 224, "shortest", 3), CenterCrop(224, 224))
        assert steps.scale == Scale(1 / 255, CLIP_MEAN, CLIP_STD)

    def test_steps_that_are_switched_off(self, tmp_path):
        steps = read(tmp_path, do_resize=False, do_rescale=False, do_normalize=False)
        assert steps.geometry == (CenterCrop(224, 224),)
        assert steps.scale == Scale(1.0, (0.0,) * 3, (1.0,) * 3)
        assert read(tmp_path, do_center_crop=False, size=[8, 9]).geometry == (Resize(8, 9, "square"),)

    def test_null_is_off_for_switches_and_default_for_numbers(self, tmp_path):
        steps = read(tmp_path, do_center_crop=None, size=[8, 8], crop_size=None, image_mean=None)
        assert steps.geometry == (Resize(8, 8, "square"),)
        assert steps.scale.mean == CLIP_MEAN

    @pytest.mark.parametrize("code", range(6))
    def test_resample(self, tmp_path, code):
        assert read(tmp_path, resample=code).geometry[0].resample == code

    @pytest.mark.parametrize("code", [4, 5])
    def test_a_filter_that_tensors_do_not_have(self, tmp_path, code):
        with pytest.raises(ModelFormatError, match=f"resample {code}") as caught:
            read(tmp_path, "hf5-tv", resample=code)
        assert "3 bicubic" in caught.value.hint

    @pytest.mark.parametrize("profile", HUGGING_FACE)
    @pytest.mark.parametrize(
        "key", ["crop_pct", "do_flip_channel_order", "rescale_offset", "clusters", "a_new_one"]
    )
    def test_a_key_that_the_class_does_not_have_is_named(self, tmp_path, key, profile):
        with pytest.raises(ModelFormatError, match=key) as caught:
            read(tmp_path, profile, **{key: 1})
        assert "preprocessor_config.json" in caught.value.message
        assert "image_mean" in caught.value.hint

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("size", {"longest_edge": 5}),
            ("size", {"max_height": 5, "max_width": 9}),  # CLIP of transformers 4 takes neither
            ("size", {}),
            ("size", "224"),
            ("size", 0),
            ("size", 22.5),
            ("size", {"height": -1, "width": 5}),
            ("size", {"height": True, "width": 5}),
            ("size", [1, 2, 3]),
            ("crop_size", "x"),
            ("crop_size", {"shortest_edge": 5}),
            ("resample", 6),
            ("resample", "bicubic"),
            ("resample", True),
            ("do_resize", "yes"),
            ("do_resize", 2),
            ("image_mean", [0.5]),
            ("image_mean", "0.5"),
            ("image_mean", [True, 1, 1]),
            ("image_std", [1, 1, 0]),
            ("image_std", ["a", "b", "c"]),
            ("image_std", [1, 1, float("nan")]),
            ("rescale_factor", "x"),
            ("rescale_factor", 0),
            ("do_pad", "maybe"),
            ("pad_size", {"shortest_edge": "x"}),
            ("size_divisor", 13),
            ("data_format", "channels_last"),
            ("input_data_format", "channels_first"),
        ],
        ids=str,
    )
    def test_nonsense_is_refused_with_file_key_and_remedy(self, tmp_path, key, value):
        extra = {"do_pad": True} if key == "pad_size" else {}
        with pytest.raises(ModelFormatError, match=key) as caught:
            read(tmp_path, **{key: value}, **extra)
        assert "preprocessor_config.json" in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize(
        "keys", [{"do_center_crop": False}, {"do_resize": False, "do_center_crop": False}]
    )
    def test_pictures_of_different_sizes(self, tmp_path, keys):
        with pytest.raises(ModelFormatError, match="different sizes"):
            read(tmp_path, **keys)

    def test_padding_that_changes_nothing_is_fine(self, tmp_path):
        plain = read(tmp_path, size=[32, 32], crop_size=32)
        padded = read(tmp_path, size=[32, 32], crop_size=32, do_pad=True, pad_size=[32, 32], size_divisor=16)
        assert plain == padded

    def test_a_crop_that_transformers_4_overlooks_is_not_guessed_at(self, tmp_path):
        config = {"image_processor_type": "ViTImageProcessor", "do_center_crop": True, "crop_size": 16}
        with pytest.raises(ModelFormatError, match="do_center_crop") as caught:
            read(tmp_path, **config)
        assert "hf5-tv" in caught.value.hint
        assert read(tmp_path, "hf5-tv", **config).size == (16, 16)


class TestFamilies:
    def test_case_02_mean_and_std_of_the_classes(self, tmp_path):
        means = {"ViT": (HALF, HALF), "Levit": (IMAGENET_MEAN, IMAGENET_STD), "Blip": (CLIP_MEAN, CLIP_STD)}
        for name, (mean, std) in means.items():
            scale = read(tmp_path, image_processor_type=f"{name}ImageProcessor").scale
            assert (scale.mean, scale.std) == (mean, std)
        scale = read(
            tmp_path, image_processor_type="ViTImageProcessor", image_mean=[0, 0.25, 1], image_std=2
        ).scale
        assert (scale.mean, scale.std) == ((0.0, 0.25, 1.0), (2.0, 2.0, 2.0))

    @pytest.mark.parametrize(("size", "short"), [(224, 256), (256, 292), (383, 437)])
    def test_case_21_convnext_hides_a_crop_below_384(self, tmp_path, size, short):
        steps = read(tmp_path, image_processor_type="ConvNextImageProcessor", size=size)
        assert steps.geometry == (Resize(short, short, "shortest", 2), CenterCrop(size, size))

    def test_case_21_convnext_warps_from_384_on(self, tmp_path):
        steps = read(tmp_path, image_processor_type="ConvNextImageProcessor", size=384)
        assert steps.geometry == (Resize(384, 384, "square", 2),)

    def test_case_22_levit_is_larger_than_it_says_and_perceiver_crops_first(self, tmp_path):
        assert read(tmp_path, image_processor_type="LevitImageProcessor").geometry[0].height == 256
        first, second = read(tmp_path, image_processor_type="PerceiverImageProcessor").geometry
        assert first == ShareCrop(0.875, 0.875)
        assert second == Resize(224, 224, "square", 3)

    def test_case_22_dinov3_resizes_floats(self, tmp_path):
        steps = [read(tmp_path, p, image_processor_type="DINOv3ViTImageProcessor") for p in HUGGING_FACE]
        assert steps[0] == steps[1]  # there is one implementation
        assert str(steps[0]).startswith("floats * 1/255 -> resize 224x224 bilinear, by torch -> x * 1, mean")

    def test_case_23_efficientnet(self, tmp_path):
        kind = {"image_processor_type": "EfficientNetImageProcessor"}
        plain = read(tmp_path, **kind, include_top=False).scale
        assert (plain.offset, plain.again) == (0.0, ())
        full = read(tmp_path, **kind, rescale_offset=True, image_std=[0.5, 0.25, 1]).scale
        assert (full.offset, full.again) == (1.0, (0.5, 0.25, 1.0))

    def test_case_27_naflex_takes_patches(self, tmp_path):
        steps = read(
            tmp_path, image_processor_type="Siglip2ImageProcessor", patch_size=14, max_num_patches=64
        )
        assert steps.geometry == (PatchResize(14, 64, 2),)
        assert (steps.patches.patch, steps.patches.count, steps.size) == (14, 64, None)

    @pytest.mark.parametrize(
        ("name", "four", "five"),
        [
            ("Beit", "resize 256x256 bicubic -> centre crop 224x224", "resize 224x224 bicubic, by torch"),
            ("ConvNext", "resize 384x384 bilinear", "resize 384x384 bicubic, by torch"),
            ("EfficientNet", "resize 346x346 nearest", "resize 346x346 bicubic, by torch"),
            ("Pvt", "resize 224x224 bilinear", "resize 224x224 bicubic, by torch"),
        ],
    )
    def test_case_29_defaults_that_drifted_between_versions(self, tmp_path, name, four, five):
        found = [str(read(tmp_path, p, image_processor_type=f"{name}ImageProcessor")) for p in HUGGING_FACE]
        assert [text.split(" -> x")[0] for text in found] == [four, five]


class TestOpenClip:
    def read(self, folder: Path, config: dict[str, Any]) -> Steps:
        write(folder, "open_clip_config.json", config)
        return read_steps(folder)

    def test_the_network_says_how_large(self, tmp_path):
        model = {"model_cfg": {"vision_cfg": {"image_size": 336}}, "preprocess_cfg": {"mean": [0.5] * 3}}
        assert self.read(tmp_path, model).size == (336, 336)
        assert self.read(tmp_path, {"preprocess_cfg": {"size": 64}}).size == (64, 64)
        assert self.read(tmp_path, {"preprocess_cfg": {}}).size == (224, 224)
        model["preprocess_cfg"]["size"] = 64  # open_clip prefers the network's
        assert self.read(tmp_path, model).size == (336, 336)

    def test_a_single_side_is_truncated_and_keep_ratio_is_rounded(self, tmp_path):
        """open_clip takes torchvision's resize for squares, its own for the rest; they round differently."""
        square, wide = ({"preprocess_cfg": {"size": size}} for size in (224, [224, 336]))
        assert self.read(tmp_path, square).geometry[0] == Resize(224, 224, "shortest", 3, "truncate")
        assert self.read(tmp_path, wide).geometry[0] == Resize(224, 336, "over", 3, "round")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("mode", "L"),
            ("interpolation", "lanczos"),
            ("resize_mode", "crop"),
            ("size", [1, 2, 3]),
            ("new", 1),
        ],
    )
    def test_nonsense(self, tmp_path, key, value):
        with pytest.raises(ModelFormatError, match=key):
            self.read(tmp_path, {"preprocess_cfg": {key: value}})


class TestTimm:
    def read(self, folder: Path, **config: Any) -> Steps:
        write(folder, "config.json", {"architecture": "vit", "pretrained_cfg": config})
        return read_steps(folder)

    def test_defaults(self, tmp_path):
        steps = self.read(tmp_path, tag="x")
        assert steps.geometry == (Resize(256, 256, "shortest", 3), CenterCrop(224, 224, "even", "after"))
        assert steps.scale == Scale(1 / 255, IMAGENET_MEAN, IMAGENET_STD, "divide")

    def test_case_17_the_larger_side_is_floored(self, tmp_path):
        for share in (0.9, 0.95, 0.875, 0.965, 1.0):
            assert self.read(tmp_path, crop_pct=share).geometry[0].height == int(224 // share)

    def test_the_test_size_is_not_taken(self, tmp_path):
        """As `resolve_data_config` does unless it is asked to."""
        steps = self.read(tmp_path, input_size=[3, 32, 32], test_input_size=[3, 64, 64], test_crop_pct=1.0)
        assert steps.size == (32, 32)

    def test_three_places_of_the_same_block(self, tmp_path):
        block = {"input_size": [3, 32, 32], "interpolation": "bilinear", "crop_pct": 0.9, "mean": [0.5] * 3}
        nested = self.read(tmp_path, **block)
        write(tmp_path, "config.json", {"architecture": "resnet50", "num_classes": 10, **block})
        assert read_steps(tmp_path) == nested
        (tmp_path / "config.json").unlink()
        wrapper = {"image_processor_type": "TimmWrapperImageProcessor", "data_config": block}
        write(tmp_path, "preprocessor_config.json", wrapper)
        assert read_steps(tmp_path) == read_steps(tmp_path, "hf5-tv") == nested

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("input_size", [1, 32, 32]),
            ("interpolation", "random"),
            ("crop_mode", "middle"),
            ("crop_pct", -1),
            ("crop_pct", 999),
            ("new", 1),
            ("std", 0),
        ],
    )
    def test_nonsense(self, tmp_path, key, value):
        with pytest.raises(ModelFormatError, match=key):
            self.read(tmp_path, **{key: value})


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 999), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [
        *("size", "resample", "crop_size", "do_resize", "do_center_crop", "do_rescale", "rescale_factor"),
        *("do_normalize", "image_mean", "image_std", "crop_pct", "do_pad", "pad_size", "size_divisor"),
        *(
            "include_top",
            "rescale_offset",
            "patch_size",
            "max_num_patches",
            "data_format",
            "default_to_square",
        ),
    ]
)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(FAMILIES)), st.sampled_from(HUGGING_FACE), st.dictionaries(KEYS, JSON, max_size=3)
)
def test_any_config_is_read_or_refused_and_nothing_else(tmp_path_factory, name, profile, keys):
    """No value in a file ends in another error, nor in steps whose recipe cannot be read back."""
    folder = tmp_path_factory.getbasetemp()
    try:
        steps = read(folder, profile, image_processor_type=f"{name}ImageProcessor", **keys)
    except ModelFormatError as error:
        assert "preprocessor_config.json" in error.message
    else:
        assert Steps.parse(str(steps)) == steps


OTHERS = {
    "processor_config.json": {"image_processor": {**CLIP_CONFIG}},
    "open_clip_config.json": {
        "model_cfg": {"vision_cfg": {"image_size": 32}},
        "preprocess_cfg": {
            "size": 32,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    },
    "visual/preprocess_cfg.json": {"size": [32, 32], "mode": "RGB", "mean": [0, 0, 0], "std": [1, 1, 1]},
    "config.json": {
        "architecture": "x",
        "input_size": [3, 32, 32],
        "pretrained_cfg": {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9},
    },
}


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(OTHERS)), st.data())
def test_any_file_of_another_library_is_read_or_refused(tmp_path_factory, name, data):
    content = json.loads(json.dumps(OTHERS[name]))
    inner = content
    while isinstance(inner, dict):
        parent, key = inner, data.draw(st.sampled_from(sorted(inner)))
        inner = inner[key]
        if data.draw(st.booleans()):
            break
    parent[key] = data.draw(JSON)
    folder = tmp_path_factory.mktemp("other")
    write(folder, name, content)
    try:
        steps = read_steps(folder)
    except ModelFormatError as error:
        assert str(folder) in error.message
    else:
        assert Steps.parse(str(steps)) == steps
