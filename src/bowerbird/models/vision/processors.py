"""The published configs of picture preprocessing, read into `Steps`.

Four profiles say whose arithmetic is meant, because the same config means different pixels in different libraries:

=========  ===========================================================================================
hf4-pil    transformers 4, the image processors that work with Pillow; what most models were published with
hf5-tv     transformers 5 with torchvision, on uint8 tensors
openclip   open_clip: torchvision transforms on Pillow pictures
timm       timm: the same, with its own crops
=========  ===========================================================================================

An unknown key is never ignored: it may change every vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import as_object, member, read_object
from bowerbird.models.vision.families import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, hugging_face
from bowerbird.models.vision.keys import Config, sides
from bowerbird.models.vision.steps import RESAMPLE_NAMES, CenterCrop, GeometryStep, Resize, Scale, Steps

PROFILES = ("hf4-pil", "hf5-tv", "openclip", "timm")


def read_steps(directory: Path, profile: str = "") -> Steps:
    """Read how a model directory wants its pictures.

    Args:
        directory: of the model, or of its picture tower. The first of these that is there decides:
            `preprocessor_config.json`; `processor_config.json` with an `image_processor`; `open_clip_config.json`
            with a `preprocess_cfg`; `visual/preprocess_cfg.json` or `preprocess_cfg.json`; `config.json` with a
            `pretrained_cfg` of timm. Under `hf5-tv` the first two change places, as in transformers 5.
        profile: one of `PROFILES`, whose arithmetic is meant; empty: `hf4-pil` for the files of Hugging Face, else that
            of the library whose file it is. Files of other libraries are passed over.

    Raises:
        ModelFormatError: there is no such file, it cannot be read, or it says something that is not understood.
    """
    if profile and profile not in PROFILES:
        raise ModelFormatError(
            f"There is no preprocessing profile {profile!r}.", hint=f"Known: {', '.join(PROFILES)}."
        )
    for config, profiles, read in _candidates(directory, profile):
        if profile and profile not in profiles:
            continue
        try:
            steps = read(config, profile or profiles[0])
        except (ValueError, KeyError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise ModelFormatError(
                f"{config.path} cannot be read as an image processor: {error!r}."
            ) from error
        if unknown := sorted(config.unread):
            raise ModelFormatError(
                f"{config.path}: unknown key {unknown[0]!r}; ignoring it could change every vector.",
                hint=f"Known here: {', '.join(sorted(config.read))}.",
            )
        if steps.size is None and steps.patches is None:
            raise ModelFormatError(
                f"{config.path} leaves pictures of different sizes, which no batch can hold.",
                hint="It needs a centre crop, or a size with height and width.",
            )
        return steps
    raise ModelFormatError(
        f"{directory} says nowhere how its pictures are prepared"
        + (f" under the profile {profile}." if profile else "."),
        hint="Looked for preprocessor_config.json, processor_config.json, open_clip_config.json, "
        "visual/preprocess_cfg.json, and a config.json with pretrained_cfg.",
    )


Reader: TypeAlias = Callable[[Config, str], Steps]


def _candidates(directory: Path, profile: str) -> Iterator[tuple[Config, tuple[str, ...], Reader]]:
    """(config, the profiles it can be read under, its reader), most telling first."""
    own = _hugging_face(directory)
    # Where both of its files are there, transformers 4 takes the first and transformers 5 the second.
    yield from reversed(own) if profile == "hf5-tv" else own
    path = directory / "open_clip_config.json"
    if path.exists() and "preprocess_cfg" in (values := read_object(path)):
        block = as_object(values["preprocess_cfg"], path, "preprocess_cfg")
        size = _open_clip_size(values)
        yield Config({**block, **({"size": size} if size else {})}, path), ("openclip",), _open_clip
    for path in (directory / "visual" / "preprocess_cfg.json", directory / "preprocess_cfg.json"):
        if path.exists():
            yield Config(read_object(path), path), ("openclip",), _open_clip
    path = directory / "config.json"
    values = read_object(path, missing_ok=True)
    if "pretrained_cfg" in values or ("architecture" in values and "input_size" in values):
        yield Config(_timm_block(values), path), ("timm",), _timm


def _hugging_face(directory: Path) -> list[tuple[Config, tuple[str, ...], Reader]]:
    """The files of transformers: the older one for pictures alone, then the newer one for all of a model's inputs."""
    found: list[tuple[Config, tuple[str, ...], Reader]] = []
    transformers = ("hf4-pil", "hf5-tv")
    path = directory / "preprocessor_config.json"
    if path.exists():
        values = read_object(path)
        if str(values.get("image_processor_type")).startswith("TimmWrapper"):
            found.append((Config(_timm_block(values), path), ("timm", *transformers), _timm))
        else:
            found.append((Config(values, path), transformers, hugging_face))
    path = directory / "processor_config.json"
    if nested := member(read_object(path, missing_ok=True), "image_processor", path):
        found.append((Config(nested, path), transformers, hugging_face))
    return found


def _open_clip_size(values: Mapping[str, Any]) -> Any:
    """The size that the network was built for; open_clip prefers it to the one in `preprocess_cfg`."""
    model = values.get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    return vision.get("image_size") if isinstance(vision, dict) else None


def _open_clip(config: Config, _: str) -> Steps:
    value = config.get("size", 224)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    height, width = sides(config, "size", value, square=True)
    resample = {"bicubic": 3, "bilinear": 2, "random": 3}
    code = resample[config.choice("interpolation", "bicubic", resample)]
    mode = config.choice("resize_mode", "shortest", ("shortest", "longest", "squash"))
    config.choice("mode", "RGB", ("RGB",))
    fill = int(config.number("fill_color", 0))
    crop = CenterCrop(height, width, "even", "after")
    geometry: tuple[GeometryStep, ...]
    if mode == "squash":
        geometry = (Resize(height, width, "square", code),)
    elif mode == "longest":
        geometry = (Resize(height, width, "inside", code, "round"), replace(crop, fill=(fill,) * 3))
    elif height == width:
        geometry = (Resize(height, height, "shortest", code), crop)
    else:  # open_clip leaves the interpolation out here, and so its default is taken
        geometry = (Resize(height, width, "over", 3, "round"), crop)
    mean, std = config.triple("mean", CLIP_MEAN), config.divisor("std", CLIP_STD)
    return Steps(geometry, Scale(1 / 255, mean, std, "divide"))


# --- timm -----------------------------------------------------------------------------------------------------------

_TIMM_NEUTRAL = [
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "architecture",
    "tag",
    "custom_load",
    "min_input_size",
    "fixed_input_size",
    "test_input_size",
    "test_crop_pct",
    "num_classes",
    "label_offset",
    "label_names",
    "label_descriptions",
    "labels",
    "pool_size",
    "test_pool_size",
    "first_conv",
    "classifier",
    "license",
    "description",
    "origin_url",
    "paper_name",
    "paper_ids",
    "notes",
    "num_features",
    "global_pool",
    "model_args",
]


def _timm_block(values: Mapping[str, Any]) -> dict[str, Any]:
    """The `pretrained_cfg`, `data_config` where transformers wrote it; in old files its keys lie in the file itself."""
    block = values.get("pretrained_cfg") or values.get("data_config")
    return dict(block) if isinstance(block, dict) else dict(values)


def _timm(config: Config, _: str) -> Steps:
    config.neutral(*_TIMM_NEUTRAL, "image_processor_type", "pretrained_cfg")
    shape = config.get("input_size", [3, 224, 224])
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3:
        raise config.refuse("input_size", "[3, height, width]")
    height, width = sides(config, "input_size", shape[1:], square=True)
    names = {name: code for code, name in enumerate(RESAMPLE_NAMES)}
    code = names[config.choice("interpolation", "bicubic", names)]
    share = config.number("crop_pct", 0.875) or 0.875
    if not 0 < share <= min(height, width):
        raise config.refuse("crop_pct", "the share of the resized picture that is kept, as 0.875")
    mode = config.choice("crop_mode", "center", ("center", "squash", "border"))
    mean, std = config.triple("mean", IMAGENET_MEAN), config.divisor("std", IMAGENET_STD)
    larger = (math.floor(height / share), math.floor(width / share))
    crop = CenterCrop(height, width, "even", "after")
    if mode == "squash":
        resize = Resize(*larger, "square", code)
    elif mode == "border":
        resize = Resize(*larger, "inside", code, "round")
        crop = replace(crop, fill=tuple(round(255 * value) for value in mean))
    elif larger[0] == larger[1]:
        resize = Resize(larger[0], larger[0], "shortest", code)
    else:
        resize = Resize(*larger, "over", code, "round")
    return Steps((resize, crop), Scale(1 / 255, mean, std, "divide"))
