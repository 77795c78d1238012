"""Search in a mixture of photographs and texts: what the calibrated match is worth, on real indexes.

Half of the photographs of clothes are in the index as pictures, some of these held out to ask with; of the other half
there are one-line descriptions, made from templates for the class that each photograph belongs to. The parts:

* `corpus`: nDCG@10 by kind of fusion. Relevant are the records of the class that a question names. In the protocol
  "only pictures" the texts of that class are filtered out, so that what is relevant is there as pictures alone, beside
  the texts of all other classes; "only texts" is the reverse; the headline is the mean of these two.
* `threshold`: the match that lets 5 % of unrelated text-text pairs through, and what it does to other kinds of pairs.
  Unrelated are a question and a record of different classes. All pairs are scored.
* `nothing`: all photographs as pictures, asked for what is there and for what is not.

Two models: `mini`, and mini with the gap of a CLIP induced. Mini's picture vectors are centred when it is built; the
second is the same graph with the class vectors as they were before (`softmax(logits / 2.5) E`, see
tools/build_mini.py), a model directory of its own: pictures, questions and neutral pictures are all embedded by it.
Nothing is learned from the labels; they say what is relevant. Nothing is written but to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import bowerbird as bb
from benchmarks.side_by_side import HERE, SHARED, report, versions
from bowerbird.judge.measures import measure, measured
from bowerbird.judge.significance import intervals
from bowerbird.models.encoder import Encoder, Outcome
from bowerbird.search import background, gap
from bowerbird.search.background import Background, bank
from bowerbird.search.index import Index
from bowerbird.search.query import Query
from bowerbird.store.manifest import ModelEntry

Floats = NDArray[np.float64]

PARTS = ("corpus", "threshold", "nothing")
LABELS = HERE.parent / "tools" / "imagenet_labels.json"
PROMPTS = (
    "{}",
    "a photo of a {}",
    "a picture of a {}",
    "a close-up photo of a {}",
    "a photo of the {}",
    "there is a {} in the scene",
    "a {}.",
)


def listed(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(one.strip() for one in text.split(","))


NAMES = {
    "dress": listed("dress, evening dress, summer dress, frock, gown"),
    "hat": listed("hat, cap, sun hat, beanie, straw hat"),
    "longsleeve": listed("long-sleeved top, longsleeve shirt, long-sleeve tee, jersey with long sleeves"),
    "outwear": listed("coat, jacket, winter coat, anorak, parka"),
    "pants": listed("pants, trousers, jeans, chinos"),
    "shirt": listed("shirt, button-up shirt, blouse, dress shirt"),
    "shoes": listed("shoes, pair of sneakers, sandals, leather boots"),
    "shorts": listed("shorts, running shorts, denim shorts, beach shorts"),
    "skirt": listed("skirt, mini skirt, pleated skirt, long skirt"),
    "t-shirt": listed("t-shirt, tee, t shirt with a print, short-sleeved tee"),
}
KINDS = listed(
    "black, white, red, blue, green, grey, striped, new, cotton, second-hand, children's, women's, men's, simple, "
    "elegant, sporty, cheap, vintage"
)
CONTEXTS = listed(
    ", for sale, on a white background, hanging on a hook, lying on the floor, for the summer, in good condition, "
    "size M, worn once, with a label, for the office, on a bed"
)
PLAIN = listed(
    "a dress, a hat, a longsleeve shirt, a coat, pants, a shirt, a pair of shoes, shorts, a skirt, a t-shirt"
)
FAR = listed(
    "a volcano, a cat, a dog, pizza, a car, an aeroplane, a mountain lake, a piano, a laptop, a bridge, a tree, "
    "a bowl of soup, a football match, a castle, the moon, a horse, a train station, a baby, a bar chart, a shark, "
    "an office building, coffee, a spider, fireworks, a banana"
)
NEAR = listed(
    "a wrist watch, a handbag, sunglasses, a tie, a necklace, a belt, socks, gloves, a scarf, an umbrella, a ring, "
    "earrings, a backpack, a swimsuit, pyjamas, a suit, underwear, a bra, an apron, a helmet, a wallet, a brooch, "
    "a bow tie, suspenders"
)
SHARE = 0.05
ALLOWED = (0.02, 0.08)
PAIRS = (("text", "text"), ("text", "image"), ("image", "text"), ("image", "image"))
PROTOCOLS = ("only pictures", "only texts", "both")
NDCG = measure("nDCG@10")


def phrasings() -> list[tuple[str, str]]:
    """Questions in words, with the class that each is about."""
    found = []
    for label, names in NAMES.items():
        first, second, third, last = *names[:3], names[-1]
        asked = [f"a {first}", first, f"a photo of a {first}", f"a {second}", f"red {first}"]
        asked += [f"{last} for a holiday", f"something like a {first}", third]
        found += [(text, label) for text in dict.fromkeys(asked)]
    return found


class Remembering(Encoder):
    """An encoder that embeds every question once: the same ones are asked of many indexes."""

    known: dict[tuple[Any, str], Outcome]

    def outcomes(
        self, inputs: Any, *, output: str = "", role: str = "", normalize: bool = True
    ) -> list[Outcome]:
        """As of `Encoder`; mini has no prompts, so that roles say nothing."""
        if not normalize:
            return super().outcomes(inputs, output=output, role=role, normalize=False)
        asked = list(inputs)
        name = output or self.card.image.output  # type: ignore[union-attr]  # mini takes pictures
        missing = [one for one in dict.fromkeys(asked) if (one, name) not in self.known]
        found = super().outcomes(missing, output=output, role=role) if missing else []
        self.known.update({(one, name): outcome for one, outcome in zip(missing, found, strict=True)})
        return [replace(self.known[one, name], index=place) for place, one in enumerate(asked)]


class Altered(Index):
    """An index that is calibrated anew, with something changed, to compare."""

    def altered(self) -> AbstractContextManager[Any]:
        """What is changed while it is measured."""
        raise NotImplementedError

    def background(self, entry: ModelEntry) -> Background:
        """As of `Index`."""
        key = (entry.space, "altered")
        if key not in self._backgrounds:
            with self.altered():
                self._backgrounds[key] = background.measure(self, entry)
        return self._backgrounds[key]


class Uncorrected(Altered):
    """Its gap is not corrected, whatever the library would decide."""

    def altered(self) -> AbstractContextManager[Any]:
        """No correction."""
        return patch.object(gap, "decide", lambda *_: gap.Correction(False, "left out, to compare"))


class Unaware(Altered):
    """None of its neutral questions names what this benchmark asks for; the library's list has many of these."""

    def altered(self) -> AbstractContextManager[Any]:
        """Fewer neutral questions."""
        return patch.object(background, "bank", fresh)


def fresh() -> tuple[str, ...]:
    """The neutral questions without those that have the last word of a question of the part `nothing`."""
    words = {re.escape(re.findall(r"[a-z-]+", text)[-1].rstrip("s")) for text in (*PLAIN, *FAR, *NEAR)}
    named = re.compile(rf"\b({'|'.join(sorted(words))})(s|es)?\b")
    return tuple(line for line in bank() if not named.search(line.lower()))


@dataclass
class Model:
    """One of the two, with all photographs embedded.

    Attributes:
        name: as the tables show it.
        source: what it is loaded from.
        files: the photographs.
        labels: (n,): their classes.
    """

    name: str
    source: str
    files: Sequence[Path]
    labels: NDArray[np.str_]

    @cached_property
    def encoder(self) -> Remembering:
        """It, knowing the photographs: from here on they are taken from the cache that the indexes are made from."""
        found = Remembering(bb.load(self.source).card)
        records = [bb.Record(str(path), path) for path in self.files]
        found.known = {}
        for record in bb.Collection.from_items(records).embed(self.source).to_list():
            for part, output in (("image", "image_embeds"), ("image.features", "features")):
                found.known[record.image, output] = Outcome(
                    0, record.vectors[part], float(record.norms[part])
                )
        return found

    def index(self, path: Path, records: Sequence[bb.Record]) -> Path:
        """Write an index; vectors come from the cache."""
        _ = self.encoder
        bb.Collection.from_items(list(records)).embed(self.source).write(path)
        return path


@dataclass
class Mixture:
    """A mixed corpus and what it is asked.

    Attributes:
        model: of its vectors.
        path: of its index.
        labels: class of each record, by id; ids of pictures begin with p, of texts with t.
        held: photographs that are not in it, and their classes.
    """

    model: Model
    path: Path
    labels: Mapping[str, str]
    held: Sequence[tuple[Path, str]]

    @classmethod
    def make(cls, model: Model, seed: int, held: int, folder: Path) -> Mixture:
        """Split the photographs and describe one half of them."""
        order = np.random.default_rng(seed).permutation(len(model.files))
        half = len(order) // 2
        out, pictures, described = order[:held], np.sort(order[held:half]), np.sort(order[half:])
        draw = random.Random(seed)
        labels = {f"p{i}": str(model.labels[i]) for i in pictures}
        labels |= {f"t{i}": str(model.labels[i]) for i in described}
        records = []
        for id_, label in labels.items():
            text = f"{draw.choice(KINDS)} {draw.choice(NAMES[label])} {draw.choice(CONTEXTS)}".strip()
            picture = model.files[int(id_[1:])] if id_[0] == "p" else None
            texts = () if picture else (text,)
            records.append(bb.Record(id_, picture, texts, attributes={"label": label}))
        path = model.index(folder / f"{model.name.replace(' ', '-')}-{seed}.bower", records)
        return cls(model, path, labels, [(model.files[i], str(model.labels[i])) for i in out])

    @cached_property
    def opened(self) -> Index:
        """Its index."""
        return Index.open(self.path, self.model.encoder)

    @cached_property
    def uncorrected(self) -> Index:
        """The same, with the correction of the gap forced off."""
        return Uncorrected.open(self.path, self.model.encoder)

    def asked(self, kind: str, count: int | None = None) -> list[tuple[Query, str]]:
        """Questions in words, or the first `count` of the photographs that were held out, with their classes."""
        if kind == "text":
            return [(Query((text,)), label) for text, label in phrasings()]
        return [(Query(image=path), label) for path, label in self.held[:count]]

    def ndcg(self, questions: Sequence[tuple[Query, str]], system: System, protocol: str) -> Floats:
        """nDCG@10 of each question."""
        index = self.opened if system.corrected else self.uncorrected
        qrels, run = {}, {}
        for label in sorted({label for _, label in questions}):
            mine = [(str(place), query) for place, (query, own) in enumerate(questions) if own == label]
            only = {"only pictures": "p", "only texts": "t", "both": "pt"}[protocol]
            which = {"p": "text is null", "t": "text is not null"}.get(only)
            where = f"label != '{label}' or {which}" if which else ""
            found = index.ask_all([query for _, query in mine], k=10, where=where, fusion=system.fusion)
            relevant = {id_: 1 for id_, own in self.labels.items() if own == label and id_[0] in only}
            for (name, _), hits in zip(mine, found, strict=True):
                qrels[name], run[name] = relevant, list(hits.ids)
        scores = measured([NDCG], qrels, run)
        by_name = dict(zip(scores.queries, scores.values[NDCG], strict=True))
        return np.asarray([by_name[str(place)] for place in range(len(questions))])

    def pairs(self, kind: str, part: str) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """The match and the raw score of every pair of a question and a record, and whether they are related."""
        match, raw, related = [], [], []
        there = sum(id_[0] == {"text": "t", "image": "p"}[part] for id_ in self.labels)
        questions = self.asked(kind)
        queries = [replace(query, among=part) for query, _ in questions]
        for hits, (_, label) in zip(self.opened.ask_all(queries, k=len(self.labels)), questions, strict=True):
            assert len(hits) == there, "every pair counts"
            match.append(hits.match)
            raw.append(hits.scores)
            related.append([self.labels[id_] == label for id_ in hits.ids])
        return np.concatenate(match).astype(float), np.concatenate(raw).astype(float), np.concatenate(related)


@dataclass(frozen=True)
class System:
    """One way to fuse.

    Attributes:
        name: as the table shows it.
        fusion: as of `Index.ask`.
        corrected: whether the gap is corrected where the library decides so. Raw fusion never corrects it.
    """

    name: str
    fusion: str
    corrected: bool = True


RAW = System("raw", "raw")
"""The larger cosine of raw vectors, whichever part it is of: what published systems do."""

OURS = System("calibrated", "calibrated")
SYSTEMS = (
    RAW,
    OURS,
    System("calibrated, gap not corrected", "calibrated", corrected=False),
    System("rank", "rank"),
    System("weighted", "weighted"),
)


def corpus(models: Sequence[Model], folder: Path, seeds: int, held: int, pictures: int) -> str:
    """nDCG@10 of all ways to fuse, questions in words and in pictures."""
    lines = [
        f"| index | asked in | fusion | {' | '.join(PROTOCOLS)} | headline (95 %) | by split | minus raw (95 %) "
        "| by class |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        found = {(kind, system): [] for kind in ("text", "image") for system in SYSTEMS}
        classes: dict[str, list[str]] = {"text": [], "image": []}
        for seed in range(seeds):
            mixture = _mixture(model, seed, held, folder)
            for kind in classes:
                questions = mixture.asked(kind, pictures)
                classes[kind] += [label for _, label in questions]
                for system in SYSTEMS:
                    values = [mixture.ndcg(questions, system, protocol) for protocol in PROTOCOLS]
                    found[kind, system].append(np.stack(values))
            _tell(f"corpus: {model.name}, split {seed + 1}/{seeds}")
        for (kind, system), values in found.items():
            base = found[kind, RAW]
            lines.append(_corpus_row(model.name, kind, system, values, base, classes[kind]))
    return "\n".join(lines)


def _corpus_row(
    name: str, kind: str, system: System, values: list[Floats], base: list[Floats], classes: Sequence[str]
) -> str:
    """One way to fuse. `values` and `base`: by split, (protocols, questions)."""
    head = np.stack([one[:2].mean(0) for one in values])  # (splits, questions)
    less = np.stack([one[:2].mean(0) for one in base])
    splits = head.mean(1)
    # The words are the same in every split, the pictures are not.
    gathered, taken = (head.mean(0), less.mean(0)) if kind == "text" else (head.ravel(), less.ravel())
    of = np.asarray(classes[: len(gathered)])
    by_class = np.asarray([(gathered - taken)[of == label].mean() for label in sorted(set(of))])
    own, gain = intervals(np.stack([gathered, gathered - taken]))
    (wide,) = intervals(by_class[None])
    shown = " | ".join(f"{np.mean([one[row].mean() for one in values]):.3f}" for row in range(len(PROTOCOLS)))
    row = f"| {name} | {kind} | {system.name} | {shown} | {head.mean():.3f} ({own.low:.3f}-{own.high:.3f}) "
    row += f"| {splits.min():.3f}-{splits.max():.3f} "
    if system is RAW:
        return row + "| | |"
    difference = (gathered - taken).mean()
    return (
        row
        + f"| {difference:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) | {wide.low:+.3f} to {wide.high:+.3f} |"
    )


def threshold(models: Sequence[Model], folder: Path, seeds: int, held: int) -> str:
    """One least match for all kinds of pairs."""
    lines = [
        "| index | pair | false | by split | true | raw's true at the same false | least true - raw | within 2-8 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        rates: dict[tuple[str, str], list[tuple[float, float, float]]] = {pair: [] for pair in PAIRS}
        cuts = []
        for seed in range(seeds):
            mixture = _mixture(model, seed, held, folder)
            for pair in PAIRS:
                match, raw, related = mixture.pairs(*pair)
                if pair == PAIRS[0]:
                    cuts.append(float(np.quantile(match[~related], 1 - SHARE)))
                wrong = float((match[~related] >= cuts[-1]).mean())
                right = float((match[related] >= cuts[-1]).mean())
                cut = np.quantile(raw[~related], 1 - wrong)
                rates[pair].append((wrong, right, float((raw[related] >= cut).mean())))
            _tell(f"threshold: {model.name}, split {seed + 1}/{seeds}")
        for (kind, part), values in rates.items():
            table = np.asarray(values)  # (splits, 3)
            wrong, right, plain = table.mean(0) * 100
            least, most = table[:, 0].min(), table[:, 0].max()
            inside = int(((table[:, 0] >= ALLOWED[0]) & (table[:, 0] <= ALLOWED[1])).sum())
            lines.append(
                f"| {model.name} | {kind}-{part} | {wrong:.1f} % | {100 * least:.1f}-{100 * most:.1f} | {right:.1f} % "
                f"| {plain:.1f} % | {100 * (table[:, 1] - table[:, 2]).min():+.1f} | {inside} of {seeds} |"
            )
        lines.append(
            f"| {model.name} | least match: {np.mean(cuts):.3f} ({min(cuts):.3f}-{max(cuts):.3f}) | | | | | | |"
        )
    return "\n".join(lines)


def nothing(models: Sequence[Model], folder: Path) -> str:
    """Whether the best result says that there is nothing of the kind."""
    asked = {
        "class names": PLAIN,
        "simple": [t for t, _ in phrasings() if t.startswith("a ") and "photo" not in t],
    }
    absent = {"far": FAR, "near": NEAR}
    lines = [
        "| index | neutral questions | there | not there | AUROC raw | AUROC match | difference (95 %) | match >= .5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        records = [bb.Record(f"p{place}", path) for place, path in enumerate(model.files)]
        path = model.index(folder / f"{model.name.replace(' ', '-')}-all.bower", records)
        for told, kind in ((f"all {len(bank())}", Index), (f"{len(fresh())}, none names these", Unaware)):
            index = kind.open(path, model.encoder)
            best = {name: _best(index, texts) for name, texts in {**asked, **absent}.items()}
            for there in asked:
                for away in absent:
                    raw, match, low, high = _apart(best[there], best[away])
                    shares = [(best[name][1] >= 0.5).mean() for name in (there, away)]
                    lines.append(
                        f"| {model.name} | {told} | {there} ({len(best[there][0])}) | {away} ({len(best[away][0])}) | "
                        f"{raw:.3f} | {match:.3f} | {match - raw:+.3f} ({low:+.3f} to {high:+.3f}) | "
                        f"{shares[0]:.2f}, {shares[1]:.2f} |"
                    )
        _tell(f"nothing: {model.name}")
    return "\n".join(lines)


def _best(index: Index, texts: Sequence[str]) -> tuple[Floats, Floats]:
    """The best raw score and the best match of each question."""
    queries = [Query((text,)) for text in texts]
    raw = [hits.scores.max() for hits in index.ask_all(queries, fusion="raw")]
    match = [hits.match.max() for hits in index.ask_all(queries)]
    return np.asarray(raw, float), np.asarray(match, float)


def _apart(there: tuple[Floats, Floats], away: tuple[Floats, Floats]) -> tuple[float, float, float, float]:
    """AUROC of raw score and match, and the 95 % interval of the difference, resampling both sets of questions."""
    rng = np.random.default_rng(0)
    won = [(p[:, None] > n) + 0.5 * (p[:, None] == n) for p, n in zip(there, away, strict=True)]
    less = won[1] - won[0]  # (there, away)
    rows, columns = (rng.integers(0, size, (2000, size)) for size in less.shape)
    drawn = [less[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(won[0].mean()), float(won[1].mean()), float(low), float(high)


_mixtures: dict[tuple[str, int], Mixture] = {}


def _mixture(model: Model, seed: int, held: int, folder: Path) -> Mixture:
    """Made once for all parts."""
    if (model.name, seed) not in _mixtures:
        _mixtures[model.name, seed] = Mixture.make(model, seed, held, folder)
    return _mixtures[model.name, seed]


def uncentred(folder: Path) -> Path:
    """Mini with the class vectors in place of the centred ones, as a model directory."""
    import onnx
    from onnx import numpy_helper

    shutil.copytree(Path(bb.__file__).parent / "models" / "mini", folder)
    (folder / "golden.npz").unlink()  # it proves another model
    labels = json.loads(LABELS.read_text("utf-8"))
    prompts = [prompt.format(label) for label in labels for prompt in PROMPTS]
    classes = bb.load("mini").embed(prompts).reshape(len(labels), len(PROMPTS), -1).mean(1)
    graph = onnx.load(folder / "onnx" / "vision_model.onnx")
    (place,) = (one for one in graph.graph.initializer if one.name == "alignment.fp16")
    place.CopyFrom(numpy_helper.from_array(gap.unit(classes).astype(np.float16), place.name))
    onnx.save(graph, folder / "onnx" / "vision_model.onnx")
    return folder


@contextmanager
def aside() -> Iterator[Path]:
    """A temporary folder, where the caches are too, unless `BOWERBIRD_CACHE_DIR` says where they shall be."""
    with tempfile.TemporaryDirectory() as name:
        caches = os.environ.get("BOWERBIRD_CACHE_DIR") or str(Path(name) / "cache")
        with patch.dict(os.environ, {"BOWERBIRD_CACHE_DIR": caches}):
            yield Path(name)


_started = time.perf_counter()


def _tell(what: str) -> None:
    print(f"{time.perf_counter() - _started:5.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("what", nargs="*", help=f"a folder of classes, and which of {', '.join(PARTS)}")
    arguments.add_argument("--seeds", type=int, default=5, help="splits of the photographs")
    arguments.add_argument("--held", type=int, default=200, help="photographs held out to ask with")
    arguments.add_argument("--pictures", type=int, default=40, help="of these, asked in the part corpus")
    given = arguments.parse_args()
    parts = [one for one in given.what if one in PARTS] or PARTS
    source = Path(next((one for one in given.what if one not in PARTS), SHARED / "clothing"))
    files = sorted(path for path in source.rglob("*.jpg") if path.parent.name in NAMES)
    if not files:
        print(f"Skipped: there are no photographs in folders called {', '.join(NAMES)} in {source}.")
        return
    labels = np.asarray([path.parent.name for path in files])
    with aside() as folder:
        models = [
            Model("mini", "mini", files, labels),
            Model("mini with a gap", str(uncentred(folder / "mini-uncentred")), files, labels),
        ]
        # As they are made: the run is long.
        if "corpus" in parts:
            print(corpus(models, folder, given.seeds, given.held, given.pictures), end="\n\n", flush=True)
        if "threshold" in parts:
            print(threshold(models, folder, given.seeds, given.held), end="\n\n", flush=True)
        if "nothing" in parts:
            print(nothing(models, folder), end="\n\n", flush=True)
    half = len(files) // 2
    report(
        f"{len(files)} photographs, in mixtures {half - given.held} as pictures, {given.held} held out and "
        f"{len(files) - half} described; {given.seeds} splits. {versions('bowerbird', 'numpy', 'pylance')}. "
        f"Took {time.perf_counter() - _started:.0f} s."
    )


if __name__ == "__main__":
    main()
