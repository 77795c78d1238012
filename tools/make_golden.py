"""Reference arrays of picture preprocessing, made by the original libraries.

    python tools/make_golden.py vision --profile hf4-pil     # transformers 4 without torchvision
    python tools/make_golden.py vision --profile hf5-tv      # transformers 5, torch, torchvision
    python tools/make_golden.py vision --profile openclip    # open_clip_torch
    python tools/make_golden.py vision --profile timm        # timm
    python tools/make_golden.py table                        # bowerbird alone: family x profile -> worst error

Each writes `tests/golden/vision-PROFILE.npz`; `tests/models/vision/test_families.py` holds Bowerbird to it. Configs are
what the library itself writes, and what it wrote years ago. Small configs are kept as full arrays, so that a failure
shows where it is; the real sizes as a SHA-256 and every 997th value.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
PROFILES = ("hf4-pil", "hf5-tv", "openclip", "timm")
STRIDE = 997  # of the values kept of a large array: a prime, so that all rows and columns take part

SIZES = {
    "even": (64, 48),
    "odd": (61, 47),
    "portrait": (45, 70),
    "small": (11, 7),  # smaller than every crop
    "narrow": (9, 50),
    "elongated": (230, 6),
    "eightfold": (128, 136),
    "exact": (16, 16),
}
"""(width, height) of the pictures for small configs."""

LARGE = {"photo": (500, 375), "tall": (375, 501), "thumb": (97, 61), "square": (640, 640)}
"""For configs of real sizes."""

SPECIAL = {"line": (2000, 1), "column": (1, 2000), "two lines": (2000, 2), "two columns": (2, 2000)}
"""For NaFlex. transformers 4 takes a picture one pixel high for one with one channel, so it has two lines as well."""


@cache
def picture(name: str) -> Image.Image:
    """A smooth texture with noise on it, made with integers alone, so that it is the same everywhere."""
    width, height = (SIZES | LARGE | SPECIAL)[name]
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.abs((x * a + y * b + c) % 510 - 255) for a, b, c in ((7, 3, 0), (2, 11, 90), (5, -4, 200))]
    # A linear congruential generator: NumPy promises no stream across versions.
    seeds = (np.arange(width * height * 3, dtype=np.uint64) + np.uint64(len(name) * 7919)) * np.uint64(
        6364136223846793005
    )
    noise = ((seeds ^ (seeds >> np.uint64(29))) * np.uint64(2862933555777941757) >> np.uint64(58)).astype(int)
    values = np.stack(waves, -1) + noise.reshape(height, width, 3) - 32
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Case:
    """One config to be run.

    Attributes:
        name: family, then what is special about it.
        kind: the class without `ImageProcessor`, or the library.
        config: keyword arguments of the class, or the config itself where `raw`.
        pictures: names.
        raw: the config is a file as it was published, not arguments.
        whole: full arrays are kept.
    """

    name: str
    kind: str
    config: dict[str, Any]
    pictures: tuple[str, ...] = tuple(SIZES)
    raw: bool = False
    whole: bool = True


def square(side: int) -> dict[str, int]:
    """A size in today's spelling."""
    return {"height": side, "width": side}


def short(side: int) -> dict[str, int]:
    """A size in today's spelling."""
    return {"shortest_edge": side}


SHORT_AND_CROP = {"size": short(18), "crop_size": square(16)}
SQUARE_AND_CROP = {"size": square(18), "crop_size": square(16)}
SMALL: dict[str, dict[str, Any]] = {
    "CLIP": SHORT_AND_CROP,
    "ChineseCLIP": {"size": square(17), "crop_size": square(16)},
    "Bit": SHORT_AND_CROP,
    "Siglip": {"size": square(16)},
    "Siglip2": {"patch_size": 4, "max_num_patches": 12},
    "ViT": {"size": square(16)},
    "Pvt": {"size": square(16)},
    "Segformer": {"size": square(16)},
    "DeiT": SQUARE_AND_CROP,
    "Beit": SQUARE_AND_CROP,
    "DINOv3ViT": {"size": square(16)},
    "ConvNext": {"size": short(16)},
    "PoolFormer": {"size": short(16), "crop_size": square(16)},
    "Levit": {"size": short(16), "crop_size": square(16)},
    "MobileNetV1": SHORT_AND_CROP,
    "MobileNetV2": SHORT_AND_CROP,
    "MobileViT": SHORT_AND_CROP,
    "EfficientNet": {"size": square(18)},
    "Blip": {"size": square(16)},
    "Perceiver": {"size": square(16), "crop_size": square(19)},
    "OwlViT": {"size": square(16)},
}
"""Every family in small: arguments of its class."""

OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP 2021": (
        "CLIP",
        {
            "crop_size": 16,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "resample": 3,
            "size": 18,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    ),
    "CLIP nothing said": (
        "CLIP",
        {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 16, "size": 18},
    ),
    "CLIP size pair": (
        "CLIP",
        {"image_processor_type": "CLIPImageProcessor", "size": [14, 22], "crop_size": [12, 20]},
    ),
    "CLIP default_to_square": (
        "CLIP",
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": 18,
            "default_to_square": True,
            "crop_size": 16,
        },
    ),
    "ViT 2021": (
        "ViT",
        {
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ViTFeatureExtractor",
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
            "size": 16,
        },
    ),
    "DeiT 2021": (
        "DeiT",
        {
            "crop_size": 16,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "DeiTFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
            "size": 18,
        },
    ),
    "Beit 2021": (
        "Beit",
        {
            "crop_size": 16,
            "do_center_crop": False,
            "do_normalize": True,
            "do_resize": True,
            "reduce_labels": False,
            "feature_extractor_type": "BeitFeatureExtractor",
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
            "size": 16,
        },
    ),
    "ConvNext 2022": (
        "ConvNext",
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
            "size": 16,
        },
    ),
    "Levit 2022": (
        "Levit",
        {
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "crop_size": 16,
            "feature_extractor_type": "LevitFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
            "size": 16,
        },
    ),
    "MobileViT 2022": (
        "MobileViT",
        {
            "crop_size": 16,
            "do_center_crop": True,
            "do_flip_channel_order": True,
            "do_resize": True,
            "resample": 2,
            "feature_extractor_type": "MobileViTFeatureExtractor",
            "size": 18,
        },
    ),
    "Perceiver 2021": (
        "Perceiver",
        {
            "crop_size": 19,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "resample": 3,
            "size": 16,
            "feature_extractor_type": "PerceiverFeatureExtractor",
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "Blip 2022": (
        "Blip",
        {
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "BlipImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "processor_class": "BlipProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": square(16),
            "size_divisor": 16,
        },
    ),
    "Bit DINOv2": (
        "Bit",
        {
            "crop_size": square(16),
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "BitImageProcessor",
            "image_std": [0.229, 0.224, 0.225],
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": short(18),
        },
    ),
    "Siglip fast": (
        "Siglip",
        {
            "crop_size": None,
            "data_format": "channels_first",
            "default_to_square": True,
            "device": None,
            "disable_grouping": None,
            "do_center_crop": None,
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessorFast",
            "image_std": [0.5, 0.5, 0.5],
            "input_data_format": None,
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "return_tensors": None,
            "size": square(16),
        },
    ),
    "CLIP nulls": (
        "CLIP",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_center_crop": None,
            "do_normalize": None,
            "image_mean": None,
            "size": square(16),
            "crop_size": square(16),
        },
    ),
}
"""Configs as they were published over the years: missing keys, integer sizes, old class names, nulls."""

FEW = ("odd", "portrait", "small", "eightfold")


def hugging_face_cases(*, five: bool) -> Iterator[Case]:
    """The cases of both Hugging Face profiles."""
    for kind, config in SMALL.items():
        if kind == "DINOv3ViT" and not five:
            continue  # it has always been on tensors
        special = tuple(SPECIAL) if kind == "Siglip2" else ()
        yield Case(f"{kind} small", kind, config, tuple(SIZES) + special)
        yield Case(f"{kind} default", kind, {}, tuple(LARGE), whole=False)
    for name, (kind, config) in OLD.items():
        yield Case(name, kind, config, FEW, raw=True)
    for code in range(4 if five else 6):
        yield Case(f"CLIP resample {code}", "CLIP", {**SHORT_AND_CROP, "resample": code}, FEW)
        yield Case(f"ViT resample {code}", "ViT", {"size": square(16), "resample": code}, FEW)
        if five and code > 1:
            yield Case(f"DINOv3ViT resample {code}", "DINOv3ViT", {"size": square(16), "resample": code}, FEW)
    wide = {"height": 12, "width": 20}
    for kind in ("ViT", "Siglip", "Blip", "DINOv3ViT") if five else ("ViT", "Siglip", "Blip"):
        yield Case(f"{kind} wide", kind, {"size": wide}, FEW)
    yield Case("CLIP wide", "CLIP", {"size": short(14), "crop_size": wide}, FEW)
    yield Case("Perceiver wide", "Perceiver", {"size": wide, "crop_size": {"height": 13, "width": 28}}, FEW)
    yield Case("CLIP nothing but a crop", "CLIP", {"do_resize": False, "crop_size": square(16)})
    yield Case("CLIP crop larger", "CLIP", {"size": short(11), "crop_size": square(16)}, FEW)
    yield Case("CLIP not rescaled", "CLIP", {**SHORT_AND_CROP, "do_rescale": False}, FEW)
    yield Case("CLIP not normalised", "CLIP", {**SHORT_AND_CROP, "do_normalize": False}, FEW)
    yield Case("CLIP other factor", "CLIP", {**SHORT_AND_CROP, "rescale_factor": 1 / 127.5}, FEW)
    for side in (224, 256, 384):
        yield Case(f"ConvNext {side}", "ConvNext", {"size": short(side)}, tuple(LARGE), whole=False)
    yield Case("ConvNext crop_pct", "ConvNext", {"size": short(16), "crop_pct": 0.7}, FEW)
    yield Case("Levit square", "Levit", {"size": square(16), "crop_size": square(12)}, FEW)
    yield Case("PoolFormer square", "PoolFormer", {"size": square(16), "crop_size": square(16)}, FEW)
    for offset in (False, True):
        for top in (False, True):
            config = {
                "size": square(16),
                "rescale_offset": offset,
                "include_top": top,
                "rescale_factor": 1 / 127.5,
            }
            yield Case(f"EfficientNet offset {offset} top {top}", "EfficientNet", config, FEW)
    cropped = {"size": square(18), "do_center_crop": True, "crop_size": square(15)}
    yield Case("EfficientNet cropped", "EfficientNet", cropped, FEW)
    yield Case("MobileViT rgb", "MobileViT", {**SHORT_AND_CROP, "do_flip_channel_order": False}, FEW)
    if five:
        both = {"size": {"shortest_edge": 18, "longest_edge": 30}, "crop_size": square(16)}
        yield Case("CLIP longest_edge", "CLIP", both)
        inside = {"size": {"max_height": 17, "max_width": 21}, "crop_size": square(16)}
        yield Case("CLIP max_height", "CLIP", inside)
        yield Case(
            "ViT cropped", "ViT", {"size": square(18), "do_center_crop": True, "crop_size": square(16)}, FEW
        )
        yield Case("DINOv3ViT cropped", "DINOv3ViT", {**SQUARE_AND_CROP, "do_center_crop": True}, FEW)


def open_clip_cases() -> Iterator[Case]:
    """Every resize mode, square and not, both interpolations."""
    for mode in ("shortest", "longest", "squash"):
        for size in (16, [12, 20]):
            for interpolation in ("bicubic", "bilinear"):
                config = {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": 90}
                shown = tuple(SIZES) if interpolation == "bicubic" else FEW
                yield Case(f"open_clip {mode} {size} {interpolation}", "openclip", config, shown, raw=True)
        yield Case(
            f"open_clip {mode} 224", "openclip", {"resize_mode": mode}, tuple(LARGE), raw=True, whole=False
        )
    half = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    yield Case("open_clip SigLIP", "openclip", {**half, "size": [16, 16], "mode": "RGB"}, FEW, raw=True)


def timm_cases() -> Iterator[Case]:
    """Every crop mode, square and not, all filters."""
    for mode in ("center", "squash", "border"):
        for height, width in ((16, 16), (12, 20)):
            for share in (0.9, 1.0):
                config = {"input_size": [3, height, width], "crop_mode": mode, "crop_pct": share}
                shown = tuple(SIZES) if share == 0.9 else FEW
                yield Case(f"timm {mode} {width}x{height} {share}", "timm", config, shown, raw=True)
        yield Case(
            f"timm {mode} 224",
            "timm",
            {"crop_mode": mode, "mean": [0.5] * 3},
            tuple(LARGE),
            raw=True,
            whole=False,
        )
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        config = {"input_size": [3, 16, 16], "interpolation": name, "mean": [0.5] * 3, "std": [0.5] * 3}
        yield Case(f"timm {name}", "timm", config, FEW, raw=True)


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "hf4-pil": lambda: hugging_face_cases(five=False),
    "hf5-tv": lambda: hugging_face_cases(five=True),
    "openclip": open_clip_cases,
    "timm": timm_cases,
}

Outputs = dict[str, NDArray[Any]]
Run = Callable[[Image.Image], Outputs]


def hugging_face(case: Case) -> tuple[dict[str, Any], Run]:
    """The config as the class writes it, or as it was published, and the class itself."""
    import transformers

    kind = getattr(transformers, f"{case.kind}ImageProcessor")
    if case.raw:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "preprocessor_config.json").write_text(json.dumps(case.config), "utf-8")
            processor = kind.from_pretrained(folder)
        config = case.config
    else:
        processor = kind(**case.config)
        config = json.loads(processor.to_json_string())

    def run(image: Image.Image) -> Outputs:
        found = processor(image, return_tensors="np")
        return {name: np.asarray(value[0]) for name, value in found.items()}

    return config, run


def open_clip(case: Case) -> tuple[dict[str, Any], Run]:
    """The evaluation transform that open_clip makes of a `preprocess_cfg`."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = {key: tuple(value) if isinstance(value, list) else value for key, value in case.config.items()}
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return case.config, lambda image: {"pixel_values": transform(image).numpy()}


def timm(case: Case) -> tuple[dict[str, Any], Run]:
    """The evaluation transform that timm makes of a `pretrained_cfg`."""
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, pretrained_cfg=case.config))
    return case.config, lambda image: {"pixel_values": transform(image).numpy()}


RUNNERS = {"hf4-pil": hugging_face, "hf5-tv": hugging_face, "openclip": open_clip, "timm": timm}
PACKAGES = ("transformers", "torch", "torchvision", "open_clip_torch", "timm", "pillow", "numpy")


@dataclass
class Reference:
    """What one original library makes of every case; the content of one file.

    Attributes:
        profile: whose arithmetic it is.
        made_with: package -> version.
        cases: name -> its config, its pictures, and `refused`: picture -> the error of a library that does not take it.
        sums: "case/picture/output" -> `digest` of the output; `pixel_values` as float32.
        arrays: that digest -> values, every `STRIDE`-th one where `whole` is false. Equal outputs are kept once.
        pictures: name -> `digest` of the pixels.
    """

    profile: str
    made_with: dict[str, str]
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, profile: str) -> Reference:
        """From `tests/golden`."""
        with np.load(GOLDEN / f"vision-{profile}.npz", allow_pickle=False) as file:
            meta, values = json.loads(file["meta"].tobytes()), file["values"]
        index = meta.pop("index")
        arrays = {
            name: values[start : start + math.prod(shape)].reshape(shape).astype(kind)
            for name, (start, shape, kind) in index.items()
        }
        return cls(**meta, arrays=arrays)

    def write(self) -> Path:
        """To `tests/golden`: all arrays end to end in one: a thousand members of a zip cost more than they hold."""
        meta: dict[str, Any] = {
            name: getattr(self, name) for name in ("profile", "made_with", "cases", "sums", "pictures")
        }
        starts = np.cumsum([0, *(array.size for array in self.arrays.values())])
        meta["index"] = {
            name: (int(start), array.shape, array.dtype.str)
            for start, (name, array) in zip(starts, self.arrays.items(), strict=False)
        }
        values = np.concatenate([array.ravel().astype(np.float32) for array in self.arrays.values()])
        path = GOLDEN / f"vision-{self.profile}.npz"
        GOLDEN.mkdir(exist_ok=True)
        text = np.frombuffer(json.dumps(meta, separators=(",", ":")).encode(), np.uint8)
        np.savez_compressed(path, meta=text, values=values)
        return path


def digest(values: NDArray[Any]) -> str:
    """The first 128 bits of the SHA-256 of the bytes, in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:32]


def versions() -> dict[str, str]:
    """Of the packages that took part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make(profile: str) -> Reference:
    """Run every case of a profile through its library."""
    reference = Reference(profile, versions())
    for case in CASES[profile]():
        entry: dict[str, Any] = {"kind": case.kind, "pictures": [], "refused": {}, "whole": case.whole}
        reference.cases[case.name] = entry
        entry["config"], run = RUNNERS[profile](case)
        for name in case.pictures:
            try:
                outputs = run(picture(name))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                # What the library itself does not take is a fact about it, worth keeping.
                entry["refused"][name] = f"{type(error).__name__}: {str(error).strip()[:120]}"
                print(f"{profile}, {case.name}, {name}: {entry['refused'][name]}", file=sys.stderr)
                continue
            add(reference, case, name, outputs)
            entry["pictures"].append(name)
    return reference


def add(reference: Reference, case: Case, name: str, outputs: Outputs) -> None:
    """Keep the outputs of one picture."""
    reference.pictures[name] = digest(np.asarray(picture(name)))
    for output, array in outputs.items():
        values = array.astype(np.float32) if output == "pixel_values" else array
        key = digest(values)
        reference.sums[f"{case.name}/{name}/{output}"] = key
        reference.arrays[key] = values if case.whole else values.ravel()[::STRIDE]


def table() -> str:
    """Bowerbird's worst difference to every reference, in float32 units in the last place and as a value."""
    from bowerbird.errors import ModelFormatError
    from bowerbird.models.vision.processors import read_steps

    found: dict[str, dict[str, list[float]]] = {}
    for profile in PROFILES:
        reference = Reference.read(profile)
        for name, case in reference.cases.items():
            for shown in case["pictures"]:
                key = reference.sums[f"{name}/{shown}/pixel_values"]
                with tempfile.TemporaryDirectory() as folder:
                    write_config(Path(folder), profile, case)
                    try:
                        steps = read_steps(Path(folder), profile)
                    except ModelFormatError as error:
                        raise SystemExit(f"{profile}, {name}: {error}") from error
                values = steps.feeds([steps.pixels(picture(shown))])["pixel_values"][0]
                kept = values if case["whole"] else values.ravel()[::STRIDE]
                error = float(np.abs(kept.astype(np.float64) - reference.arrays[key]).max())
                if not error and digest(values) != key:
                    error = math.inf  # the sample agrees, the whole does not
                found.setdefault(case["kind"], {}).setdefault(profile, []).append(error)
    lines = ["| family | " + " | ".join(PROFILES) + " |", "|---" * (len(PROFILES) + 1) + "|"]
    for kind, row in sorted(found.items(), key=lambda item: item[0].lower()):
        lines.append(f"| {kind} | " + " | ".join(cell(row.get(profile, [])) for profile in PROFILES) + " |")
    return "\n".join(lines)


def cell(errors: list[float]) -> str:
    """How many pictures were compared, and the worst difference."""
    if not errors:
        return "-"
    worst = max(errors)
    return f"equal ({len(errors)})" if worst == 0 else f"{worst:.1e} ({len(errors)})"


def write_config(folder: Path, profile: str, case: dict[str, Any]) -> None:
    """A case's config, in the file in which its library publishes it."""
    config = case["config"]
    if profile == "openclip":
        name, config = "open_clip_config.json", {"preprocess_cfg": config}
    elif profile == "timm":
        name, config = "config.json", {"architecture": "vit", "pretrained_cfg": config}
    else:
        name = "preprocessor_config.json"
    (folder / name).write_text(json.dumps(config), "utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    vision = verbs.add_parser("vision", help="make the reference arrays of a profile")
    vision.add_argument("--profile", choices=PROFILES, required=True)
    verbs.add_parser("table", help="compare Bowerbird with the reference arrays")
    arguments = parser.parse_args()
    if arguments.verb == "table":
        print(table())
        return
    path = make(arguments.profile).write()
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
