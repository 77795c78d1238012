"""docs/parity.md: a small network of every family, exported and held against the stack it came from.

    pip install -e '.[export]' timm open_clip_torch sentence-transformers
    python tools/make_parity.py > networks.md

Each family of `tests/origin/tiny.py` is built with random weights, exported by `bowerbird export`, and verified from
file to vector against what the original stack, with its own processor and tokeniser, computes for the shipped
photographs and sentences. Prints Markdown.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
import tempfile
from pathlib import Path

from bowerbird.judge.verify import verify
from bowerbird.models.encoder import load
from bowerbird.models.network.engine import ENGINES
from bowerbird.origin.export import export
from bowerbird.origin.request import Request

TINY = Path(__file__).resolve().parents[1] / "tests" / "origin" / "tiny.py"


def families() -> dict[str, object]:
    """The builders of the tests."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(TINY)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return {"build": module.build, "names": list(module.FAMILIES)}


def row(family: str, build: object, folder: Path) -> str:
    """One family, exported and verified."""
    exported = export(str(build(family, folder / family)), folder / f"{family}-onnx", Request())  # type: ignore[operator]
    graph = max(exported.agreements, key=lambda a: a.max_error)
    report = verify(load(str(exported.directory), precision="exact"))
    through = [stage for stage in report.stages if stage.run == "through" and stage.stage == "unit"]
    pixels = [stage for stage in report.stages if stage.stage in ("decoded", "pixel values", "tokens")]
    equal = all(not stage.error for stage in pixels)
    error = max(stage.error or 0.0 for stage in through)
    cosine = min(1.0 if stage.cosine is None else stage.cosine for stage in through)
    cells = (
        family,
        exported.stack,
        "equal" if equal else "differ",
        f"{graph.max_error:.1e} in `{graph.output}`",
        f"{error:.1e}",
        f"{1 - cosine:.0e}" if cosine < 1 else "0",
        "agrees" if report.ok else "DIFFERS",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    tiny = families()
    print(
        "| family | stack | pixels and tokens | graph, largest error | vector, largest error | 1 - cosine | verify |"
    )
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for family in tiny["names"]:  # type: ignore[attr-defined]
            print(row(family, tiny["build"], Path(folder)), flush=True)
    print(f"\nONNX Runtime in fp32 ({ENGINES['onnxruntime'].label()}); {platform.machine()}.")


if __name__ == "__main__":
    main()
