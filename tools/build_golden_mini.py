"""Compute the proof that `mini` carries, `golden.npz`, with the original PyTorch networks.

    pip install numpy==2.4.6 onnx==1.23.2 protobuf==7.36.2 torch==2.13.0 safetensors==0.8.0 tokenizers==0.23.3 \
        transformers==5.23.0 pillow
    python tools/build_golden_mini.py                # downloads the wheels, writes src/bowerbird/models/mini/golden.npz
    python tools/build_golden_mini.py --wheels DIR -o FILE

Nothing here goes through Bowerbird or through ONNX: pictures are decoded and prepared with Pillow and float32
arithmetic as the published network wants them, EfficientNet-Lite0 is the module of `efficientnet_lite_pytorch` with its
published weights, MiniLM is transformers' `BertModel`, everything in float32. `build_mini.py` gives the recipe that
places a picture among sentences, which defines mini. The weights that mini ships are rounded to 16 bits; what that may
cost is written into the file as `bound`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

from build_mini import (
    IMAGE_SIZE,
    LABELS,
    MAX_TOKENS,
    TEMPERATURE,
    TEXT_FILES,
    VISION_WEIGHTS,
    WHEELS,
    Material,
    alignment_matrix,
    class_embeddings,
    download,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from bowerbird import __version__  # noqa: E402
from bowerbird.judge.golden import Golden, PictureGolden, TextGolden  # noqa: E402

PROBE = ROOT / "src" / "bowerbird" / "models" / "probe"
DEFAULT_OUTPUT = ROOT / "src" / "bowerbird" / "models" / "mini" / "golden.npz"
SHORT_SIDE = 256
BOUND = 0.99999
"""Least cosine that 16-bit weights may leave; see the README of mini."""

MORE_TEXTS = ("", "  Tabs\tand\nlines, Übergröße, 東京 and 👗 ", "word " * 300)
"""Nothing, odd characters, and more tokens than the model reads."""


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Upright RGB, (h, w, 3)."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def pixel_values(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Short side 256 bicubic, centre 224, (x - 127) / 128: (3, 224, 224) float32."""
    image = Image.fromarray(pixels)
    short, long = sorted(image.size)
    other = int(SHORT_SIDE * long / short)
    size = (SHORT_SIDE, other) if image.width <= image.height else (other, SHORT_SIDE)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - IMAGE_SIZE) // 2, (image.height - IMAGE_SIZE) // 2
    crop = np.asarray(image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)))
    values: NDArray[np.float32] = (crop.astype(np.float32).transpose(2, 0, 1) - 127) / 128
    return values


def efficientnet(wheels: Path, material: Material) -> torch.nn.Module:
    """The published module with the published weights; its code is imported from the wheel."""
    sys.path.insert(0, str(wheels / WHEELS["efficientnet_lite_pytorch==0.1.0"][0]))
    from efficientnet_lite_pytorch import EfficientNet

    network: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(io.BytesIO(material.read(VISION_WEIGHTS)), weights_only=True, map_location="cpu")
    network.load_state_dict(state)
    return network.eval()


def minilm(material: Material) -> BertModel:
    """Transformers' BERT with the published weights."""
    config = BertConfig(**json.loads(material.read(TEXT_FILES + "config.json")))
    network = BertModel(config, add_pooling_layer=False)
    weights = load_safetensors(material.read(TEXT_FILES + "model.safetensors"))
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    missing, unexpected = network.load_state_dict(kept, strict=False)
    if missing or set(unexpected) - {"embeddings.position_ids"}:
        raise SystemExit(f"MiniLM's weights do not fit BertModel: {missing} {unexpected}")
    return network.eval()


def pictures(network: torch.nn.Module, alignment: NDArray[np.float64]) -> tuple[PictureGolden, ...]:
    """Every shipped probe photograph; `raw` is the 1,280 features, which come before the shared space."""
    place = torch.from_numpy(alignment).float()
    found = []
    for path in sorted(PROBE.glob("*.jpg")):
        data = path.read_bytes()
        pixels = decoded(data)
        values = pixel_values(pixels)
        batch = torch.from_numpy(values)[None]
        features = network.extract_features(batch).mean(dim=(2, 3))
        vector = torch.softmax(network(batch) / TEMPERATURE, dim=-1) @ place
        found.append(
            PictureGolden(
                name=path.name,
                sha256=hashlib.sha256(data).hexdigest(),
                decoded=pixels,
                pixel_values=values,
                raw=features[0].numpy(),
                pooled=vector[0].numpy(),
                unit=torch.nn.functional.normalize(vector)[0].numpy(),
            )
        )
    return tuple(found)


def texts(network: BertModel, material: Material) -> tuple[TextGolden, ...]:
    """The shipped sentences and a few odd texts, one at a time: no padding is involved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(material.read(TEXT_FILES + "tokenizer.json"))
        tokenizer = BertTokenizerFast(tokenizer_file=str(path))
    found = []
    for text in (*(PROBE / "sentences.txt").read_text("utf-8").splitlines(), *MORE_TEXTS):
        feeds = tokenizer(text, truncation=True, max_length=MAX_TOKENS, padding=False, return_tensors="pt")
        mean = network(**feeds).last_hidden_state.mean(dim=1)
        found.append(
            TextGolden(
                text=text,
                role="",
                input_ids=feeds["input_ids"][0].numpy(),
                # mini's text graph ends in the unit vector, as the published pipeline does.
                pooled=torch.nn.functional.normalize(mean)[0].numpy(),
                unit=torch.nn.functional.normalize(mean)[0].numpy(),
            )
        )
    return tuple(found)


def build(wheels: Path) -> Golden:
    """All reference arrays."""
    material = Material(wheels)
    labels = json.loads(LABELS.read_text("utf-8"))
    tokenizer = Tokenizer.from_str(material.read(TEXT_FILES + "tokenizer.json").decode("utf-8"))
    alignment = alignment_matrix(class_embeddings(material.text_weights(), tokenizer, labels))
    packages = ("torch", "transformers", "tokenizers", "pillow", "numpy")
    meta = {
        "model": "mini",
        "profile": "hf4-pil",
        "made_with": {name: version(name) for name in packages} | {"efficientnet_lite_pytorch": "0.1.0"},
        "bowerbird": __version__,
        "bound": {"raw": BOUND, "pooled": BOUND, "unit": BOUND},
        "why_bound": "the shipped weights are rounded to 16 bits",
    }
    with torch.inference_mode():
        return Golden(
            meta, pictures(efficientnet(wheels, material), alignment), texts(minilm(material), material)
        )


def main() -> int:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(
        description="Compute mini's reference arrays with the original networks."
    )
    parser.add_argument("--wheels", type=Path, help="folder with the three wheels (default: download them)")
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUTPUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        golden = build(options.wheels or download(Path(folder)))
    golden.write(options.output, compact=True)
    print(
        f"{options.output}: {len(golden.pictures)} pictures, {len(golden.texts)} texts, "
        f"{options.output.stat().st_size} bytes"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
