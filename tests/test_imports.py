"""`import bowerbird` is light, and its public names are what is documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bowerbird

HEAVY = (
    "onnxruntime",
    "openvino",
    "lance",
    "pyarrow",
    "PIL",
    "torch",
    "typer",
    "rich",
    "tokenizers",
    "huggingface_hub",
    "onnx",
    "numpy",
)

PUBLIC = {
    "__version__",
    "AsyncClient",
    "BowerbirdError",
    "Client",
    "Collection",
    "CrossEncoder",
    "DecodePolicy",
    "Encoder",
    "Failure",
    "fine_tune",
    "fit",
    "Hit",
    "Hits",
    "Index",
    "InputError",
    "InputErrors",
    "load",
    "Local",
    "LoRA",
    "losses",
    "Modality",
    "ModelCard",
    "Outcome",
    "pipeline",
    "Query",
    "Ray",
    "recipes",
    "Record",
    "samples",
    "ServiceError",
    "settings",
    "Steps",
}
"""A name more or less is a change of the public interface: CHANGELOG.md says so, and this list."""


def test_importing_loads_nothing_heavy():
    code = f"import sys, bowerbird; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_settings_stay_a_function_whatever_is_imported():
    code = "import bowerbird, bowerbird.settings, bowerbird.models.encoder; print(bowerbird.settings().model)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "mini"


def test_public_names():
    assert set(bowerbird.__all__) == PUBLIC
    assert len(bowerbird.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_documented(name):
    value = getattr(bowerbird, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(bowerbird)


def test_what_type_checkers_see_is_what_is_imported():
    tree = ast.parse(Path(bowerbird.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {(alias.name, node.module) for node in block.body for alias in node.names}
    names = {(name, f"bowerbird.{home}") for name, home in bowerbird._HOME.items()}
    modules = {(name, "bowerbird.learn") for name in bowerbird._MODULES}
    assert seen == names | modules


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bowerbird.nothing


def test_star_import():
    code = "from bowerbird import *; load; Index; settings"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
