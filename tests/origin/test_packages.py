"""What works without any of the original stacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bowerbird.errors import MissingExtraError
from bowerbird.origin.export import export
from bowerbird.origin.packages import has


def test_importing_the_flow_loads_no_stack():
    code = (
        "import sys, bowerbird.origin, bowerbird.origin.export, bowerbird.origin.source; "
        "print([m for m in ('torch','transformers','timm','open_clip','onnx','onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("source", "module", "command"),
    [
        ("timm:resnet18", "timm", "pip install timm"),
        ("torchvision:resnet18", "torchvision", "pip install torchvision"),
        ("open_clip:ViT-B-32/openai", "open_clip", "pip install open_clip_torch"),
    ],
)
def test_a_missing_stack_names_its_command(tmp_path, source, module, command):
    if has(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(MissingExtraError) as error:
        export(source, tmp_path / "out")
    assert error.value.hint == f"Run: {command}"


@pytest.mark.skipif(has("transformers"), reason="transformers is installed")
def test_the_extra_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(MissingExtraError) as error:
        export(str(tmp_path), tmp_path / "out")
    assert error.value.hint == "Run: pip install 'bowerbird[export]'"
