"""How a model's texts are to be treated, read from the files it was published with into one `TextRules`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError, UnsupportedInputError
from bowerbird.models.jsonfile import member, only, read_object, whole_number
from bowerbird.models.text.chain import Chain, read_chain
from bowerbird.models.text.cleaning import CLEANINGS, LOWER
from bowerbird.models.text.sentence import Module, known_poolings

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "s2p_query", "web_search_query", "retrieval.query", "Retrieval-query"),
    "document": (
        "document",
        "passage",
        "corpus",
        "search_document",
        "retrieval.passage",
        "Retrieval-document",
    ),
}
"""Roles that every model may be asked for -> names under which models keep such a prompt, the first one counting.
A model without any takes the text as it is."""


@dataclass(frozen=True)
class TextRules:
    """How texts become inputs of the graph, and what follows it. Frozen and picklable.

    Attributes:
        max_tokens: longer texts are cut, special tokens kept and counted.
        padding: every row is this long; 0: as long as the longest of the batch.
        pad_side: `right` or `left`.
        pad_id: the token that fills a row.
        cut_side: the side on which too long texts are cut.
        clean: names of `cleaning.CLEANINGS` or `cleaning.LOWER`, in order, done to prompt and text together.
        masked: whether the network is told which positions are padding. False: they are shown to it as tokens.
        pooling: modes of `sentence.POOLINGS`, concatenated; empty: the graph pools by itself.
        include_prompt: whether the tokens of a prompt are pooled.
        after: modules applied to the pooled vector.
        dimensions: how many numbers the model's own files keep of each vector; 0: all.
        prompts: name -> text put before the input; only those that are not empty.
        default_prompt: name of the prompt that is used when no role is given; empty for none.
    """

    max_tokens: int
    padding: int = 0
    pad_side: str = "right"
    pad_id: int = 0
    cut_side: str = "right"
    clean: tuple[str, ...] = ()
    masked: bool = True
    pooling: tuple[str, ...] = ()
    include_prompt: bool = True
    after: tuple[Module, ...] = ()
    dimensions: int = 0
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors, as plain data for the fingerprint of the space."""
        return {
            "max_tokens": self.max_tokens,
            "padding": self.padding,
            "pad_side": self.pad_side,
            "pad_id": self.pad_id,
            "cut_side": self.cut_side,
            "clean": list(self.clean),
            "masked": self.masked,
            "pooling": list(self.pooling),
            "include_prompt": self.include_prompt,
            "after": [module.meaning() for module in self.after],
            "dimensions": self.dimensions,
            "prompts": dict(self.prompts),
            "default_prompt": self.default_prompt,
        }

    def prompt(self, role: str = "") -> str:
        """The text to put before the input.

        Args:
            role: name of a prompt of the model, or one of `ROLES`; empty takes the default prompt.

        Raises:
            UnsupportedInputError: the model has no such prompt.
        """
        prompts = dict(self.prompts)
        if not role:
            return prompts.get(self.default_prompt, "")
        if role in prompts:
            return prompts[role]
        if role in ROLES:
            return next((prompts[name] for name in ROLES[role] if name in prompts), "")
        raise UnsupportedInputError(
            f"The model has no prompt {role!r}.", hint=f"It has: {', '.join(prompts) or 'none'}."
        )


@dataclass(frozen=True)
class Family:
    """What the files of a family of two-tower models leave to the library that reads them.

    Attributes:
        model_types: `model_type` of config.json.
        tokenizers: `tokenizer_class` of tokenizer_config.json; empty: any.
        clean: see `TextRules`.
        max_tokens: where the files do not say.
        fixed: whether rows are always as long as the maximum.
        masked: see `TextRules`.
    """

    model_types: tuple[str, ...]
    tokenizers: tuple[str, ...] = ()
    clean: tuple[str, ...] = ()
    max_tokens: int = 0
    fixed: bool = False
    masked: bool = True


_SIGLIP = ("siglip", "siglip_text_model", "siglip2", "siglip2_text_model")

FAMILIES = (
    Family(("clip", "clip_text_model", "metaclip_2", "metaclip_2_text_model"), max_tokens=77),
    Family(("chinese_clip", "chinese_clip_text_model")),
    Family(("align", "align_text_model"), max_tokens=64, fixed=True),
    Family(
        _SIGLIP,
        ("SiglipTokenizer",),
        clean=("siglip",),
        max_tokens=64,
        fixed=True,
        masked=False,
    ),
    # Most SigLIP 2 checkpoints call themselves `siglip`: the tokeniser tells them apart. They were trained in lower
    # case, which the published Gemma tokeniser does not do by itself.
    Family(
        _SIGLIP,
        ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer"),
        clean=(LOWER,),
        max_tokens=64,
        fixed=True,
        masked=False,
    ),
)
"""Two-tower families of transformers. Their graphs pool by themselves."""

_NOTES = {
    "pooling",
    "include_prompt",
    "max_tokens",
    "padding",
    "pad_side",
    "pad_id",
    "cut_side",
    "clean",
    "masked",
    "prompts",
    "default_prompt",
}


def read_text_rules(
    directory: Path,
    root: Path | None = None,
    prompts: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> TextRules:
    """The conditions of a text tower.

    What describes them is recognised by what the files are and say, never by a name: `modules.json` of
    sentence-transformers; config.json of a two-tower family of transformers (`FAMILIES`); open_clip's `text_cfg`, in
    open_clip_config.json or config.json; or a plain encoder, whose pooling no file tells.

    Args:
        directory: holds tokenizer.json and the tower's configuration.
        root: the model directory; by default the same.
        prompts: those of the catalogue, for a model whose own files hold none.
        notes: what was written on purpose for Bowerbird, in bowerbird.json under `text` or in the catalogue; wins over
            the published files. Keys: `pooling` (a mode, several, or `none`), `include_prompt`, `max_tokens`,
            `padding`, `pad_side`, `pad_id`, `cut_side`, `clean`, `masked`, `prompts`, `default_prompt`.

    Raises:
        ModelFormatError: a file is missing or damaged, or says something that is not understood; or nothing says how
            to pool.
    """
    noted = dict(notes or {})
    only(noted, _NOTES, "bowerbird.json, text")
    pooling = _noted_pooling(noted)
    rules = _published(directory, root or directory, noted, pooling)
    if not rules.prompts and prompts:
        rules = replace(rules, prompts=_pairs(prompts, "the catalogue"))
    if pooling is not None:
        rules = replace(rules, pooling=pooling)
    return _noted(rules, noted)


def _published(
    directory: Path, root: Path, noted: Mapping[str, Any], pooling: tuple[str, ...] | None
) -> TextRules:
    if (directory / "modules.json").exists():
        return _sentence_rules(directory, noted)
    config = read_object(directory / "config.json", missing_ok=True)
    kind = str(config.get("model_type", ""))
    if any(kind in family.model_types for family in FAMILIES):
        return _family_rules(directory, config, kind, noted)
    found = _open_clip_config(root)
    if found:
        return _open_clip_rules(directory, *found)
    if pooling is None:
        raise ModelFormatError(
            f"{directory}: no file says how token vectors become one vector: there is no modules.json, and "
            f"config.json is of the type {kind!r}.",
            hint='Write {"format": 1, "text": {"pooling": "cls"}} into bowerbird.json; the model\'s page tells '
            "which: cls, mean, lasttoken ..., or none where the graph pools.",
        )
    return tokenizer_rules(directory, [directory], {}, noted)


def _sentence_rules(directory: Path, noted: Mapping[str, Any]) -> TextRules:
    chain: Chain = read_chain(directory)
    folders = [directory / chain.transformer, directory]
    path = _first(folders, *_TRANSFORMER_CONFIGS)
    given = _transformer_config(path) if path else {}
    rules = tokenizer_rules(directory, folders, given, noted)
    found, default, dimensions = _prompts(directory / "config_sentence_transformers.json")
    return replace(
        rules,
        clean=(LOWER,) if given.get("do_lower_case") else (),
        pooling=chain.pooling,
        include_prompt=chain.include_prompt,
        after=chain.after,
        dimensions=dimensions,
        prompts=found,
        default_prompt=default,
    )


_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def _transformer_config(path: Path) -> dict[str, Any]:
    """`max_seq_length` and `do_lower_case`, and `tokenizer`: what is passed to the tokeniser. The rest is checked."""
    config = read_object(path)
    network = {
        "model_args",
        "model_kwargs",
        "config_args",
        "config_kwargs",
        "unpad_inputs",
    }  # inside the graph
    expected: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "processing_kwargs": {},
        "query_length": None,
        "document_length": None,
        "query_expansion": None,
    }
    passed = {"tokenizer_args", "processor_kwargs"}
    known = {"max_seq_length", "do_lower_case", "modality_config", *network, *expected, *passed}
    only(config, known, path)
    for key, value in expected.items():
        if config.get(key, value) not in (value, None):
            raise ModelFormatError(
                f"{path}: {key} {config[key]!r} is not implemented.", hint=f"Implemented: {value!r}."
            )
    modalities = config.get("modality_config", {"text": {}})
    if not isinstance(modalities, dict) or "text" not in modalities:
        raise ModelFormatError(f"{path}: modality_config has no `text`; the model takes no plain texts.")
    tokenizer: dict[str, Any] = {}
    for key in passed & set(config):
        tokenizer |= member(config, key, path)
    only(
        tokenizer,
        {"model_max_length", "padding_side", "truncation_side", "use_fast"},
        f"{path}, tokenizer_args",
    )
    _check_length(tokenizer, path)
    length = config.get("max_seq_length")
    if length is not None:
        tokenizer["model_max_length"] = whole_number(length, "max_seq_length", path)
    return {"do_lower_case": config.get("do_lower_case"), "tokenizer": tokenizer}


def _family_rules(
    directory: Path, config: Mapping[str, Any], kind: str, noted: Mapping[str, Any]
) -> TextRules:
    path = directory / "tokenizer_config.json"
    name = str(read_object(path, missing_ok=True).get("tokenizer_class", ""))
    rows = [family for family in FAMILIES if kind in family.model_types]
    family = next((row for row in rows if not row.tokenizers or name in row.tokenizers), None)
    if family is None and "clean" in noted:
        family = rows[0]  # they differ in the cleaning alone
    if family is None:
        known = ", ".join(tokenizer for row in rows for tokenizer in row.tokenizers)
        raise ModelFormatError(
            f"{path}: tokenizer_class {name!r} is not known for a model of the type {kind!r}, whose texts are cleaned "
            "differently for each.",
            hint=f"Known: {known}. Else set text.clean in bowerbird.json.",
        )
    rules = tokenizer_rules(directory, [directory], {}, noted, default=family.max_tokens)
    return replace(
        rules,
        clean=family.clean,
        padding=rules.max_tokens if family.fixed else 0,
        masked=rules.masked and family.masked,
    )


def _open_clip_config(root: Path) -> tuple[Path, dict[str, Any]] | None:
    for name in ("open_clip_config.json", "config.json"):
        path = root / name
        if path.exists():
            config = read_object(path)
            model = config.get("model_cfg", config)
            if isinstance(model, dict) and isinstance(model.get("text_cfg"), dict):
                return path, model["text_cfg"]
    return None


def _open_clip_rules(directory: Path, path: Path, text: Mapping[str, Any]) -> TextRules:
    """open_clip pads every row to the context length, with 0 unless a Hugging Face tokeniser has a token for it."""
    options = {key: value for key, value in member(text, "tokenizer_kwargs", path).items() if value}
    only(options, {"clean"}, f"{path}, text_cfg.tokenizer_kwargs")
    own = not text.get("hf_tokenizer_name")
    name = f"open_clip {options.get('clean', 'lower' if own else 'whitespace')}"
    if name not in CLEANINGS or text.get("tokenizer_mode"):
        raise ModelFormatError(
            f"{path}, text_cfg: clean {options.get('clean')!r} or tokenizer_mode {text.get('tokenizer_mode')!r} "
            "is not implemented.",
            hint="Implemented: clean whitespace, lower, canonicalize, without a mode.",
        )
    length = whole_number(text.get("context_length", 77), "text_cfg.context_length", path)
    tokenizer = _tokenizer_config(directory)
    return TextRules(
        length,
        padding=length,
        pad_id=0 if own else _pad_id(directory, [directory], tokenizer),
        pad_side=_side(tokenizer, "padding_side", directory),
        clean=(name,),
        masked=False,
    )


def tokenizer_rules(
    directory: Path,
    folders: Sequence[Path],
    given: Mapping[str, Any],
    noted: Mapping[str, Any],
    default: int = 0,
) -> TextRules:
    """Length, padding and mask as the tokeniser's own configuration has them.

    Args:
        directory: for messages, and where tokenizer.json lies.
        folders: where the other files may lie, the first that has one counting.
        given: `tokenizer`: what wins over tokenizer_config.json.
        noted: `max_tokens`, which wins over all files.
        default: the length where no file says one; 0: there has to be one.

    Raises:
        ModelFormatError: as of `read_text_rules`.
    """
    found = _first(folders, "tokenizer_config.json")
    own = read_object(found) if found else {}
    _check_length(own, found or directory)
    tokenizer = {**own, **given.get("tokenizer", {})}
    names = tokenizer.get("model_input_names")
    return TextRules(
        noted.get("max_tokens") or _max_tokens(directory, folders, tokenizer, given, default),
        pad_side=_side(tokenizer, "padding_side", directory),
        pad_id=_pad_id(directory, folders, tokenizer),
        cut_side=_side(tokenizer, "truncation_side", directory),
        masked=not isinstance(names, list) or "attention_mask" in names,
    )


def _max_tokens(
    directory: Path,
    folders: Sequence[Path],
    tokenizer: Mapping[str, Any],
    given: Mapping[str, Any],
    default: int,
) -> int:
    """As sentence-transformers 6.2: its own setting, or the tokeniser's, bounded by the places the network has."""
    length = _bound(tokenizer.get("model_max_length"))
    if length and "model_max_length" in given.get("tokenizer", {}):
        return length
    config, text = _network(folders)
    places = text.get("max_position_embeddings", config.get("max_position_embeddings"))
    bounds = [bound for bound in (length, _bound(places)) if bound]
    if not bounds and not default:
        raise ModelFormatError(
            f"{directory}: no file says how many tokens the model takes: neither max_seq_length in "
            "sentence_bert_config.json, nor model_max_length in tokenizer_config.json, nor max_position_embeddings "
            "in config.json.",
            hint="Set text.max_tokens in bowerbird.json.",
        )
    return min(bounds) if bounds else default


def _check_length(tokenizer: Mapping[str, Any], path: Path) -> None:
    length = tokenizer.get("model_max_length")
    if isinstance(length, bool) or not isinstance(length, (int, float, type(None))):
        raise ModelFormatError(f"{path}: model_max_length {length!r} is not a number.")


def _bound(value: Any) -> int:
    """A number of tokens; 0 where none is given. Files say "no limit" as 1e30, and "no table of places" as -1."""
    return int(value) if isinstance(value, (int, float)) and 1 <= value < 1e9 else 0


def _network(folders: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json, and what it says about the text tower."""
    path = _first(folders, "config.json")
    config = read_object(path) if path else {}
    return config, member(config, "text_config", path) if path else {}


def _pad_id(directory: Path, folders: Sequence[Path], tokenizer: Mapping[str, Any]) -> int:
    """The id of the tokeniser's `pad_token`; else `pad_token_id` of config.json; else 0."""
    token = tokenizer.get("pad_token")
    if token is None:
        found = _first(folders, "special_tokens_map.json")
        token = read_object(found).get("pad_token") if found else None
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        return _token_id(directory, folders, tokenizer, token)
    config, text = _network(folders)
    number = {**config, **text}.get("pad_token_id")  # some write -1 for "none"
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else 0


def _token_id(directory: Path, folders: Sequence[Path], tokenizer: Mapping[str, Any], token: str) -> int:
    named = _first(folders, "tokenizer_config.json") or directory / "tokenizer_config.json"
    for number, added in member(tokenizer, "added_tokens_decoder", named).items():
        if isinstance(added, dict) and added.get("content") == token and number.isdecimal():
            return int(number)
    path = _first(folders, "tokenizer.json") or directory / "tokenizer.json"
    content = read_object(path)
    for added in content.get("added_tokens") or ():
        if isinstance(added, dict) and added.get("content") == token:
            return whole_number(added.get("id"), f"the id of {token!r}", path, least=0)
    vocabulary = member(content, "model", path).get("vocab")
    if isinstance(vocabulary, list):  # Unigram: pairs of piece and score, in order of their ids
        pieces = [piece[0] if isinstance(piece, list) and piece else None for piece in vocabulary]
        vocabulary = {token: pieces.index(token)} if token in pieces else {}
    if not isinstance(vocabulary, dict) or token not in vocabulary:
        raise ModelFormatError(
            f"{path} has no token {token!r}, which tokenizer_config.json pads with.",
            hint="Fetch the model again.",
        )
    return whole_number(vocabulary[token], f"the id of {token!r}", path, least=0)


def _side(tokenizer: Mapping[str, Any], key: str, directory: Path) -> str:
    side = tokenizer.get(key) or "right"
    if side not in ("left", "right"):
        raise ModelFormatError(
            f"{directory / 'tokenizer_config.json'}: {key} {side!r} is neither left nor right."
        )
    return str(side)


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    return read_object(directory / "tokenizer_config.json", missing_ok=True)


def _prompts(path: Path) -> tuple[tuple[tuple[str, str], ...], str, int]:
    """Prompts, the name of the default one, and how many dimensions are kept (0: all)."""
    config = read_object(path, missing_ok=True)
    known = {
        "__version__",
        "prompts",
        "default_prompt_name",
        "similarity_fn_name",
        "model_type",
        "truncate_dim",
    }
    only(config, known | {"requirements"}, path)
    if config.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ModelFormatError(
            f"{path}: model_type {config['model_type']!r} is not implemented.",
            hint="Implemented: SentenceTransformer, one vector for each text.",
        )
    named = config.get("prompts") or {}
    default = config.get("default_prompt_name") or ""
    pairs = _pairs(named, str(path))
    if default and (not isinstance(default, str) or default not in named):
        raise ModelFormatError(f"{path}: default_prompt_name {default!r} is none of {sorted(named)}.")
    kept = config.get("truncate_dim")
    return pairs, default, whole_number(kept, "truncate_dim", path) if kept is not None else 0


def _pairs(prompts: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(prompts, Mapping) or not all(
        isinstance(text, str) or text is None for text in prompts.values()
    ):
        raise ModelFormatError(f"{where}: `prompts` is an object of texts.")
    return tuple(sorted((str(name), text) for name, text in prompts.items() if text))


def _noted_pooling(noted: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "pooling" not in noted:
        return None
    return (
        () if noted["pooling"] == "none" else known_poolings(noted["pooling"], "bowerbird.json, text.pooling")
    )


def _noted(rules: TextRules, noted: Mapping[str, Any]) -> TextRules:
    """The rules with the notes over them, each checked."""
    where = Path("bowerbird.json")
    changed: dict[str, Any] = {}
    for key in ("max_tokens", "padding", "pad_id"):
        if key in noted:
            changed[key] = whole_number(
                noted[key], f"text.{key}", where, least=1 if key == "max_tokens" else 0
            )
    for key in ("masked", "include_prompt"):
        if key in noted:
            if not isinstance(noted[key], bool):
                raise ModelFormatError(f"{where}: text.{key} is true or false.")
            changed[key] = noted[key]
    if "pad_side" in noted:
        changed["pad_side"] = _side({"padding_side": noted["pad_side"]}, "padding_side", where)
    if "cut_side" in noted:
        changed["cut_side"] = _side({"truncation_side": noted["cut_side"]}, "truncation_side", where)
    if "clean" in noted:
        names = [noted["clean"]] if isinstance(noted["clean"], str) else noted["clean"]
        if not isinstance(names, list) or not all(name in (LOWER, *CLEANINGS) for name in names):
            raise ModelFormatError(
                f"{where}: text.clean {noted['clean']!r} is not known.",
                hint=f"Known: {', '.join([LOWER, *CLEANINGS])}.",
            )
        changed["clean"] = tuple(names)
    if "prompts" in noted:
        changed["prompts"] = _pairs(noted["prompts"], "bowerbird.json, text")
    if "default_prompt" in noted:
        changed["default_prompt"] = str(noted["default_prompt"])
    changed_rules = replace(rules, **changed)
    if "default_prompt" in noted and changed_rules.default_prompt not in ("", *dict(changed_rules.prompts)):
        raise ModelFormatError(f"{where}: text.default_prompt {noted['default_prompt']!r} is no prompt.")
    return changed_rules


def _first(folders: Sequence[Path], *names: str) -> Path | None:
    return next((folder / name for folder in folders for name in names if (folder / name).exists()), None)
