"""Directories of sentence-transformers: the transformer becomes the graph, the chain after it stays data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import read_object
from bowerbird.origin.original import Array, Feeds, Original, Tower, floats
from bowerbird.origin.packages import has, need, versions
from bowerbird.origin.pooling import chained
from bowerbird.origin.request import Request
from bowerbird.origin.stacks.transformers import (
    keeping,
    load,
    max_tokens,
    open_tokenizer,
    read_config,
    silent,
    text_inputs,
    text_tower,
    write_tokenizer,
)
from bowerbird.origin.weights import read_weights

_TEXTS = (".json", ".txt", ".md", ".model")


def open_sentence(directory: Path, request: Request) -> Original:
    """Open a directory with a `modules.json`.

    Without the package sentence-transformers the transformer is exported all the same, since the chain is data; only
    the references need the original.

    Raises:
        ModelFormatError: the chain does not begin with a Transformer, or a file is missing.
        MissingExtraError: transformers is not installed.
    """
    modules = _modules(directory)
    inside = directory / modules[0][1]
    if has("sentence_transformers"):
        tower, tokenizer = _with_original(directory, request), open_tokenizer(inside)
        missing = ""
    else:
        tower, tokenizer = _without_original(directory, inside, request)
        missing = "the package sentence-transformers is not installed. Run: pip install sentence-transformers"

    def write(out: Path) -> None:
        _copy_chain(directory, modules, out, request)
        if inside != directory:
            shutil.copy(inside / "config.json", out / "config.json")
        if not (out / "tokenizer.json").exists():
            write_tokenizer(tokenizer, inside, out)

    made_with = versions("torch", "transformers", "sentence_transformers", "tokenizers")
    return Original(
        request.name,
        "sentence-transformers",
        "",
        made_with,
        write,
        text=replace(tower, pool=chained(directory)),
        no_golden=missing,
        save_weights=lambda out: keeping(tower.module.inner)(out / modules[0][1]),
    )


def _modules(directory: Path) -> list[tuple[str, str]]:
    """(kind, folder) of every module, in order."""
    path = directory / "modules.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        modules = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in content]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(
            f"{path} is not understood: {error!r}.", hint="Fetch the model again."
        ) from error
    first = modules[0][0] if modules else "nothing"
    if first != "Transformer":
        raise ModelFormatError(
            f"{path} begins with {first}, not with a Transformer.",
            hint="Of a CLIP model of sentence-transformers, export the directory 0_CLIPModel itself.",
        )
    return modules


def _without_original(directory: Path, inside: Path, request: Request) -> tuple[Tower, Any]:
    """The tower and the tokenizer by transformers, with the length and the prompts that the files name."""
    model = load(inside, read_config(inside), request, base=True)
    tokenizer = open_tokenizer(inside)
    said = read_object(inside / "sentence_bert_config.json", missing_ok=True).get("max_seq_length")
    length = min(int(said), 10**9) if said else max_tokens(tokenizer, model.config)
    tower = text_tower(model, tokenizer, length)
    config = read_object(directory / "config_sentence_transformers.json", missing_ok=True)
    prompts = {str(role): str(prompt) for role, prompt in (config.get("prompts") or {}).items() if prompt}
    default = str(config.get("default_prompt_name") or "")

    def prepare(text: str, role: str) -> Feeds:
        return tower.prepare(prompts.get(role or default, "") + text, "")

    return replace(tower, prepare=prepare, roles=tuple(prompts)), tokenizer


def _with_original(directory: Path, request: Request) -> Tower:
    """The tower as sentence-transformers itself runs it: its own prompts, truncation, pooling and Dense layers."""
    library, torch = need("sentence_transformers"), need("torch")
    safe = not request.allow_pickle or any(directory.rglob("*.safetensors"))
    with silent():
        try:
            original = library.SentenceTransformer(
                str(directory),
                device="cpu",
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "use_safetensors": safe},
            ).eval()
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelFormatError(
                f"{directory} cannot be opened by sentence-transformers {library.__version__}: {reason[:300]}",
                hint="Weights in pickles need --allow-pickle.",
            ) from error
    transformer = original[0]
    names = text_inputs(transformer.tokenizer, transformer.auto_model.forward)

    def features(text: str, role: str) -> dict[str, Any]:
        given: dict[str, Any] = original.preprocess([text], prompt=_prompt(original, role))
        return given

    def prepare(text: str, role: str) -> Feeds:
        given = features(text, role)
        return {name: given[name].numpy().astype(np.int64) for name in names}

    def encode(text: str, role: str) -> tuple[Array, Array]:
        with torch.inference_mode():
            given = features(text, role)
            for module in _unscaled(original):
                given = module(given)
        prompt = _prompt(original, role)
        scaled = original.encode(text, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
        return floats(given["sentence_embedding"][0]), floats(scaled)

    tower = text_tower(transformer.auto_model, transformer.tokenizer, original.max_seq_length)
    roles = tuple(role for role, prompt in original.prompts.items() if prompt)
    return replace(tower, prepare=prepare, encode=encode, roles=roles)


def _unscaled(original: Any) -> list[Any]:
    """The chain without the normalisation at its end: what comes before it is the pooled embedding."""
    modules = list(original)
    while type(modules[-1]).__name__ == "Normalize":
        modules.pop()
    return modules


def _prompt(original: Any, role: str) -> str | None:
    """The text put before an input, as `encode` of sentence-transformers chooses it."""
    chosen = role or original.default_prompt_name
    if chosen and chosen not in original.prompts:
        raise ModelFormatError(
            f"The model has no prompt {chosen!r}.", hint=f"It has: {', '.join(original.prompts) or 'none'}."
        )
    return original.prompts[chosen] if chosen else None


def _copy_chain(directory: Path, modules: list[tuple[str, str]], out: Path, request: Request) -> None:
    """Every file of the chain but the transformer's weights; weights of Dense as safetensors."""
    folders = ["", *(folder for _, folder in modules if folder)]
    for folder in dict.fromkeys(folders):
        if not (directory / folder).is_dir():
            continue  # Normalize has no files, and git keeps no empty folders.
        (out / folder).mkdir(exist_ok=True)
        for path in sorted((directory / folder).iterdir()):
            if path.is_file() and path.name.endswith(_TEXTS) and not path.name.endswith(".index.json"):
                shutil.copy(path, out / folder / path.name)
    for _, folder in modules[1:]:
        _copy_weights(directory / folder, out / folder, request)


def _copy_weights(source: Path, target: Path, request: Request) -> None:
    safe, pickle = source / "model.safetensors", source / "pytorch_model.bin"
    if safe.is_file():
        shutil.copy(safe, target / safe.name)
    elif pickle.is_file():
        weights = read_weights(pickle, allow_pickle=request.allow_pickle)
        need("safetensors.torch").save_file(weights, target / safe.name)
