"""The same configs, pictures and texts through Bowerbird and fastembed, each against what the original libraries made.

The references are those of the tests: `tests/golden`, written by transformers 4 on Pillow and by
sentence-transformers. This module runs twice, here and in fastembed's own environment, so that both are measured by
the same lines. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tools.make_golden import GOLDEN, OLD, STRIDE, Reference, digest, picture

from benchmarks.peers import OFFLINE, python_of
from benchmarks.side_by_side import report, versions

ROOT = Path(__file__).parents[1]
PROFILE = "hf4-pil"
WIDTH = 512
"""Tokens that a remembering graph takes at most."""

Array = NDArray[Any]


@cache
def stored(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """What an original text library was given, and what it made of it: `meta` and the arrays of a file."""
    with np.load(GOLDEN / "text" / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("meta"))), arrays


class NotSupportedError(Exception):
    """The stack says nowhere that it does this."""


class Stack(Protocol):
    """One of the two, used as its documentation says."""

    def versions(self) -> str:
        """What it is made of."""

    def preprocessing(self, folder: Path) -> Callable[[Image.Image | Path], Array]:
        """Of a directory with `preprocessor_config.json`: a picture, or the path of one, to pixel values."""

    def ids(self, folder: Path, case: TextCase, texts: Sequence[str]) -> list[list[int]]:
        """Token ids; with the padding only where it is part of what the model was trained on."""

    def vectors(self, folder: Path, case: TextCase, texts: Sequence[str]) -> Array:
        """Sentence vectors, scaled to length 1 only where the model does it."""


@dataclass(frozen=True)
class TextCase:
    """One way in which a text model is to be run.

    Attributes:
        name: as the table shows it.
        source: directory of `tests/golden/text`, without a graph.
        part: prefix of the reference's ids.
        wanted: name of the reference's vectors; empty compares ids alone.
        edits: JSON file -> keys to be set; None removes one.
        role: of the prompt.
        by_hand: the caller writes the prompt before the text.
        padded: padding is part of the model's conditions.
        unit: the model scales its vectors to length 1.
        pooling: what fastembed is told, since it reads none.
        named: a model of fastembed's own list that has the rules of this one.
        missing: why fastembed is not asked.
        file: of the reference, where it is not named after the directory.
    """

    name: str
    source: str
    part: str = ""
    wanted: str = ""
    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    role: str = ""
    by_hand: bool = False
    padded: bool = False
    unit: bool = False
    pooling: str = ""
    named: str = ""
    missing: str = ""
    file: str = ""

    @property
    def reference(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """See `stored`."""
        return stored(self.file or self.source)

    def texts(self) -> list[str]:
        """What a user would pass."""
        meta, _ = self.reference
        prompt = meta["prompt"] if self.by_hand else ""
        return [prompt + text for text in meta["texts"]]


# As transformers saved them, these fixtures have a `max_length` that it does not read itself; see the case on it.
UNLIMITED = {"tokenizer_config.json": {"max_length": None}}
POOLINGS = {
    "cls": "CLS",
    "mean": "MEAN",
    "lasttoken": "LAST_TOKEN",
    "max": "MAX",
    "mean_sqrt_len_tokens": "MEAN_SQRT_LEN_TOKENS",
    "weightedmean": "WEIGHTED_MEAN",
    "two": "MAX, CLS",
    "all": "all six",
}
"""Of the references -> what fastembed calls it, or would."""


def text_cases() -> Iterator[TextCase]:
    """Lengths and tokens first, then poolings, prompts and modules."""
    bert = "sentence_bert_config.json"
    yield TextCase(
        "max_seq_length 128, model_max_length 256",
        "bert",
        "128.",
        edits={**UNLIMITED, bert: {"max_seq_length": 128}},
        file="lengths",
    )
    yield TextCase(
        "max_seq_length 256, model_max_length 512 (as published with all-MiniLM-L6-v2)",
        "bert",
        "256.",
        edits={
            "tokenizer_config.json": {"max_length": None, "model_max_length": 512},
            bert: {"max_seq_length": 256},
        },
        file="lengths",
    )
    yield TextCase("max_length 11 and model_max_length 256 in tokenizer_config.json", "bert", "plain.")
    yield TextCase("model_max_length 48 and nothing else, padded on the left", "left", "plain.")
    yield TextCase("do_lower_case, max_seq_length 16", "lower_case", edits=UNLIMITED)
    yield TextCase("CLIP, 77 tokens", "clip")
    yield TextCase("CLIP, 77 tokens, padded with '!'", "clip_laion")
    for name, source, named in (
        ("SigLIP, padded to 64", "siglip", "google/siglip-base-patch16-224"),
        ("SigLIP 2, padded to 64, lower case", "siglip2", "google/siglip2-base-patch16-224"),
    ):
        yield TextCase(name, source, padded=True, named=named)
    for source in ("bert", "left"):
        for mode, own in POOLINGS.items():
            yield pooling(source, mode, "plain", pooling=own)
    prompt = stored("bert")[0]["prompt"]
    prompts = {"config_sentence_transformers.json": {"prompts": {"query": prompt}}}
    yield pooling("bert", "mean", "prompt", prompts, pooling="MEAN", role="query")
    yield pooling("bert", "mean", "prompt", pooling="MEAN", by_hand=True)
    for mode in ("mean", "lasttoken"):
        left_out = f"{mode}, prompt left out"
        yield pooling("bert", left_out, "prompt", prompts, role="query", missing="pools the prompt too")
    for role in ("query", "document"):
        yield TextCase(
            f"cls and mean side by side, 4 Dense, LayerNorm, Normalize; prompt of {role!r}",
            "chain",
            f"{role}.",
            f"{role}.vectors",
            UNLIMITED,
            role,
            unit=True,
            missing="no modules behind the pooling",
        )


def pooling(
    source: str, label: str, part: str, edits: Mapping[str, Mapping[str, Any]] | None = None, **given: Any
) -> TextCase:
    """A case with one of the pooling configs of a reference."""
    shown = {"two": "max and cls", "all": "all six together"}.get(label, label)
    side = {"bert": "right", "left": "left"}[source]
    how = {"role": ", prompt by role or query_embed", "by_hand": ", prompt written by hand"}
    name = f"pooling {shown}, padded on the {side}" + "".join(
        text for key, text in how.items() if key in given
    )
    changes = {**UNLIMITED, "1_Pooling/config.json": stored(source)[0]["poolings"][label], **(edits or {})}
    return TextCase(name, source, f"{part}.", f"{label}.{part}", changes, **given)


def build(case: TextCase, folder: Path) -> None:
    """The model directory of a case, with a graph where vectors are compared."""
    shutil.copytree(GOLDEN / "text" / case.source, folder)
    for name, changes in case.edits.items():
        path = folder / name
        content = {**json.loads(path.read_text("utf-8")), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        path.write_text(json.dumps(kept), "utf-8")
    if case.wanted:
        _, arrays = case.reference
        settings = json.loads((folder / "tokenizer.json").read_text("utf-8"))["padding"]
        remember(
            folder / "onnx" / "model.onnx", arrays, settings["pad_id"], left=settings["direction"] == "Left"
        )


def remember(path: Path, arrays: Mapping[str, Array], pad: int, *, left: bool) -> None:
    """A graph that gives the token vectors which the original network gave for these ids, and NaN for any others.

    Rows are compared at a width of `WIDTH`, so that they are found in a batch of any padding.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    names = [name.removesuffix("input_ids") for name in arrays if name.endswith("input_ids")]
    known, hidden = [], []
    for name in names:
        gap = WIDTH - arrays[f"{name}input_ids"].shape[1]
        sides = (gap, 0) if left else (0, gap)
        known.append(np.pad(arrays[f"{name}input_ids"], ((0, 0), sides), constant_values=pad))
        hidden.append(np.pad(arrays[f"{name}hidden"], ((0, 0), sides, (0, 0))))
    vectors = np.concatenate(hidden)
    weights = {
        "known": np.concatenate(known)[np.newaxis].astype(np.int64),
        "vectors": vectors.reshape(len(vectors), -1).astype(np.float32),
        "shape": np.asarray([-1, *vectors.shape[1:]], np.int64),
        "width": np.asarray([WIDTH], np.int64),
        "zero": np.asarray([0], np.int64),
        "one": np.asarray([1], np.int64),
        "pad": np.asarray(pad, np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Shape", ["input_ids"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["length"]),
        node("Sub", ["width", "length"], ["gap"]),
        node(
            "Concat",
            ["zero", *(["gap", "zero", "zero"] if left else ["zero", "zero", "gap"])],
            ["pads"],
            axis=0,
        ),
        node("Pad", ["input_ids", "pads", "pad"], ["wide"]),
        node("Unsqueeze", ["wide", "one"], ["rows"]),
        node("Equal", ["rows", "known"], ["same"]),
        node("Cast", ["same"], ["same_as_float"], to=TensorProto.FLOAT),
        node("ReduceMin", ["same_as_float"], ["found"], axes=[2], keepdims=0),
        node("ReduceSum", ["found", "one"], ["count"], keepdims=1),  # two texts may have the same ids
        node("MatMul", ["found", "vectors"], ["sum"]),
        node("Div", ["sum", "count"], ["flat"]),
        node("Reshape", ["flat", "shape"], ["all"]),
        node(
            "Slice",
            ["all", *(["gap", "width"] if left else ["zero", "length"]), "one"],
            ["last_hidden_state"],
        ),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info(
        "last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", vectors.shape[2]]
    )
    initial = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "remembering", inputs, [output], initial)
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_files(folder: Path) -> None:
    """One picture as files; `upright.png` is what each of them looks like on white."""
    image = picture("even")
    image.save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "EXIF orientation 6.png", exif=exif)
    half = image.copy()
    half.putalpha(Image.linear_gradient("L").resize(image.size))
    half.save(folder / "transparent.png")
    white = Image.new("RGBA", image.size, "white")
    Image.alpha_composite(white, half).convert("RGB").save(folder / "on white.png")


FILES = {"EXIF orientation 6.png": "upright.png", "transparent.png": "on white.png"}
"""A file -> the plain file that has to give the same pixel values."""


class Bowerbird:
    """Ours."""

    def versions(self) -> str:
        """What it is made of."""
        return versions("bowerbird", "pillow", "tokenizers", "onnxruntime")

    def preprocessing(self, folder: Path) -> Callable[[Image.Image | Path], Array]:
        """By `read_steps`, and the decoder for files."""
        from bowerbird.media.image import DecodePolicy, decode, from_pillow
        from bowerbird.models.vision.processors import read_steps

        steps, policy = read_steps(folder, PROFILE), DecodePolicy()

        def run(source: Image.Image | Path) -> Array:
            if isinstance(source, Path):
                found = decode(source.read_bytes(), policy, name=source.name, target=steps.target)
            else:
                found = from_pillow(source, policy, name="picture")
            pixels = steps.pixels(found.image, (found.width, found.height), found.box)
            return steps.feeds([pixels])["pixel_values"][0]

        return run

    def ids(self, folder: Path, case: TextCase, texts: Sequence[str]) -> list[list[int]]:
        """By the rules of the directory."""
        from bowerbird.models.network.graph import TensorSpec
        from bowerbird.models.text.rules import read_text_rules
        from bowerbird.models.text.tokens import feeds, load_tokenizer, tokenize

        rules = read_text_rules(folder)
        prompt = rules.prompt(case.role) if case.role else ""
        tokens = tokenize(load_tokenizer(folder / "tokenizer.json", rules), rules, texts, prompt)
        if case.padded:
            given = feeds(tokens, rules, {"input_ids": TensorSpec("int64", (None, None))})
            return given["input_ids"].tolist()
        return [token.ids for token in tokens]

    def vectors(self, folder: Path, case: TextCase, texts: Sequence[str]) -> Array:
        """By `load` and `embed`."""
        import bowerbird as bb

        model = bb.load(str(folder), precision="exact", engine="onnxruntime")
        return model.embed(texts, role=case.role, normalize=case.unit)


class Fastembed:
    """The peer: its `load_preprocessor`, and its custom-model route with a local directory."""

    def versions(self) -> str:
        """What it is made of."""
        return versions("fastembed", "pillow", "tokenizers", "onnxruntime")

    def preprocessing(self, folder: Path) -> Callable[[Image.Image | Path], Array]:
        """As `OnnxImageModel.onnx_embed` does it."""
        from fastembed.common.preprocessor_utils import load_preprocessor

        transform = load_preprocessor(folder)

        def run(source: Image.Image | Path) -> Array:
            if isinstance(source, Image.Image):
                return np.asarray(transform([source])[0])
            with Image.open(source) as image:
                return np.asarray(transform([image])[0])

        return run

    def ids(self, folder: Path, case: TextCase, texts: Sequence[str]) -> list[list[int]]:
        """As its tokeniser gives them; `token_count` loads it without a graph."""
        model = self._model(folder, case)
        model.token_count(list(texts))
        found = model.model.tokenize(list(texts))
        if case.padded:
            return [encoding.ids for encoding in found]
        return [
            [number for number, seen in zip(encoding.ids, encoding.attention_mask, strict=True) if seen]
            for encoding in found
        ]

    def vectors(self, folder: Path, case: TextCase, texts: Sequence[str]) -> Array:
        """By `embed`, or by `query_embed` and `passage_embed` where there is a role."""
        model = self._model(folder, case)
        embed = {"": model.embed, "query": model.query_embed, "document": model.passage_embed}[case.role]
        return np.stack(list(embed(list(texts))))

    def _model(self, folder: Path, case: TextCase) -> Any:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        if case.missing:
            raise NotSupportedError(case.missing)
        if case.pooling and case.pooling not in PoolingType.__members__:
            raise NotSupportedError("no such pooling")
        name = case.named or f"local/{folder.name}"
        if not case.named and name not in {model["model"] for model in TextEmbedding.list_supported_models()}:
            TextEmbedding.add_custom_model(
                model=name,
                pooling=PoolingType[case.pooling or "MEAN"],
                normalization=case.unit,
                sources=ModelSource(hf=name),
                dim=12,
            )
        return TextEmbedding(name, specific_model_path=str(folder), local_files_only=True, lazy_load=True)


NOTES = """\
**Pixel values** against {pixels}: largest error, share of values that differ, pictures in brackets. Pictures of
real sizes are compared by the hash of the whole, and by every {stride}th value where that differs. "Older files" have
integer sizes, or leave keys to the defaults of their class: fastembed takes an absent `do_resize` for false, and the
picture keeps its size. Errors below 1e-6 are rounding, where a crop is padded. fastembed also reads
JinaCLIPImageProcessor and Idefics3ImageProcessor, which are not among the references and which Bowerbird refuses.

{pictures}

**Files** against the same picture stored plainly, upright and on white. transformers turns files by EXIF; it puts
transparency on white from 5.21 on, and dropped alpha before.

{files}

**Texts** against {texts}: token ids, then vectors: largest error, least cosine.
The networks are graphs that give back the token vectors of the original for its ids. fastembed is told the pooling
that the files state; its own copies of models may have other files. SigLIP's two texts are those where transformers
leaves the training code: white space at the start, and a special token that is spelt out.

{models}

{stacks}"""

STACKS: dict[str, Callable[[], Stack]] = {"bowerbird": Bowerbird, "fastembed": Fastembed}


@dataclass(frozen=True)
class Finding:
    """One case, or one picture of one, against its reference.

    Attributes:
        group: the row of the table.
        error: largest difference of a value; NaN where there is none to tell.
        share: of the values that differ.
        cosine: least cosine of the vectors.
        other: texts whose ids are others, out of `count`.
        count: texts.
        refused: what the stack said instead.
    """

    group: str
    error: float = float("nan")
    share: float = 0.0
    cosine: float = float("nan")
    other: int = 0
    count: int = 0
    refused: str = ""


def measure(stack: Stack, folder: Path) -> dict[str, Any]:
    """Everything, in one process."""
    return {
        "versions": stack.versions(),
        "pictures": [asdict(found) for found in measure_pictures(stack)],
        "files": [asdict(found) for found in measure_files(stack, folder)],
        "texts": [
            asdict(measure_text(stack, folder / str(number), case))
            for number, case in enumerate(text_cases())
        ],
    }


def measure_pictures(stack: Stack) -> Iterator[Finding]:
    """Every config and picture of the reference, and ConvNext once more under the one name that fastembed reads."""
    reference = Reference.read(PROFILE)
    for name, case in reference.cases.items():
        config, kind = case["config"], case["kind"]
        variants = {f"{kind}, older files" if name in OLD else kind: config}
        if kind == "ConvNext" and name not in OLD:
            variants["ConvNext, as ConvNextFeatureExtractor"] = {
                **config,
                "image_processor_type": "ConvNextFeatureExtractor",
            }
        for group, content in variants.items():
            for shown in case["pictures"]:
                key = reference.sums[f"{name}/{shown}/pixel_values"]
                yield measure_picture(stack, group, content, shown, reference.arrays[key], key)


def measure_picture(
    stack: Stack, group: str, config: Mapping[str, Any], shown: str, kept: Array, key: str
) -> Finding:
    """One picture against the values kept of its reference: all of them, or every `STRIDE`-th."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "preprocessor_config.json").write_text(json.dumps(config), "utf-8")
            values = stack.preprocessing(Path(folder))(picture(shown))
    except Exception as error:  # noqa: BLE001  whatever it raises is the result
        return Finding(group, refused=said(error))
    if digest(values.astype(np.float32)) == key:
        return Finding(group, error=0.0)
    sample = values if values.shape == kept.shape else values.ravel()[::STRIDE]
    if sample.shape != kept.shape:
        return Finding(group, refused="another shape")
    found = compared(group, sample, kept)
    return found if found.error else replace(found, error=math.inf)  # equal in the sample, not in the whole


def measure_files(stack: Stack, folder: Path) -> Iterator[Finding]:
    """Files against a plain file of what they look like; of that one, the table of families says the rest."""
    config = Reference.read(PROFILE).cases["CLIP small"]["config"]
    with tempfile.TemporaryDirectory() as place:
        Path(place, "preprocessor_config.json").write_text(json.dumps(config), "utf-8")
        run = stack.preprocessing(Path(place))
        for name, plain in FILES.items():
            yield compared(Path(name).stem, run(folder / name), run(folder / plain))


def compared(group: str, values: Array, wanted: Array) -> Finding:
    """Two arrays of one shape."""
    errors = np.abs(values.astype(np.float64) - wanted)
    return Finding(group, error=float(errors.max()), share=float((errors > 0).mean()))


def measure_text(stack: Stack, folder: Path, case: TextCase) -> Finding:
    """Ids, and vectors where the case has them."""
    _, arrays = case.reference
    texts = case.texts()
    wanted = [row.tolist() for row in arrays[f"{case.part}input_ids"]]
    if not case.padded:
        seen = arrays[f"{case.part}attention_mask"].astype(bool)
        wanted = [np.asarray(row)[real].tolist() for row, real in zip(wanted, seen, strict=True)]
    try:
        ids = stack.ids(folder, case, texts)
        vectors = stack.vectors(folder, case, texts) if case.wanted else None
    except Exception as error:  # noqa: BLE001  whatever it raises is the result
        return Finding(case.name, refused=said(error))
    other = sum(found != row for found, row in zip(ids, wanted, strict=True))
    if vectors is None:
        return Finding(case.name, other=other, count=len(texts))
    reference = arrays[case.wanted].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return Finding(
        case.name,
        error=float(np.abs(vectors - reference).max()),
        cosine=float(((vectors * reference).sum(1) / lengths).min()),
        other=other,
        count=len(texts),
    )


def said(error: Exception) -> str:
    """An error in one line of a table."""
    text = " ".join(str(error).split())
    if isinstance(error, NotSupportedError):
        return f"not supported: {text}"
    if isinstance(error, ValueError) and "is not supported" in text:
        return "not supported"
    return f"{type(error).__name__}: {text}"


def picture_cell(findings: Sequence[Finding]) -> str:
    """How many pictures are equal, how far the others are off, and what was said of those that were refused."""
    parts = []
    measured = [found for found in findings if not found.refused]
    off = [found for found in measured if found.error != 0]
    if len(measured) > len(off):
        parts.append(f"equal ({len(measured) - len(off)})")
    if off:
        share = sum(found.share for found in off) / len(off)
        parts.append(f"{max(found.error for found in off):.1e} in {share:.0%} of values ({len(off)})")
    refused = Counter(found.refused for found in findings if found.refused)
    parts += [f"{reason} ({count})" for reason, count in refused.items()]
    return "; ".join(parts)


def text_cell(found: Finding) -> str:
    """Ids, then vectors."""
    if found.refused:
        return found.refused
    ids = "ids equal" if not found.other else f"ids differ in {found.other} of {found.count}"
    return ids if np.isnan(found.cosine) else f"{ids}; {found.error:.1e}, cos {found.cosine:.6f}"


def table(
    head: str, part: str, results: Mapping[str, Mapping[str, Any]], cell: Callable[[list[Finding]], str]
) -> str:
    """Markdown: a row for each group, a column for each stack."""
    lines = [f"| {head} | {' | '.join(results)} |", f"|---{'|---' * len(results)}|"]
    columns: list[dict[str, list[Finding]]] = []
    for result in results.values():
        groups: dict[str, list[Finding]] = {}
        for content in result[part]:
            found = Finding(**content)
            groups.setdefault(found.group, []).append(found)
        columns.append(groups)
    for group in columns[0]:
        lines.append(f"| {group} | {' | '.join(cell(groups[group]) for groups in columns)} |")
    return "\n".join(lines)


def peer(folder: Path) -> dict[str, Any]:
    """What fastembed gives, measured in its own environment."""
    answer = folder / "fastembed.json"
    child = ["-m", "benchmarks.parity", "--measure", str(folder), "--stack", "fastembed"]
    environment = {**os.environ, **OFFLINE}
    subprocess.run(
        [str(python_of("fastembed")), *child], check=True, cwd=ROOT, env=environment, stdout=sys.stderr
    )
    measured: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return measured


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--stack", choices=STACKS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        found = measure(STACKS[given.stack](), given.measure)
        (given.measure / f"{given.stack}.json").write_text(json.dumps(found), "utf-8")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_files(folder)
        for number, case in enumerate(text_cases()):
            build(case, folder / str(number))
        results = {"bowerbird": measure(Bowerbird(), folder), "fastembed": peer(folder)}
    made_with = Reference.read(PROFILE).made_with
    written = stored("bert")[0]["made_with"]
    report(
        NOTES.format(
            stride=STRIDE,
            pixels="transformers {transformers} (Pillow {pillow})".format(**made_with),
            texts="sentence-transformers {sentence_transformers} and transformers {transformers}".format(
                **written
            ),
            pictures=table("family", "pictures", results, picture_cell),
            files=table("file", "files", results, picture_cell),
            models=table("text model", "texts", results, lambda findings: text_cell(findings[0])),
            stacks="\n".join(f"{name}: {result['versions']}." for name, result in results.items()),
        )
    )


if __name__ == "__main__":
    main()
