"""Models of transformers: two towers, picture models with or without a classifier, and text models."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import ModelFormatError
from bowerbird.origin.original import Array, Feeds, Original, Tower, sigmoid, traced
from bowerbird.origin.packages import need, quiet, versions
from bowerbird.origin.pooling import pooled
from bowerbird.origin.request import Request
from bowerbird.origin.weights import read_weights, safe_weights

_PADDED = ("siglip", "siglip2")
"""Trained with texts padded to the full length and without a mask, so that is how they are asked."""

_CLEANING = ("SiglipTokenizer", "Siglip2Tokenizer", "Gemma")
"""Tokenizers of SigLIP with a cleaning of their own; all others have the whole of theirs in tokenizer.json."""

_UNLOWERED = "Gemma"
"""SigLIP 2 was trained in lower case, and the Gemma tokenizer that most of its checkpoints name does not do that."""

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_CLASSIFIER = "ForImageClassification"

_KINDS = (_CLASSIFIER, "Model", "ModelWithProjection")
"""Classes that are opened as they were saved; of others, such as ForMaskedLM, the network without its head."""


def open_transformers(directory: Path, request: Request) -> Original:
    """Open a directory that transformers has written.

    Raises:
        ModelFormatError: the directory asks for code that transformers does not have, lacks weights or a processor, or
            the model is of a kind that has no embedding.
        MissingExtraError: transformers is not installed.
    """
    config = read_config(directory)
    if config.model_type == "siglip2":
        raise ModelFormatError(
            f"{directory / 'config.json'}: model_type 'siglip2' is the NaFlex variant, whose picture network loops "
            "over the pictures of a batch and cannot be exported.",
            hint="Use a fixed-resolution SigLIP 2, such as google/siglip2-base-patch16-224.",
        )
    model = load(directory, config, request)
    if hasattr(model, "get_text_features") and hasattr(model, "get_image_features"):
        return _two_towers(directory, model, request)
    if model.main_input_name == "pixel_values":
        return _pictures(directory, model, request)
    if model.main_input_name == "input_ids":
        return _texts(directory, model, request)
    raise ModelFormatError(
        f"{directory / 'config.json'}: {type(model).__name__} takes {model.main_input_name!r}, neither pictures nor "
        "texts."
    )


def read_config(directory: Path) -> Any:
    """The configuration, by transformers itself; code that lies with the model is never run.

    Raises:
        ModelFormatError: it is not understood.
    """
    transformers = need("transformers")
    try:
        with silent():
            return transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:
        raise ModelFormatError(
            f"{directory / 'config.json'} is not understood by transformers {transformers.__version__}: "
            f"{_first_line(error)}",
            hint="A newer transformers may know it. Models that bring their own code are not run.",
        ) from error


def load(directory: Path, config: Any, request: Request, *, base: bool = False) -> Any:
    """The network in fp32, of the class that the configuration names.

    Args:
        directory: of the model.
        config: what `read_config` gave.
        request: whether pickles are allowed, and other weights to load.
        base: without any head.

    Raises:
        ModelFormatError: there are no weights, they do not fill the network, or they are a pickle.
    """
    transformers = need("transformers")
    named = (config.architectures or [""])[0]
    kind = getattr(transformers, named, None) if named.endswith(_KINDS) and not base else None
    kind = kind or transformers.AutoModel
    where, options = _weights(directory, request)
    with silent():
        try:
            model, found = kind.from_pretrained(where, config=config, **options)
            missing = sorted(found["missing_keys"])
            if missing and all("pooler" in name for name in missing) and _has_optional_pooler(model):
                # Checkpoints of ViT, BERT and others often come without the pooler, which would be drawn at random.
                model, found = kind.from_pretrained(where, config=config, add_pooling_layer=False, **options)
        except Exception as error:
            raise ModelFormatError(
                f"The weights of {directory} cannot be loaded as {kind.__name__}: {_first_line(error)}",
                hint="Fetch the model again.",
            ) from error
    absent = [*sorted(found["missing_keys"]), *map(str, found.get("mismatched_keys") or ())]
    if absent:
        raise ModelFormatError(
            f"The weights of {request.weights or directory} do not fill {type(model).__name__}: {absent[0]} is missing "
            "or of another shape.",
            hint="Left as they are, those weights would be random numbers.",
        )
    return model.eval()


def _weights(directory: Path, request: Request) -> tuple[Path | None, dict[str, Any]]:
    """Where `from_pretrained` finds the weights, and how it is told."""
    options = {"dtype": need("torch").float32, "output_loading_info": True, "use_safetensors": True}
    if request.weights:
        return None, {
            **options,
            "state_dict": read_weights(request.weights, allow_pickle=request.allow_pickle),
        }
    if any(directory.glob("*.safetensors")):
        return directory, options
    # transformers reads a pickle with weights_only=True.
    safe_weights(directory, ("model.safetensors",), allow_pickle=request.allow_pickle)
    return directory, {**options, "use_safetensors": False}


def keeping(model: Any) -> Callable[[Path], None]:
    """A function that writes the weights into a directory, as safetensors, and the configuration beside them."""

    def save_weights(out: Path) -> None:
        with silent():
            model.save_pretrained(out)

    return save_weights


def _has_optional_pooler(model: Any) -> bool:
    return "add_pooling_layer" in inspect.signature(type(model).__init__).parameters


@contextmanager
def silent() -> Iterator[None]:
    """Keep transformers' progress bars and advice from the terminal while a model loads."""
    logs = need("transformers").utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


# Pictures.


def open_processor(directory: Path, request: Request) -> tuple[Any, str]:
    """The picture processor in the arithmetic that was asked for, and the profile that it has.

    Raises:
        ModelFormatError: there is none, or it is not to be had in that arithmetic.
    """
    transformers = need("transformers")
    if request.profile == "hf5-tv":
        need("torchvision")
    backend = "torchvision" if request.profile == "hf5-tv" else "pil"
    with silent():
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(directory, backend=backend)
        except Exception as error:
            raise ModelFormatError(
                f"{directory} has no picture processor that transformers understands: {_first_line(error)}",
                hint="A picture model needs its preprocessor_config.json: without it nobody knows how pictures were "
                "prepared in training.",
            ) from error
    backends = need("transformers.image_processing_backends")
    found = "hf5-tv" if isinstance(processor, backends.TorchvisionBackend) else "hf4-pil"
    if found != request.profile:
        raise ModelFormatError(
            f"{directory}: {type(processor).__name__} is to be had as {found} only, not as {request.profile}.",
            hint=f"Give --profile {found}.",
        )
    return processor, found


def picture_feeds(processor: Any) -> Callable[[Any, str], Feeds]:
    """A function from a picture to what the network takes."""

    def prepare(image: Any, _role: str) -> Feeds:
        values = processor(images=image, return_tensors="pt")["pixel_values"]
        return {"pixel_values": values.numpy().astype(np.float32)}

    return prepare


def _pictures(directory: Path, model: Any, request: Request) -> Original:
    processor, profile = open_processor(directory, request)
    prepare = picture_feeds(processor)
    if type(model).__name__.endswith(_CLASSIFIER):
        tower = _classifier(directory, model, prepare)
    else:
        tower = _backbone(model, prepare)

    def write(out: Path) -> None:
        model.config.save_pretrained(out)
        processor.save_pretrained(out)

    notes = {"image": {"output": tower.embedding}}
    return _original(request, profile, write, image=tower, notes=notes, save_weights=keeping(model))


def _classifier(directory: Path, model: Any, prepare: Callable[[Any, str], Feeds]) -> Tower:
    head = final_layer(model, model.config.num_labels)
    if head is None:
        raise ModelFormatError(
            f"{directory}: {type(model).__name__} has no final layer of {model.config.num_labels} classes, whose input "
            "would be the embedding."
        )

    def call(pixel_values: Any) -> Any:
        return with_features(head, lambda: model(pixel_values=pixel_values).logits)

    outputs = ("logits", "pooler_output")
    return Tower("onnx/model.onnx", ("pixel_values",), outputs, "pooler_output", traced(model, call), prepare)


def final_layer(model: Any, classes: int) -> Any:
    """The last linear layer with as many outputs as there are classes; None when there is none."""
    torch = need("torch")
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == classes]
    return layers[-1] if layers else None


def with_features(head: Any, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What `run` returns, and what the layer `head` was given meanwhile: the penultimate features."""
    seen: list[Any] = []
    handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        logits = run()
    finally:
        handle.remove()
    return logits, seen[-1]


def _backbone(model: Any, prepare: Callable[[Any, str], Feeds]) -> Tower:
    """A network without a classifier: its own pooled output; else the class token, else the mean over the tokens."""
    has_class_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())
    projected = type(model).__name__.endswith("ModelWithProjection")

    def call(pixel_values: Any) -> Any:
        given = model(pixel_values=pixel_values)
        hidden = given.last_hidden_state
        if projected:
            return given.image_embeds, hidden
        pooled = getattr(given, "pooler_output", None)
        if pooled is None and hidden.ndim == 3:
            pooled = hidden[:, 0] if has_class_token else hidden.mean(1)
        elif pooled is None:
            pooled = hidden.mean((2, 3))
        return pooled.flatten(1), hidden

    embedding = "image_embeds" if projected else "pooler_output"
    outputs = (embedding, "last_hidden_state")
    module = traced(model, call)
    return Tower(
        "onnx/model.onnx", ("pixel_values",), outputs, embedding, module, prepare, raw="last_hidden_state"
    )


# Two towers.


def _two_towers(directory: Path, model: Any, request: Request) -> Original:
    processor, profile = open_processor(directory, request)
    tokenizer = open_tokenizer(directory)
    kind, text_config = model.config.model_type, model.config.text_config
    padded = kind in _PADDED
    names = ("input_ids",) if padded else text_inputs(tokenizer, model.get_text_features)
    length = max_tokens(tokenizer, text_config)

    lowered = padded and type(tokenizer).__name__.startswith(_UNLOWERED)

    def tokenize(text: str, _role: str) -> Feeds:
        padding = "max_length" if padded else False
        text = text.lower() if lowered else text
        return text_feeds(tokenizer(text, truncation=True, max_length=length, padding=padding), names)

    def embed_text(*inputs: Any) -> Any:
        given = model.get_text_features(**dict(zip(names, inputs, strict=True)))
        return given.pooler_output, given.last_hidden_state

    def embed_picture(pixel_values: Any) -> Any:
        given = model.get_image_features(pixel_values=pixel_values)
        return given.pooler_output, given.last_hidden_state

    # As the public exports name them: SigLIP has no projection, so its pooled output is the embedding.
    text_name, image_name = ("pooler_output",) * 2 if padded else ("text_embeds", "image_embeds")
    hidden = "last_hidden_state"
    text = Tower(
        graph="onnx/text_model.onnx",
        inputs=names,
        outputs=(text_name, hidden),
        embedding=text_name,
        module=traced(model, embed_text),
        prepare=tokenize,
        raw=hidden,
        fixed=False,
    )
    image = Tower(
        graph="onnx/vision_model.onnx",
        inputs=("pixel_values",),
        outputs=(image_name, hidden),
        embedding=image_name,
        module=traced(model, embed_picture),
        prepare=picture_feeds(processor),
        raw=hidden,
    )

    def write(out: Path) -> None:
        model.config.save_pretrained(out)
        processor.save_pretrained(out)
        write_tokenizer(tokenizer, directory, out)

    notes: dict[str, Any] = {}
    if padded:
        notes = {"text": {"output": text_name}, "image": {"output": image_name}}
        if not type(tokenizer).__name__.startswith(_CLEANING):
            notes["text"]["clean"] = []
    if scale := sigmoid(model):
        notes["sigmoid"] = scale
    return _original(
        request, profile, write, image=image, text=text, notes=notes, save_weights=keeping(model)
    )


# Texts.


def open_tokenizer(directory: Path) -> Any:
    """The tokenizer, by transformers itself.

    Raises:
        ModelFormatError: there is none that it understands.
    """
    with silent():
        try:
            return need("transformers").AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        except Exception as error:
            raise ModelFormatError(
                f"{directory} has no tokenizer that transformers understands: {_first_line(error)}",
                hint="A text model needs its tokenizer.json and tokenizer_config.json.",
            ) from error


def write_tokenizer(tokenizer: Any, directory: Path | None, out: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        ModelFormatError: the tokenizer exists in Python only, and no `tokenizer.json` lies with the model.
    """
    tokenizer.save_pretrained(out)
    target = out / "tokenizer.json"
    if not target.exists():
        published = directory / "tokenizer.json" if directory else None
        if published is None or not published.exists():
            raise ModelFormatError(
                f"{type(tokenizer).__name__} cannot be written as tokenizer.json, and none lies with the model.",
                hint="Use a repository of the same model that holds a tokenizer.json.",
            )
        target.write_bytes(published.read_bytes())


def text_inputs(tokenizer: Any, function: Any) -> tuple[str, ...]:
    """What the tokenizer gives and the network takes, in a fixed order."""
    taken = inspect.signature(function).parameters
    return tuple(name for name in _TEXT_INPUTS if name in tokenizer.model_input_names and name in taken)


def text_feeds(encoded: Any, names: tuple[str, ...]) -> Feeds:
    """A tokenised text as a batch of one."""
    return {name: np.asarray([encoded[name]], np.int64) for name in names}


def max_tokens(tokenizer: Any, config: Any) -> int:
    """The lesser of what the tokenizer says and what the network has positions for."""
    said = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    # transformers writes 10^30 where nobody said anything.
    lengths = [int(value) for value in said if value and 0 < value < 10**9]
    return min(lengths) if lengths else 512


def _texts(directory: Path, model: Any, request: Request) -> Original:
    """A text model without a sentence-transformers chain: the pooling is the user's word, written as such a chain."""
    tokenizer = open_tokenizer(directory)
    length = max_tokens(tokenizer, model.config)
    model = load(directory, model.config, request, base=True)
    tower = text_tower(model, tokenizer, length)
    pooling = {"mean": _mean, "cls": _cls}[request.pooling]
    tower = replace(tower, embed=pooling, pool=pooled((request.pooling,)))

    def write(out: Path) -> None:
        model.config.save_pretrained(out)
        write_tokenizer(tokenizer, directory, out)
        _write_chain(out, model.config.hidden_size, length, request.pooling)

    return _original(request, "", write, text=tower, save_weights=keeping(model))


def text_tower(model: Any, tokenizer: Any, length: int) -> Tower:
    """Token vectors of a text network; pooling comes after the graph, as sentence-transformers publishes it."""
    names = text_inputs(tokenizer, model.forward)

    def tokenize(text: str, _role: str) -> Feeds:
        return text_feeds(tokenizer(text, truncation=True, max_length=length), names)

    def call(*inputs: Any) -> Any:
        return (model(**dict(zip(names, inputs, strict=True))).last_hidden_state,)

    hidden = "last_hidden_state"
    module = traced(model, call)
    return Tower("onnx/model.onnx", names, (hidden,), hidden, module, tokenize, raw=hidden, fixed=False)


def _mean(hidden: Array, feeds: Feeds) -> Array:
    mask = feeds["attention_mask"][..., None].astype(np.float32)
    mean: Array = (hidden * mask).sum(1) / np.maximum(mask.sum(1), 1e-9)
    return mean


def _cls(hidden: Array, feeds: Feeds) -> Array:
    first: Array = hidden[np.arange(len(hidden)), feeds["attention_mask"].argmax(1)]
    return first


def _write_chain(out: Path, width: int, length: int, pooling: str) -> None:
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds)
    ]
    pool = {
        "word_embedding_dimension": width,
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_cls_token": pooling == "cls",
    }
    (out / "1_Pooling").mkdir()
    for path, content in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False}),
        ("1_Pooling/config.json", pool),
    ):
        (out / path).write_text(json.dumps(content, indent=2), "utf-8")


def _original(request: Request, profile: str, write: Callable[[Path], None], **parts: Any) -> Original:
    made_with = versions(
        "torch", "transformers", "tokenizers", "pillow", *(["torchvision"] * (profile == "hf5-tv"))
    )
    return Original(request.name, "transformers", profile, made_with, write, **parts)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
