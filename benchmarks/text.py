"""Text: 2,000 sentences of the lengths of STS-B through MiniLM, against sentence-transformers and fastembed.

The same weights everywhere, each library with its own defaults, fp32 in the peers.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import bowerbird as bb
from benchmarks.peers import Peer
from benchmarks.side_by_side import ROUNDS, Contestant, alternate, report, table, timed, versions

SUBJECTS = """a man; a woman; two dogs; a small child; the president; a group of people; the company; police;
an old man; the government of the country; a brown horse; three young women; the players; a black cat; scientists;
some tourists; a boy in a red shirt; the second largest bank; the band; a large bird; residents of the village"""
VERBS = """is playing; was riding; are standing beside; said it would sell; is slicing; were watching; has rejected;
are running towards; is holding; killed at least five people near; announced; is looking at; plans to rebuild;
was carrying; are dancing in front of; reported a loss on; is cutting; denied any part in; jumped over"""
OBJECTS = """a guitar; an onion; the old stone bridge; a football; a new trade agreement; the river; a bicycle;
the results of the election; a piece of bread; the wooden fence; its quarterly earnings; a camera; a cake;
the crowded market; a motorcycle; the peace talks; the burning building; a computer keyboard; the white van"""
TAILS = """on the beach; in the park; after a long night of heavy rain; on Tuesday morning; for the first time;
near the border; with both hands; while other people look on; according to officials; in a small kitchen;
last week; before the start of the second half; under a clear blue sky; despite strong objections from the opposition;
in the capital; because nobody had told them to stop; at the edge of a very deep lake; during the concert"""


def sentences(count: int, seed: int = 7) -> list[str]:
    """English-like sentences of 5 to 30 words, most of them short and a few long, as in STS-B; the same each time."""
    rng = random.Random(seed)
    parts = [[phrase.strip() for phrase in text.split(";")] for text in (SUBJECTS, VERBS, OBJECTS, TAILS)]
    subjects, verbs, objects, tails = parts
    made = []
    for _ in range(count):
        wanted = min(30, max(5, round(rng.lognormvariate(2.3, 0.45))))
        words = f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(objects)}".split()
        while len(words) < wanted:
            clause = rng.random() < 0.2
            more = f"and {rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(objects)}"
            words += (more if clause else rng.choice(tails)).split()
        made.append(" ".join(words[:wanted]).capitalize() + ".")
    return made


def local_model(directory: Path) -> Path:
    """The embedded model's text tower as a directory that fastembed takes; nothing is fetched."""
    source = Path(bb.load("mini").card.directory)
    directory.mkdir(parents=True)
    shutil.copy(source / "onnx" / "text_model.onnx", directory / "model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, directory / name)
    return directory


def least_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Over the rows of two sets of unit vectors."""
    return float((first.astype(np.float64) * second).sum(1).min())


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    given = arguments.parse_args()
    texts = sentences(given.count)
    model = bb.load("mini")
    exact = bb.load("mini", precision="exact").embed(texts)
    ours = Contestant(
        "bowerbird", timed(lambda: model.embed(texts)), cosine=least_cosine(exact, model.embed(texts))
    )
    engine = model.numerics()["text"]
    ours.versions = f"{engine['engine']}, {engine['precision']}; {versions('tokenizers')}"
    contestants = [ours]
    with (
        tempfile.TemporaryDirectory() as scratch,
        Peer("sentence_transformers") as transformers,
        Peer("fastembed") as fastembed,
    ):
        path = Path(scratch, "texts.json")
        path.write_text(json.dumps(texts), "utf-8")
        directory = local_model(Path(scratch, "model"))
        for name, peer in (("sentence-transformers", transformers), ("fastembed", fastembed)):
            made_of = peer.ask(do="load", path=str(path), directory=str(directory))["versions"]
            vectors = Path(scratch, f"{name}.npy")
            peer.ask(do="embed", save=str(vectors))
            contestants.append(
                Contestant(
                    name,
                    lambda peer=peer: float(peer.ask(do="embed")["seconds"]),
                    made_of,
                    least_cosine(exact, np.load(vectors)),
                )
            )
        alternate(contestants, given.rounds)
    words = [len(text.split()) for text in texts]
    print(
        f"{len(texts)} sentences of {min(words)}-{max(words)} words, mean {np.mean(words):.1f}.",
        file=sys.stderr,
    )
    body = table(f"text, {len(texts):,} sentences, MiniLM", contestants, items=len(texts), base=ours.name)
    report(f"{body}\n\nLeast cos: to bowerbird in `exact` (fp32).", rounds=given.rounds)


if __name__ == "__main__":
    main()
