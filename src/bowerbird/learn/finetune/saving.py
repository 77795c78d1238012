"""A tuned model becomes a model directory: exported and checked as any original is, with what a report needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, LearnError
from bowerbird.judge.golden import FILE_NAME
from bowerbird.learn.finetune.classify import in_its_place, with_layer, write_names
from bowerbird.learn.run import kept
from bowerbird.origin.export import Exported, all_or_nothing, export_opened, prepared_probes
from bowerbird.origin.original import Original
from bowerbird.origin.scripts import write_script

if TYPE_CHECKING:
    from bowerbird.learn.finetune.tune import Tuned

FORMATS = ("onnx", "torchscript")

_LOGS = ("metrics.csv", "steps.csv")


def save(
    tuned: Tuned, directory: str | Path, *, format: str = "onnx", keep_weights: bool = False
) -> Exported:
    """Write a tuned model; see `Tuned.save`."""
    if format not in FORMATS:
        raise BowerbirdError(f"There is no format {format!r}.", hint=f"Use {' or '.join(FORMATS)}.")
    target = Path(directory).expanduser()
    original = replace(tuned.original, name=target.resolve().name, notes=_notes(tuned))
    if tuned.layer:
        original = with_layer(original, tuned.layer)
    if keep_weights and original.save_weights is None:
        raise LearnError(f"Weights of {original.stack} cannot be kept for PyTorch.", hint="Leave them out.")
    with all_or_nothing(target) as draft:
        done = export_opened(original, draft) if format == "onnx" else _scripts(original, draft)
        if tuned.classes and tuned.layer:
            write_names(draft, tuned.classes)
        if keep_weights:
            _keep_weights(tuned, draft)
        for name, content in {**kept(tuned.account, tuned.held_out), **_logs(tuned)}.items():
            (draft / name).write_bytes(content)
        (draft / "README.md").write_text(_readme(tuned, original.name), "utf-8")
    return replace(done, directory=target)


def _notes(tuned: Tuned) -> dict[str, Any]:
    """What `bowerbird.json` says: the model's own, what it was tuned on, and what its scores mean."""
    account = tuned.account
    fitted = {"recipe": account.recipe, "source": account.source, "pairs": account.counts.get("pairs", 0)}
    told = {"calibration": tuned.calibration.to_dict()} if tuned.calibration else {}
    return {**tuned.original.notes, "fitted": fitted, **told}


def _scripts(original: Original, draft: Path) -> Exported:
    """TorchScript in the place of graphs."""
    original.write(draft)
    for tower in original.towers:
        side = "image" if tower is original.image else "text"
        write_script(tower, prepared_probes(original, tower), draft / f"{side}.pt")
    why = f"{FILE_NAME} is for models that bowerbird runs by itself, from ONNX."
    return Exported(draft, original.stack, dict(original.made_with), (), None, why, 0.0)


def _keep_weights(tuned: Tuned, draft: Path) -> None:
    """The weights for PyTorch; a classifier's with its new final layer, where it has a place for one."""
    original = tuned.original
    assert original.save_weights is not None
    names = {path: path.read_bytes() for path in draft.rglob("config.json")}
    placed = (
        in_its_place(original.image, tuned.scores, tuned.layer)
        if tuned.layer and original.image
        else nullcontext(False)
    )
    with placed:
        original.save_weights(draft)
    # What the stack wrote once more does not know the names of the classes.
    for path, content in names.items():
        path.write_bytes(content)


def _logs(tuned: Tuned) -> dict[str, bytes]:
    if tuned.folder is None:
        return {}
    return {name: (tuned.folder / name).read_bytes() for name in _LOGS if (tuned.folder / name).is_file()}


def _readme(tuned: Tuned, name: str) -> str:
    """A model card, as the hub reads it."""
    account = tuned.account
    bases = list(dict.fromkeys(account.models.values()))
    lines = ["---", "library_name: bowerbird", "base_model:", *(f"- {base}" for base in bases), "---", ""]
    lines += [
        f"# {name}",
        "",
        f"Tuned with Bowerbird: `{account.recipe}`, on {_counted(account.counts)}.",
        "",
    ]
    part = tuned.held_out.part
    lines += [f"| on the {part} set | before | after |", "|---|---|---|"]
    for direction, measures in tuned.recall.items():
        for measure, figure in measures.items():
            old = tuned.before.get(direction, {}).get(measure)
            said = "" if old is None else f"{old['mean']:.3f}"
            lines.append(f"| {direction} {measure} | {said} | {figure['mean']:.3f} |")
    lines += [
        "",
        "The licence of the model it was made from applies; what it was tuned on may add to that.",
        "",
    ]
    lines += [
        "```",
        "bowerbird verify .          # it computes what PyTorch does",
        "bowerbird report .",
        "```",
        "",
    ]
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return f"{counts.get('train', 0):,} of {counts.get('pictures', 0):,} pictures"
