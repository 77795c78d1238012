"""README.md of a fitted model: what it was made of, in front matter and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bowerbird.learn.heads import Head, Heads
from bowerbird.learn.script import Script
from bowerbird.models.encoder import Encoder


def readme_of(
    name: str,
    heads: Heads,
    bases: Mapping[str, Encoder],
    license: str,
    scripts: Sequence[Script] = (),
    more: str = "",
) -> str:
    """The model card.

    Args:
        name: of the model.
        heads: what was fitted.
        bases: by tower, what is below them.
        license: of the bases; empty where their files do not say.
        scripts: TorchScript files beside the graphs.
        more: Markdown that follows: figures, data, limits.
    """
    sources = list(dict.fromkeys(base.card.name for base in bases.values()))
    front = [f"license: {license}"] if license else []
    front += ["library_name: bowerbird", "pipeline_tag: feature-extraction", "base_model:"]
    front += [f"- {json.dumps(source)}" for source in sources]
    lines = ["---", *front, "---", "", f"# {_line(name)}", ""]
    lines += ["A model fitted with Bowerbird: a head on each of these frozen towers.", ""]
    lines += ["| tower | base | reads | numbers in the head |", "|---|---|---|---|"]
    for tower, head in (("pictures", heads.image), ("texts", heads.text)):
        base = bases.get("image" if tower == "pictures" else "text")
        if head and base:
            lines.append(f"| {tower} | {_cell(base.card.name)} | {_reads(head)} | {head.parameters:,} |")
    licenses = {base.card.name: base.card.license or "not said in its files" for base in bases.values()}
    told = "; ".join(f"{_line(source)}: {said}" for source, said in licenses.items())
    lines += ["", f"Licences of the bases: {told}. What it was fitted on may add conditions of its own.", ""]
    lines += ["```", "bowerbird verify .          # it computes what was learned", "```", ""]
    for script in scripts:
        takes = ", ".join(f"`{_cell(name)}`" for name in script.inputs)
        what = "the tower with its head" if not script.why else f"the head alone, since {_line(script.why)}"
        rows = " (unit rows of the base)" if script.why else ""
        lines += [f"`{script.file}`, TorchScript: {what}; it takes {takes}{rows} and gives unit vectors.", ""]
    return "\n".join(lines) + (f"\n{more.strip()}\n" if more.strip() else "")


def _reads(head: Head) -> str:
    return ", ".join(f"`{_cell(tensor)}`" for tensor in head.tensors)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
