"""Pictures: files of 500 px and of 12 MP through mini, against a plain loop of full decode and ONNX Runtime fp32."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import bowerbird as bb
from benchmarks import photographs
from benchmarks.peers import Peer
from benchmarks.side_by_side import ROUNDS, Contestant, alternate, report, table, timed, versions

POLICIES = ("auto", "exact", "fast")
BATCHES = (1, 16)


def compare(what: str, paths: list[Path], rounds: int) -> str:
    """The table for one set of files."""
    models = {policy: bb.load("mini", precision=policy) for policy in POLICIES}
    exact = models["exact"].embed(paths)
    contestants = []
    for policy, model in models.items():
        vectors = model.embed(paths)
        numerics = model.numerics()["image"]
        made_of = f"{numerics['engine']}, {numerics['precision']}, scaled decode {numerics['scaled']}"
        contestants.append(
            Contestant(
                f"bowerbird {policy}",
                timed(lambda model=model: model.embed(paths)),
                f"{made_of}; {versions('pillow')}",
                float((exact * vectors).sum(1).min()),
            )
        )
    tower = models["exact"].card.image
    assert tower
    with Peer("plain_loop", sys.executable) as loop, tempfile.TemporaryDirectory() as scratch:
        made_of = loop.ask(do="load", graph=str(tower.graph.path), output_name=tower.output)["versions"]
        names = [str(path) for path in paths]
        for batch in BATCHES:
            saved = Path(scratch, f"{batch}.npy")
            loop.ask(do="embed", paths=names, batch=batch, save=str(saved))
            contestants.append(
                Contestant(
                    f"plain loop, batch {batch}",
                    lambda batch=batch: float(loop.ask(do="embed", paths=names, batch=batch)["seconds"]),
                    made_of,
                    float((exact * np.load(saved)).sum(1).min()),
                )
            )
        alternate(contestants, rounds)
    return table(what, contestants, items=len(paths), base="bowerbird auto")


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--medium", type=int, default=200, help="photographs of 500 px; 0 leaves them out")
    arguments.add_argument("--large", type=int, default=24, help="photographs of 12 MP; 0 leaves them out")
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    given = arguments.parse_args()
    tables = []
    if given.medium:
        tables.append(compare("pictures, 500 px, mini", photographs.medium(given.medium), given.rounds))
    if given.large:
        tables.append(compare("pictures, 12 MP, mini", photographs.large(given.large), given.rounds))
    report("\n\n".join(tables) + "\n\nLeast cos: to bowerbird in `exact`.", rounds=given.rounds)


if __name__ == "__main__":
    main()
