"""Where published layouts keep their graphs: a table, chosen by which files are there, never by a model's name."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from bowerbird.errors import ModelFormatError


@dataclass(frozen=True)
class Layout:
    """Where one model keeps its graphs; paths are POSIX, relative to the model directory.

    Attributes:
        name: of the layout, for people.
        text: the text tower's graph; empty when there is none.
        image: the image tower's graph; empty when there is none.
        text_root: folder of the text tower's tokenizer and configuration; empty for the directory itself.
        image_root: folder of the image tower's preprocessing; empty for the directory itself.
        variant: which variant of the graphs was asked for, such as `fp16` or `quantized`; empty for the plain one.
    """

    name: str
    text: str = ""
    image: str = ""
    text_root: str = ""
    image_root: str = ""
    variant: str = ""

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs, each once."""
        return tuple(dict.fromkeys(path for path in (self.text, self.image) if path))


EITHER = "?"
"""In `LAYOUTS`: one graph that is a text model when a tokenizer lies beside it, and a picture model otherwise."""

# First match wins. `{}` is where the name of a variant goes.
LAYOUTS = (
    Layout("transformers.js, two towers", "onnx/text_model{}.onnx", "onnx/vision_model{}.onnx"),
    Layout("immich", "textual/model{}.onnx", "visual/model{}.onnx", "textual", "visual"),
    Layout("fitted", "text/model{}.onnx", "image/model{}.onnx", "text", "image"),
    Layout("sentence-transformers", EITHER, "onnx/model{}.onnx"),
    Layout("one graph", EITHER, "model{}.onnx"),
    Layout("one optimised graph", EITHER, "model_optimized{}.onnx"),
)

TOKENIZERS = ("tokenizer.json", "modules.json", "vocab.txt", "spiece.model", "vocab.json")
"""Files that only a model that reads text has."""

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "open_clip_config.json")
"""Files that only a model that sees pictures has, besides timm's `config.json`."""

_SMALL = (".json", ".txt", ".md", ".model")
_ELSEWHERE = re.compile(r"(^|/)(openvino|coreml|flax|tf|rust|ov|\.[^/]*)(/|$)")
_MODULE = re.compile(r"^\d+_[A-Za-z]+$")  # 1_Pooling, 2_Dense: folders of sentence-transformers


def choose(files: Collection[str], variant: str = "", where: str = "The model") -> Layout:
    """The layout of a model, from the names of its files.

    Args:
        files: POSIX paths relative to the model directory.
        variant: which graphs are wanted, such as `fp16`, `quantized` or `O3`; empty takes the plain ones and never
            a quantised one.
        where: what errors call the model.

    Raises:
        ModelFormatError: no known layout fits, or there is no such variant.
    """
    have = set(files)
    found = _found(have, variant)
    if found is None:
        raise _none(have, variant, where)
    if found.text != EITHER:
        return found
    root = PurePosixPath(found.image).parent
    tokenizer = _beside(have, root, TOKENIZERS)
    processor = _beside(have, root, PROCESSORS)
    if tokenizer and processor:
        raise ModelFormatError(
            f"{where}: {found.image} takes texts and pictures at once, as {tokenizer} and {processor} show; "
            "such a graph cannot embed one without the other.",
            hint="Use an export with onnx/text_model.onnx and onnx/vision_model.onnx; `bowerbird export` writes one.",
        )
    if tokenizer:
        return replace(found, text=found.image, image="")
    return replace(found, text="")


def wanted(files: Collection[str], variant: str = "", where: str = "The model") -> list[str]:
    """The files of a repository worth downloading: graphs, their external data, and the small files beside them.

    Args and errors: as of `choose`.
    """
    layout = choose(files, variant, where)
    roots = {"", layout.text_root, layout.image_root}
    return sorted(path for path in files if _is_wanted(path, layout, roots))


def variants(files: Collection[str]) -> list[str]:
    """The variants that a model is published in, the plain one left out."""
    found: set[str] = set()
    for layout in LAYOUTS:
        stem = re.escape(layout.image).replace(re.escape("{}"), "_?(.+)")
        found.update(match[1] for path in files if (match := re.fullmatch(stem, path)))
    return sorted(found - {"optimized"})


def _found(have: set[str], variant: str) -> Layout | None:
    suffix = f"_{variant.removeprefix('_')}" if variant else ""
    for layout in LAYOUTS:
        text, image = layout.text.format(suffix), layout.image.format(suffix)
        if image in have or text in have:
            return replace(
                layout,
                text=text if text in have or text == EITHER else "",
                image=image if image in have else "",
                variant=variant,
            )
    return None


def _beside(have: set[str], root: PurePosixPath, names: Collection[str]) -> str:
    """The first of some files that lies in the model directory or beside the graph; empty for none."""
    return next((name for name in names if name in have or str(root / name) in have), "")


def _is_wanted(path: str, layout: Layout, roots: set[str]) -> bool:
    name = PurePosixPath(path)
    folder = "" if str(name.parent) == "." else str(name.parent)
    if any(path.startswith(graph) for graph in layout.graphs):
        return (
            True  # The graph itself, and external data: model.onnx_data, model.onnx.data, model.onnx_data_1.
        )
    if _ELSEWHERE.search(path):
        return False
    if path == "golden.npz":
        return True
    if folder in roots:
        return name.suffix in _SMALL
    inside_root = any(folder == f"{root}/{name.parent.name}".lstrip("/") for root in roots)
    if inside_root and _MODULE.match(name.parent.name):
        return name.suffix in (*_SMALL, ".safetensors")
    return False


def _none(have: set[str], variant: str, where: str) -> ModelFormatError:
    if variant and (_found(have, "") or variants(have)):
        known = ", ".join(variants(have))
        return ModelFormatError(
            f"{where} has no variant {variant!r}.", hint=f"It has: {known or 'the plain graphs only'}."
        )
    graphs = sorted(path for path in have if path.endswith(".onnx"))
    if graphs:
        known_names = ", ".join(dict.fromkeys(layout.image.format("") for layout in LAYOUTS))
        return ModelFormatError(
            f"{where} holds {', '.join(graphs[:3])}, which is where no layout we know keeps its graph.",
            hint=f"Known are {known_names}, onnx/text_model.onnx and textual/model.onnx.",
        )
    weights = sorted(path for path in have if path.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt")))
    if weights:
        return ModelFormatError(
            f"{where} holds weights ({weights[0]}) but no ONNX graph.",
            hint="Convert it once with: bowerbird export SOURCE DIRECTORY",
        )
    return ModelFormatError(
        f"{where} is not a model directory: it holds no onnx/text_model.onnx, onnx/vision_model.onnx, "
        "onnx/model.onnx or model.onnx.",
        hint="Fetch the model again.",
    )
