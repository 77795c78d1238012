"""`CrossEncoder`: how well a text answers a question, judged by a network that reads both at once.

Slower than comparing vectors, since nothing can be computed beforehand, and better: so it is asked about the best
results of a search alone. Any ONNX graph of a sequence classifier will do, such as those of
`cross-encoder/ms-marco-MiniLM-L6-v2` or `BAAI/bge-reranker-base`. Scores are those of sentence-transformers'
`CrossEncoder.predict`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, InputErrors, ModelFormatError, UnsupportedInputError
from bowerbird.lookahead import ordered_map
from bowerbird.models import layout as layouts
from bowerbird.models.artifact import Artifact, artifact, graph_artifact
from bowerbird.models.encoder import clean
from bowerbird.models.hub.fetch import locate
from bowerbird.models.jsonfile import member, only, read_object, whole_number
from bowerbird.models.network.engine import open_engine
from bowerbird.models.network.graph import GraphFacts
from bowerbird.models.network.precision import REFERENCE, check_names
from bowerbird.models.outputs import ANNOTATIONS
from bowerbird.models.text.pairs import Pair, encode_pairs, load_pair_tokenizer, read_pair_rules
from bowerbird.models.text.rules import TextRules
from bowerbird.models.text.tokens import feeds, largest_id
from bowerbird.models.text.tower import batches_by_length
from bowerbird.settings import settings

SIGMOID, IDENTITY, SOFTMAX = "sigmoid", "identity", "softmax"
"""What is done to the logits: the first and the last give a probability, the second leaves them as they are."""

_ACTIVATIONS = {"Sigmoid": SIGMOID, "Identity": IDENTITY}
"""Class of PyTorch -> what it does."""

_MEANS_YES = frozenset(
    {"relevant", "yes", "true", "positive", "entailment", "duplicate", "paraphrase", "equivalent"}
)
"""Names of the one of two labels whose probability is the score."""

_UNNAMED: tuple[set[str], ...] = ({"label_0", "label_1"}, {"0", "1"}, set())
"""Names of two labels that say nothing: then the second is the one."""


@dataclass(frozen=True)
class CrossCard:
    """The recipe of a cross-encoder. Frozen and picklable.

    Attributes:
        name: what the user called the model; of the hub, with the commit.
        graph: the ONNX file.
        tokenizer: `tokenizer.json`.
        rules: from a pair of texts to tokens.
        output: the output of the graph that holds the logits, (n, labels).
        labels: 1, or 2.
        label: of two labels, the one whose probability is the score.
        activation: `SIGMOID`, `IDENTITY` or `SOFTMAX`.
        vocabulary: how many tokens the graph knows; None where it does not tell.
    """

    name: str
    graph: Artifact
    tokenizer: Artifact
    rules: TextRules
    output: str
    labels: int
    label: int
    activation: str
    vocabulary: int | None = None

    def meaning(self) -> dict[str, Any]:
        """Everything that changes what the scores mean, as plain data."""
        return {
            "graph": self.graph.sha256,
            "tokenizer": self.tokenizer.sha256,
            "rules": self.rules.meaning(),
            "output": self.output,
            "label": self.label,
            "activation": self.activation,
        }

    @property
    def space(self) -> str:
        """Fingerprint of `meaning()`: 16 hexadecimal digits of its SHA-256. Scores of two cannot be compared."""
        text = json.dumps(self.meaning(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Judgement:
    """What became of one pair: a score, or an error.

    Attributes:
        index: of the pair in the call.
        score: higher is a better answer: 0 to 1, or a logit without bounds; see `CrossEncoder.range`. None when there
            is an error.
        error: why there is no score.
        note: what a person should know, such as that a text was cut; usually empty.
    """

    index: int
    score: float | None = None
    error: InputError | None = None
    note: str = ""


class CrossEncoder:
    """A model that scores pairs of texts. Made by `CrossEncoder.load`; safe to use from several threads.

    It always runs in fp32: what bf16 costs is measured on vectors, not on scores.

    Attributes:
        card: what it was made from.
        threads: how many batches are run at once.
    """

    def __init__(self, card: CrossCard, *, engine: str = "auto", threads: int = 0) -> None:
        check_names("exact", engine)
        self.card = card
        self.threads = threads or settings().worker_threads
        self._tokenizer = load_pair_tokenizer(card.tokenizer.path, card.rules)
        largest = largest_id(self._tokenizer)
        if card.vocabulary is not None and largest >= card.vocabulary:
            raise ModelFormatError(
                f"{card.tokenizer.path} has token ids up to {largest}, while {card.graph.path} knows "
                f"{card.vocabulary} tokens: they belong to different models.",
                hint="Fetch the model again.",
            )
        kind = REFERENCE if engine == "auto" else engine
        self._engine = open_engine(kind, card.graph.path, streams=self.threads)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        variant: str = "",
        activation: str = "",
        max_tokens: int = 0,
        engine: str = "",
        threads: int = 0,
    ) -> CrossEncoder:
        """Load a cross-encoder.

        Args:
            name: a model directory, or a repository of the Hugging Face hub as `org/name` or `org/name@revision`.
            variant: a published variant of the graph, such as `fp16`; empty takes the plain one.
            activation: `sigmoid` or `identity`, of a model with one label; empty takes what its files say.
            max_tokens: longer pairs are cut; 0 takes what the model's files say.
            engine: `auto`, `onnxruntime` or `openvino`; empty takes `BOWERBIRD_ENGINE`. `auto` is ONNX Runtime.
            threads: for the engine; 0 takes `BOWERBIRD_THREADS`.

        Raises:
            ModelNotFoundError: there is no such model.
            ModelFetchError: it cannot be downloaded.
            ModelFormatError: it is no cross-encoder, or a file is missing, damaged or not understood.
            EngineError: there is no such engine, or it refuses the graph.
        """
        chosen = settings()
        card = read_cross_card(name, variant=variant, activation=activation, max_tokens=max_tokens)
        return cls(card, engine=engine or chosen.engine, threads=threads or chosen.threads)

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.card.name

    @property
    def space(self) -> str:
        """Fingerprint of all that decides the scores; see `CrossCard.space`."""
        return self.card.space

    @property
    def range(self) -> str:
        """What a score is: `probability`, 0 to 1, or `logit`, without bounds."""
        return "logit" if self.card.activation == IDENTITY else "probability"

    def __repr__(self) -> str:
        return f"<CrossEncoder {self.name}, {self.range}, {self.card.rules.max_tokens} tokens>"

    def scores(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """A score for each pair, in order, float32 (n,).

        Args:
            pairs: a question and a text each.

        Raises:
            InputErrors: some pairs failed; `outcomes` gives the rest.
            EngineError: the network fails.
        """
        found = self.outcomes(pairs)
        if errors := {judged.index: judged.error for judged in found if judged.error}:
            raise InputErrors(errors, len(found))
        return np.asarray([judged.score for judged in found], np.float32)

    def outcomes(self, pairs: Iterable[tuple[str, str]]) -> list[Judgement]:
        """Like `scores`, with an outcome for every pair at its own place: a score or a typed error."""
        found: dict[int, Judgement] = {}
        texts: list[tuple[str, str]] = []
        places: list[int] = []
        for index, pair in enumerate(pairs):
            if _is_pair(pair):
                places.append(index)
                texts.append((clean(pair[0]), clean(pair[1])))
            else:
                error = UnsupportedInputError(
                    f"A cross-encoder takes two texts, not {type(pair).__name__} {str(pair)[:60]!r}.",
                    hint="Give (question, text).",
                )
                found[index] = Judgement(index, error=error)
        rows = encode_pairs(self._tokenizer, self.card.rules, texts)
        for index, row, score in zip(places, rows, self._scored(rows), strict=True):
            found[index] = self._judged(index, row, float(score))
        return [found[index] for index in range(len(found))]

    def _judged(self, index: int, row: Pair, score: float) -> Judgement:
        if not np.isfinite(score):
            error = InputError(
                "The network returned a value that is not a number.",
                hint="Use a variant of the graph that is not reduced.",
            )
            return Judgement(index, error=error)
        note = f"cut to {self.card.rules.max_tokens} tokens" if row.is_cut else ""
        return Judgement(index, score, note=note)

    def _scored(self, rows: Sequence[Pair]) -> NDArray[np.float64]:
        """(n,) scores, in order; rows of like length share a batch."""
        scores = np.empty(len(rows))

        def run(batch: Sequence[int]) -> tuple[Sequence[int], NDArray[np.float64]]:
            return batch, self._run([rows[row] for row in batch])

        batches = batches_by_length([len(row.tokens.ids) for row in rows])
        for batch, found in ordered_map(run, batches, threads=self.threads):
            scores[list(batch)] = found
        return scores

    def _run(self, rows: Sequence[Pair]) -> NDArray[np.float64]:
        card = self.card
        given = feeds([row.tokens for row in rows], card.rules, self._engine.inputs)
        (logits,) = self._engine.run(given, (card.output,))
        if logits.size != len(rows) * card.labels:
            raise ModelFormatError(
                f"{card.graph.path}: {card.output!r} is of the shape {logits.shape} for {len(rows)} pairs; "
                f"{card.labels} for each were expected.",
                hint="Use a model that scores pairs of texts.",
            )
        return activated(
            logits.reshape(len(rows), card.labels).astype(np.float64), card.activation, card.label
        )


def activated(logits: NDArray[np.float64], activation: str, label: int = 0) -> NDArray[np.float64]:
    """(n, labels) logits to (n,) scores.

    `SIGMOID` is 1 / (1 + exp(-x)); `SOFTMAX` is the share of exp(x) that `label` has, computed without overflow.
    """
    if activation == SOFTMAX:
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(shifted[:, label] / shifted.sum(1))
    if activation == SIGMOID:
        # Both halves by the exponential of a negative number: it cannot overflow.
        small = np.exp(-np.abs(logits[:, 0]))
        return np.where(logits[:, 0] >= 0, 1.0, small) / (1.0 + small)
    return logits[:, 0]


def read_cross_card(name: str, *, variant: str = "", activation: str = "", max_tokens: int = 0) -> CrossCard:
    """Read the recipe of a cross-encoder from the files it was published with, fetching them when they are not here.

    Args and errors: as of `CrossEncoder.load`.
    """
    located = locate(name, variant=variant)
    directory = located.directory
    files = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    layout = layouts.choose(files, variant, str(directory))
    if not layout.text or layout.image:
        raise _no_cross_encoder(name, "it takes pictures")
    root = directory / layout.text_root
    notes = _notes(directory / ANNOTATIONS)
    if max_tokens:
        notes["max_tokens"] = max_tokens
    graph, facts = graph_artifact(directory / layout.text)
    output = _logits(name, facts, str(notes.pop("output", "")))
    config = read_object(root / "config.json", missing_ok=True)
    names = _label_names(config, root / "config.json")
    labels = facts.outputs[output].shape[-1:][0] if len(facts.outputs[output].shape) > 1 else 1
    labels = labels or len(names) or 2  # transformers leaves out of config.json what is as usual: two
    if labels > 2:
        raise _no_cross_encoder(name, f"{output!r} holds {labels} numbers for each input")
    rules = read_pair_rules(root, notes)
    beside = root / "tokenizer.json"
    return CrossCard(
        name=f"{located.name}@{located.revision[:12]}" if located.revision else located.name,
        graph=graph,
        tokenizer=artifact(beside if beside.is_file() else directory / "tokenizer.json"),
        rules=replace(rules, pooling=()),
        output=output,
        labels=labels,
        label=_meant(names, root / "config.json") if labels == 2 else 0,
        activation=SOFTMAX if labels == 2 else _activation(root, config, activation),
        vocabulary=facts.vocabulary,
    )


def _is_pair(pair: object) -> bool:
    return isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _no_cross_encoder(name: str, why: str) -> ModelFormatError:
    return ModelFormatError(
        f"{name} is no cross-encoder: {why}.",
        hint="Give a model that scores pairs of texts, such as cross-encoder/ms-marco-MiniLM-L6-v2.",
    )


def _notes(path: Path) -> dict[str, Any]:
    """`max_tokens` and `output` of `text` in bowerbird.json."""
    notes = dict(member(read_object(path, missing_ok=True), "text", path))
    only(notes, {"max_tokens", "output"}, f"{path}, text")
    if "max_tokens" in notes:
        whole_number(notes["max_tokens"], "text.max_tokens", path)
    return notes


def _logits(name: str, facts: GraphFacts, noted: str) -> str:
    """The output that holds the logits, by its name; the only one, whatever it is called."""
    outputs = facts.outputs
    output = noted or ("logits" if "logits" in outputs or len(outputs) != 1 else next(iter(outputs)))
    if output not in outputs:
        raise _no_cross_encoder(name, f"its graph has no output {output!r}, only {', '.join(outputs)}")
    if len(outputs[output].shape) > 2:
        raise _no_cross_encoder(name, f"{output!r} holds a vector for each token")
    return output


def _label_names(config: Mapping[str, Any], path: Path) -> list[str]:
    """The names of the labels, in order; as many empty ones where config.json tells only how many there are."""
    named = member(config, "id2label", path)
    if named:
        return [str(named[key]).lower() for key in sorted(named, key=lambda key: (len(str(key)), str(key)))]
    number = config.get("num_labels")
    return [""] * number if isinstance(number, int) else []


def _meant(names: Sequence[str], path: Path) -> int:
    """Which of two labels means that the text answers the question."""
    if {name for name in names if name} in _UNNAMED:
        return 1
    found = [index for index, name in enumerate(names) if name in _MEANS_YES]
    if len(found) != 1:
        raise ModelFormatError(
            f"{path}: of the labels {' and '.join(map(repr, names))} none is known to mean that a text answers a "
            "question.",
            hint=f"Known: {', '.join(sorted(_MEANS_YES))}. Change id2label if one of the two does.",
        )
    return found[0]


def _activation(root: Path, config: Mapping[str, Any], asked: str) -> str:
    """What is done to the one logit, in the order in which sentence-transformers 6.2 looks for it."""
    if asked:
        if asked not in (SIGMOID, IDENTITY):
            raise ModelFormatError(f"There is no activation {asked!r}.", hint=f"Use {SIGMOID} or {IDENTITY}.")
        return asked
    path = root / "config.json"
    saved = root / "config_sentence_transformers.json"
    said = (
        read_object(saved, missing_ok=True).get("activation_fn")
        or member(config, "sentence_transformers", path).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
        or "torch.nn.Sigmoid"
    )
    found = _ACTIVATIONS.get(str(said).rpartition(".")[2]) if str(said).startswith("torch.") else None
    if found is None:
        raise ModelFormatError(
            f"{root}: the activation {said!r} is not implemented.",
            hint=f"Give activation={SIGMOID!r} or {IDENTITY!r}: the order of results is the same.",
        )
    return found
