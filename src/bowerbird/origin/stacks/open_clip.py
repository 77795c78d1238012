"""Models of open_clip: a directory or repository in its hub layout, or an architecture and a tag."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import ModelFormatError, ModelNotFoundError
from bowerbird.origin.original import Feeds, Original, Tower, sigmoid, traced
from bowerbird.origin.packages import need, quiet, versions
from bowerbird.origin.request import Request
from bowerbird.origin.stacks.timm import transform_feeds
from bowerbird.origin.weights import (
    SAFE,
    fill,
    read_weights,
    refuse_network,
    refuse_pickle,
    safe_weights,
    save_state,
)

_SAFE_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def open_open_clip(directory: Path, request: Request) -> Original:
    """Open a directory with `open_clip_config.json` and weights.

    Raises:
        ModelFormatError: the configuration is not understood, or the weights do not fit or are a pickle.
        MissingExtraError: open_clip is not installed.
    """
    library = need("open_clip")
    source = f"local-dir:{directory}"
    path = request.weights or safe_weights(directory, _SAFE_NAMES, allow_pickle=request.allow_pickle)
    try:
        with quiet():  # It warns that the weights are random: they are loaded next, with checks.
            model = library.create_model(source, load_weights=False)
            tokenizer = library.get_tokenizer(source)
    except Exception as error:
        raise ModelFormatError(
            f"{directory / 'open_clip_config.json'} is not understood by open_clip: {error}",
            hint="A newer open_clip_torch may know it.",
        ) from error
    _load(model, path, request)

    def write(out: Path) -> None:
        shutil.copy(directory / "open_clip_config.json", out / "open_clip_config.json")

    return _original(model, tokenizer, write, request)


def open_open_clip_name(name: str, request: Request) -> Original:
    """Open `ARCHITECTURE/TAG`, such as `ViT-B-32/laion2b_s34b_b79k`, with its published weights.

    Weights that were trained with QuickGELU get it even where the architecture's name does not say so: open_clip
    itself only warns, and every vector would be wrong.

    Raises:
        ModelNotFoundError: there is no such architecture or tag, or its weights cannot be fetched.
        ModelFormatError: the weights are a pickle and that is not allowed.
        MissingExtraError: open_clip is not installed.
    """
    library = need("open_clip")
    architecture, _, tag = name.partition("/")
    config = library.get_model_config(architecture)
    if config is None:
        raise ModelNotFoundError(
            f"open_clip has no architecture {architecture!r}.",
            hint=f"Known are, among others: {', '.join(library.list_models()[:5])}.",
        )
    published = library.get_pretrained_cfg(architecture, tag) or {}
    if not published and not request.weights:
        tags = library.list_pretrained_tags_by_model(architecture)
        raise ModelNotFoundError(
            f"open_clip has no weights {tag!r} of {architecture}.",
            hint=f"Write open_clip:{architecture}/TAG with one of: {', '.join(tags) or 'none is published'}.",
        )
    quick = bool(config.get("quick_gelu") or published.get("quick_gelu"))
    with quiet():
        model = library.create_model(architecture, force_quick_gelu=quick)
    cleaned = {
        key: published[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in published
    }
    preprocess = asdict(library.transform.PreprocessCfg(**{**model.visual.preprocess_cfg, **cleaned}))
    library.model.set_model_preprocess_cfg(model, preprocess)
    tokenizer = library.get_tokenizer(architecture)
    _load(model, request.weights or _download(published, name, request), request)
    content = {"model_cfg": {**config, "quick_gelu": quick}, "preprocess_cfg": preprocess}

    def write(out: Path) -> None:
        (out / "open_clip_config.json").write_text(json.dumps(content, indent=2), "utf-8")

    return _original(model, tokenizer, write, request)


def _download(published: dict[str, Any], name: str, request: Request) -> Path:
    refuse_network(f"The weights of open_clip:{name}")
    if not published.get("hf_hub"):  # a file of its own, which only pickles are
        refuse_pickle(f"open_clip:{name}", request.allow_pickle)
    try:
        with quiet():
            return Path(need("open_clip").download_pretrained(published))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFoundError(
            f"The weights of open_clip:{name} cannot be fetched: {reason[:300]}", hint="Check the connection."
        ) from error


def _load(model: Any, path: Path, request: Request) -> None:
    if path == request.weights:
        fill(model, read_weights(path, allow_pickle=request.allow_pickle), path)
        return
    if path.suffix != SAFE:
        refuse_pickle(str(path), request.allow_pickle)
    try:
        # open_clip's own loader: it knows the older forms its checkpoints were published in.
        need("open_clip").load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFormatError(
            f"{path} does not fit its configuration: {reason[:300]}", hint="Fetch the model again."
        ) from error


def _original(model: Any, tokenizer: Any, write_config: Callable[[Path], None], request: Request) -> Original:
    library = need("open_clip")
    model = model.eval().float()
    preprocess = library.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    transform = library.transform.image_transform_v2(preprocess, is_train=False)

    def tokenize(text: str, _role: str) -> Feeds:
        return {"input_ids": tokenizer([text]).numpy().astype(np.int64)}

    text = Tower(
        graph="onnx/text_model.onnx",
        inputs=("input_ids",),
        outputs=("text_embeds",),
        embedding="text_embeds",
        module=traced(model, lambda ids: (model.encode_text(ids),)),
        prepare=tokenize,
    )
    image = Tower(
        graph="onnx/vision_model.onnx",
        inputs=("pixel_values",),
        outputs=("image_embeds",),
        embedding="image_embeds",
        module=traced(model, lambda pixels: (model.encode_image(pixels),)),
        prepare=transform_feeds(transform),
    )

    def write(out: Path) -> None:
        write_config(out)
        _write_tokenizer(tokenizer, out)

    made_with = versions("torch", "open_clip", "torchvision", "pillow")
    scale = sigmoid(model)
    notes = {"sigmoid": scale} if scale else {}
    return Original(
        request.name,
        "open_clip",
        "openclip",
        made_with,
        write,
        image=image,
        text=text,
        notes=notes,
        save_weights=lambda out: save_state(model, out, _SAFE_NAMES[0]),
    )


def _write_tokenizer(tokenizer: Any, out: Path) -> None:
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if hasattr(inner, "save_pretrained"):
        inner.save_pretrained(out)
    elif hasattr(tokenizer, "bpe_ranks"):
        _write_simple_tokenizer(tokenizer, out)
    if not (out / "tokenizer.json").exists():
        raise ModelFormatError(
            f"open_clip's {type(tokenizer).__name__} cannot be written as tokenizer.json.",
            hint="Use a repository of the same model in the layout of transformers.",
        )


def _write_simple_tokenizer(tokenizer: Any, out: Path) -> None:
    """The byte-pair tokenizer that open_clip carries in Python, as `tokenizer.json`.

    What open_clip does before (ftfy, HTML entities) is not part of a tokenizer.json; it changes nothing in clean text.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    begin, end = (tokenizer.decoder[id_] for id_ in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    merges = [merge for merge in tokenizer.bpe_ranks if len(merge) == 2]
    built = Tokenizer(models.BPE(dict(tokenizer.encoder), merges, unk_token=end, end_of_word_suffix="</w>"))
    built.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.add_special_tokens([begin, end])
    built.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)],
    )
    built.save(str(out / "tokenizer.json"))
    length = {"model_max_length": tokenizer.context_length, "bos_token": begin, "eos_token": end}
    (out / "tokenizer_config.json").write_text(json.dumps(length, indent=2), "utf-8")
