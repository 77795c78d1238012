"""The image processors of Hugging Face transformers, as data, and how each puts its steps together.

A class of image processor is a row of `FAMILIES`; what changed in transformers 5 is a row of `CHANGED_IN_5`. Both were
read off the classes themselves, and `tests/models/vision/test_families.py` holds them to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import read_object
from bowerbird.models.vision.keys import Config, sides
from bowerbird.models.vision.steps import (
    RESAMPLE_NAMES,
    CenterCrop,
    Floats,
    GeometryStep,
    Patches,
    PatchResize,
    Resize,
    Scale,
    ShareCrop,
    Steps,
    Triple,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

Size: TypeAlias = tuple[int, int] | int
"""(height, width), or the shorter side."""


@dataclass(frozen=True)
class Family:
    """What one class of image processor does with a config that does not say.

    Attributes:
        size: an integer is the shorter side, a pair is (height, width).
        resample: Pillow's code.
        crop: `do_center_crop`; None where the class, in transformers 4, has no such key.
        crop_size: (height, width), both alike.
        mean: by channel.
        std: by channel.
        square: what an integer `size` in a config means: a square, or the shorter side.
        route: how the steps are put together; a key of `_ROUTES`.
        sides: the spellings of `size` that the class takes in transformers 4.
        crop_pct: the share of the resized picture that is kept, where the class has that key.
    """

    size: Size
    resample: int
    crop: bool | None = None
    crop_size: int = 224
    mean: Triple = HALF
    std: Triple = HALF
    square: bool = True
    route: str = "plain"
    sides: tuple[str, ...] = ("square",)
    crop_pct: float = 0.0


_BOTH = ("shortest", "square")
_CLIP = Family(224, 3, True, 224, CLIP_MEAN, CLIP_STD, square=False, sides=_BOTH)
_MOBILENET = Family(256, 2, True, 224, square=False, sides=_BOTH)

FAMILIES: dict[str, Family] = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "ChineseCLIP": replace(_CLIP, sides=("square",)),
    "Siglip": Family((224, 224), 3, square=False),
    "Siglip2": Family(0, 2, route="naflex"),
    "ViT": Family((224, 224), 2),
    "Pvt": Family((224, 224), 2, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "Segformer": Family((512, 512), 2, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "DeiT": Family((256, 256), 3, True, 224),
    "Beit": Family((256, 256), 3, True, 224),
    "DINOv3ViT": Family((224, 224), 2, mean=IMAGENET_MEAN, std=IMAGENET_STD, route="floats"),
    "ConvNext": Family(384, 2, square=False, route="convnext", sides=("shortest",), crop_pct=224 / 256),
    "PoolFormer": Family(
        224,
        3,
        True,
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        square=False,
        route="poolformer",
        sides=_BOTH,
        crop_pct=0.9,
    ),
    "Levit": Family(224, 3, True, 224, IMAGENET_MEAN, IMAGENET_STD, square=False, route="levit", sides=_BOTH),
    "MobileNetV1": _MOBILENET,
    "MobileNetV2": _MOBILENET,
    "MobileViT": Family(224, 2, True, 256, square=False, route="mobilevit", sides=_BOTH),
    "EfficientNet": Family((346, 346), 0, False, 289, route="efficientnet"),
    "Blip": Family((384, 384), 3, mean=CLIP_MEAN, std=CLIP_STD),
    "Perceiver": Family((224, 224), 3, True, 256, IMAGENET_MEAN, IMAGENET_STD, route="perceiver"),
    "OwlViT": Family((768, 768), 3, False, 768, CLIP_MEAN, CLIP_STD),
}
"""By class name without `FeatureExtractor`, `ImageProcessor` and what follows; as transformers 4 has them."""

CHANGED_IN_5: dict[str, dict[str, Any]] = {
    "Beit": {"size": (224, 224), "crop": False},
    "ConvNext": {"resample": 3},
    "EfficientNet": {"resample": 3},
    "MobileViT": {"resample": 3},
    "Pvt": {"resample": 3},
}
"""What the same classes default to in transformers 5."""

MODEL_TYPES: dict[str, str] = {
    **dict.fromkeys(("aimv2", "altclip", "clip", "git", "groupvit", "metaclip_2", "mlcd", "xclip"), "CLIP"),
    **dict.fromkeys(("bit", "dinov2", "dinov2_with_registers", "focalnet", "hiera", "pixio"), "Bit"),
    **dict.fromkeys(("ijepa", "swin", "swinv2", "vit", "vit_mae", "vit_msn", "swiftformer", "dinat"), "ViT"),
    **dict.fromkeys(("convnext", "convnextv2", "cvt", "regnet", "resnet"), "ConvNext"),
    **dict.fromkeys(("align", "efficientnet"), "EfficientNet"),
    **dict.fromkeys(("beit", "data2vec-vision"), "Beit"),
    **dict.fromkeys(("blip", "blip-2"), "Blip"),
    **dict.fromkeys(("mobilevit", "mobilevitv2"), "MobileViT"),
    **dict.fromkeys(("pvt", "pvt_v2"), "Pvt"),
    "chinese_clip": "ChineseCLIP",
    "deit": "DeiT",
    "dinov3_vit": "DINOv3ViT",
    "levit": "Levit",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "owlvit": "OwlViT",
    "perceiver": "Perceiver",
    "poolformer": "PoolFormer",
    "segformer": "Segformer",
    "siglip": "Siglip",
    "siglip2": "Siglip2",
}
"""`model_type` of config.json -> family, for configs that do not name their class."""


_SUFFIX = re.compile(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$")

_NEUTRAL = (
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_processor_class",
    "return_tensors",
    "do_convert_rgb",  # pictures are RGB before the first step
    "do_reduce_labels",  # of segmentation maps
    "reduce_labels",
    "disable_grouping",
    "device",
)


def hugging_face(config: Config, profile: str) -> Steps:
    """Read a `preprocessor_config.json` under `hf4-pil` or `hf5-tv`.

    Raises:
        ModelFormatError: its class or the value of a key is not understood.
    """
    five = profile == "hf5-tv"
    name = _family_name(config)
    family = replace(FAMILIES[name], **(CHANGED_IN_5.get(name, {}) if five else {}))
    config.neutral(*_NEUTRAL)
    config.unset("input_data_format")
    config.choice("data_format", "channels_first", ("channels_first",))
    steps = Builder(config, family, five=five).build()
    _check_padding(config, steps)
    return steps


def _family_name(config: Config) -> str:
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    if kind is None:
        model = read_object(config.path.parent / "config.json", missing_ok=True).get("model_type")
        if model in MODEL_TYPES:
            return MODEL_TYPES[model]
    elif isinstance(kind, str) and (name := _SUFFIX.sub("", kind)) in FAMILIES and name != kind:
        return name
    raise ModelFormatError(
        f"{config.path}: image_processor_type {kind!r} is not known.",
        hint=f"Known: {', '.join(f'{name}ImageProcessor' for name in sorted(FAMILIES))}.",
    )


def _check_padding(config: Config, steps: Steps) -> None:
    """Padding to the largest of a batch, or to a divisor, changes nothing where every picture has one size."""
    pad, size = config.switch("do_pad", default=False), config.get("pad_size")
    if pad and (steps.size is None or (size and sides(config, "pad_size", size, square=True) != steps.size)):
        raise config.refuse("do_pad", "false, or true where all pictures come out in one size")
    divisor = config.count("size_divisor", 1)
    if steps.size and any(side % divisor for side in steps.size):
        raise config.refuse("size_divisor", f"a divisor of {steps.size[0]} and {steps.size[1]}")


class Builder:
    """Puts the steps of one Hugging Face config together.

    Attributes:
        config: its keys.
        family: the defaults of its class.
        five: whether transformers 5 with torchvision is meant, or 4 with Pillow.
    """

    def __init__(self, config: Config, family: Family, *, five: bool) -> None:
        self.config = config
        self.family = family
        self.five = five
        self.kernel = "torch" if five else "pillow"
        self.padding = "after" if five else "before"

    def build(self) -> Steps:
        """The steps, by the route of the family."""
        return _ROUTES[self.family.route](self)

    # Pieces, each reading its own keys.

    def resample(self) -> int:
        """Pillow's code."""
        value = self.config.get("resample", self.family.resample)
        if self.five and "resample" in self.config.values and self.config.values["resample"] is None:
            value = 2  # null hides the default of the class, and the resize itself falls back to bilinear
        codes = (0, 1, 2, 3) if self.kernel == "torch" else tuple(range(len(RESAMPLE_NAMES)))
        if isinstance(value, bool) or value not in codes:
            known = ", ".join(f"{code} {RESAMPLE_NAMES[code]}" for code in codes)
            raise self.config.refuse("resample", known)
        return int(value)

    def size(self) -> Any:
        """As of `sides`, restricted to what the class takes in transformers 4."""
        said = self.config.get("default_to_square")
        square = self.family.square if said is None or not self.five else bool(said)  # 4 does not look at it
        value = self.config.get("size")
        size = self.family.size if value is None else sides(self.config, "size", value, square=square)
        if self.five:
            return size
        if isinstance(size, dict) and "shortest_edge" in size and "shortest" in self.family.sides:
            size = size["shortest_edge"]  # transformers 4 does not look at longest_edge here
        spelled = {"shortest": '{"shortest_edge": n}', "square": '{"height": h, "width": w}'}
        form = {int: "shortest", tuple: "square"}.get(type(size))
        if form not in self.family.sides:
            raise self.config.refuse("size", " or ".join(spelled[side] for side in self.family.sides))
        return size

    def resize(self, size: Any, resample: int) -> Resize:
        """The resize to a size as of `sides`."""
        if isinstance(size, int):
            return Resize(size, size, "shortest", resample, kernel=self.kernel)
        if isinstance(size, tuple):
            return Resize(size[0], size[1], "square", resample, kernel=self.kernel)
        if "max_height" in size:
            return Resize(size["max_height"], size["max_width"], "inside", resample, kernel=self.kernel)
        short = size["shortest_edge"]
        return Resize(short, short, "shortest", resample, longest=size["longest_edge"], kernel=self.kernel)

    def crop(self) -> list[CenterCrop]:
        """The centre crop, if it is on."""
        size = self.crop_size()
        on = self.config.switch("do_center_crop", self.family.crop)
        if on and self.family.crop is None and not self.five:
            raise ModelFormatError(
                f"{self.config.path}: do_center_crop is on, which this class of transformers 4 does not look at.",
                hint="Ask for the profile hf5-tv, which crops, or remove the key.",
            )
        return [CenterCrop(*size, padding=self.padding)] if on else []

    def crop_size(self) -> tuple[int, int]:
        """(height, width)."""
        value = self.config.get("crop_size", self.family.crop_size)
        size = sides(self.config, "crop_size", value, square=True)
        if not isinstance(size, tuple):
            raise self.config.refuse("crop_size", '{"height": h, "width": w}')
        return size

    def plain_resize(self) -> list[GeometryStep]:
        """The resize, if it is on."""
        size, resample = self.size(), self.resample()
        return [self.resize(size, resample)] if self.config.switch("do_resize", default=True) else []

    def scale(self, *, again: bool = False, order: str = "rgb", offset: float = 0.0) -> Scale:
        """Rescale and normalise."""
        rescale = self.config.switch("do_rescale", default=True)
        normalise = self.config.switch("do_normalize", default=self.family.route != "mobilevit")
        factor = self.config.number("rescale_factor", 1 / 255)
        mean = self.config.triple("image_mean", self.family.mean)
        std = self.config.divisor("image_std", self.family.std)
        if self.family.route == "mobilevit":
            normalise = False  # the class has no such step, whatever the config says
        if rescale and factor == 0:
            raise self.config.refuse("rescale_factor", "a number other than zero")
        offset = offset if rescale else 0.0
        fused = rescale and normalise and not offset
        arithmetic = ("fused" if fused else "float32") if self.five else "float64"
        return Scale(
            factor if rescale else 1.0,
            mean if normalise else (0.0,) * 3,
            std if normalise else (1.0,) * 3,
            arithmetic if rescale else "float64",
            offset=offset,
            again=std if again else (),
            order=order,
        )

    # Routes.

    def plain(self) -> Steps:
        """Resize, crop, scale."""
        return Steps((*self.plain_resize(), *self.crop()), self.scale())

    def levit(self) -> Steps:
        """The short side is resized to 256/224 of what `size` says."""
        size, resample = self.size(), self.resample()
        size = int((256 / 224) * size) if isinstance(size, int) else size
        on = self.config.switch("do_resize", default=True)
        resized = [self.resize(size, resample)] if on else []
        return Steps((*resized, *self.crop()), self.scale())

    def convnext(self) -> Steps:
        """Below 384: the short side to size / crop_pct, and a crop; from 384 on: a square."""
        size, resample = self.size(), self.resample()
        if isinstance(size, dict):
            size = size.get("shortest_edge")
        if not isinstance(size, int):
            raise self.config.refuse("size", '{"shortest_edge": n}')
        share = self.config.number("crop_pct", self.family.crop_pct)
        geometry: list[GeometryStep] = [self.resize((size, size), resample)]
        if size < 384:
            geometry = [
                self.resize(int(size / share), resample),
                CenterCrop(size, size, padding=self.padding),
            ]
        on = self.config.switch("do_resize", default=True)
        return Steps((*(geometry if on else []), *self.crop()), self.scale())

    def poolformer(self) -> Steps:
        """The short side to size / crop_pct, also where a square is asked for."""
        size, resample = self.size(), self.resample()
        share = self.config.number("crop_pct", self.family.crop_pct)
        if self.config.values.get("crop_pct", share) is None:
            pass  # null switches it off
        elif isinstance(size, tuple):
            height, width = (int(side / share) for side in size)
            size = height if size[0] == size[1] else (height, width)
        elif isinstance(size, int):
            size = int(size / share)
        on = self.config.switch("do_resize", default=True)
        resized = [self.resize(size, resample)] if on else []
        return Steps((*resized, *self.crop()), self.scale())

    def perceiver(self) -> Steps:
        """The crop comes first, in proportion to the short side; then the square."""
        size = self.size()
        if not isinstance(size, tuple):
            raise self.config.refuse("size", '{"height": h, "width": w}')
        crop = self.crop_size()
        on = self.config.switch("do_center_crop", self.family.crop)
        share = ShareCrop(size[0] / crop[0], size[1] / crop[1], padding=self.padding)
        return Steps((*([share] if on else []), *self.plain_resize()), self.scale())

    def mobilevit(self) -> Steps:
        """No mean and std; blue comes first."""
        flip = self.config.switch("do_flip_channel_order", default=True)
        return Steps((*self.plain_resize(), *self.crop()), self.scale(order="bgr" if flip else "rgb"))

    def efficientnet(self) -> Steps:
        """Levels may be shifted by one before mean and std, and std divides twice under `include_top`."""
        offset = 1.0 if self.config.switch("rescale_offset", default=False) else 0.0
        again = self.config.switch("include_top", default=True)
        return Steps((*self.plain_resize(), *self.crop()), self.scale(again=again, offset=offset))

    def floats(self) -> Steps:
        """Levels become floats before the resize. There is one implementation, on tensors, for both profiles."""
        self.kernel, self.padding, self.five = "torch", "after", True
        scale = self.scale()
        first = Floats(scale.factor)
        return Steps(
            (first, *self.plain_resize(), *self.crop()), replace(scale, factor=1.0, arithmetic="float32")
        )

    def naflex(self) -> Steps:
        """As many patches as fit."""
        self.config.unset("size", "crop_size", "do_center_crop")
        self.config.neutral("default_to_square")
        patch, count = self.config.count("patch_size", 16), self.config.count("max_num_patches", 256)
        if not self.config.switch("do_resize", default=True):
            raise self.config.refuse("do_resize", "true")
        return Steps(
            (PatchResize(patch, count, self.resample(), self.kernel),), self.scale(), Patches(patch, count)
        )


_ROUTES: dict[str, Callable[[Builder], Steps]] = {
    "plain": Builder.plain,
    "levit": Builder.levit,
    "convnext": Builder.convnext,
    "poolformer": Builder.poolformer,
    "perceiver": Builder.perceiver,
    "mobilevit": Builder.mobilevit,
    "efficientnet": Builder.efficientnet,
    "floats": Builder.floats,
    "naflex": Builder.naflex,
}
