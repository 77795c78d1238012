"""`verify` against goldens that were tampered with: it names the stage, the item and the fault."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.errors import BowerbirdError, ModelFormatError
from bowerbird.judge.golden import Golden, PictureGolden, TextGolden
from bowerbird.judge.report import Report
from bowerbird.judge.verify import verify
from bowerbird.models.vision.steps import Steps

MINI = Path(bb.__file__).parent / "models" / "mini" / "golden.npz"
RIGHT = "resize short side 256 bicubic -> centre crop 224x224 -> x * 0.0078125, mean 0.9921875, std 1"


@pytest.fixture(scope="module")
def golden() -> Golden:
    """Two photographs that are not square, a sentence and the odd texts."""
    whole = Golden.read(MINI)
    return Golden(whole.meta, whole.pictures[2:4], whole.texts[-4:])


@pytest.fixture(scope="module")
def exact(private_places: Path) -> bb.Encoder:
    return bb.load("mini", precision="exact")


def changed(
    golden: Golden,
    picture: Callable[[PictureGolden], PictureGolden] = lambda one: one,
    text: Callable[[TextGolden], TextGolden] = lambda one: one,
) -> Golden:
    return Golden(golden.meta, tuple(map(picture, golden.pictures)), tuple(map(text, golden.texts)))


def judged(exact: bb.Encoder, golden: Golden, *inputs: Path) -> Report:
    return verify(exact, golden, inputs, checks=False)


def verdicts(report: Report, tower: str, run: str = "alone") -> dict[str, str]:
    return {s.stage: s.verdict for s in report.stages if s.tower == tower and s.run == run}


def test_mini_is_what_it_was_built_from(model: bb.Encoder) -> None:
    report = verify(model)
    assert report.ok
    assert report.first is None
    assert not report.problems
    assert report.reference.path == str(MINI)
    assert report.reference.made_with.keys() >= {"torch", "transformers", "efficientnet_lite_pytorch"}
    assert verdicts(report, "image") == {
        "decoded": "exact",
        "pixel values": "exact",
        "raw": "within bound",
        "pooled": "within bound",
        "unit": "within bound",
    }
    assert verdicts(report, "text")["tokens"] == "exact"
    assert {s.precision for s in report.stages if s.run == "through"} == {"exact", model.precision}
    unit = [s for s in report.stages if s.run == "through" and s.precision == "exact"]
    assert min(s.cosine for s in unit) >= 0.99999
    assert {c.tower: c.verdict != "DIFFERS" for c in report.checks} == {"image": True, "text": True}


FAULTS = {
    "BGR": f"{RIGHT}, bgr",
    "nearest": RIGHT.replace("bicubic", "nearest"),
    "bilinear": RIGHT.replace("bicubic", "bilinear"),
    "squash": "resize 224x224 bicubic -> x * 0.0078125, mean 0.9921875, std 1",
    "ImageNet mean/std": "resize short side 256 bicubic -> centre crop 224x224 -> "
    "x * 1/255, mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]",
    "[0,1]": "resize short side 256 bicubic -> centre crop 224x224 -> x * 1/255",
    "0..255": "resize short side 256 bicubic -> centre crop 224x224 -> x * 1",
    "crop share 1": RIGHT.replace("256", "224"),
    "crop share 0.8": RIGHT.replace("256", "280"),
    "other rounding": "resize short side 256 bicubic, rounded -> centre crop 224x224, half to even "
    "-> x * 0.0078125, mean 0.9921875, std 1",
}


KEYS = {
    "BGR": "do_flip_channel_order",
    "nearest": "resample",
    "bilinear": "interpolation",
    "squash": "do_center_crop",
    "ImageNet mean/std": "image_mean",
    "[0,1]": "image_std",
    "0..255": "rescale_factor",
    "crop share 1": "size",
    "crop share 0.8": "crop_pct",
    "other rounding": "",
}


def prepared(recipe: str, photographs: dict[str, Path], name: str) -> np.ndarray:
    steps = Steps.parse(recipe)
    with Image.open(photographs[Path(name).stem]) as image:
        return steps.feeds([steps.pixels(image.convert("RGB"))])["pixel_values"][0]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_condition_is_named(
    golden: Golden, exact: bb.Encoder, photographs: dict[str, Path], fault: str
) -> None:
    def tampered(picture: PictureGolden) -> PictureGolden:
        return dataclasses.replace(picture, pixel_values=prepared(FAULTS[fault], photographs, picture.name))

    only = Golden(golden.meta, changed(golden, tampered).pictures)
    report = judged(exact, only)
    assert not report.ok
    assert (report.first.tower, report.first.stage, report.first.run) == ("image", "pixel values", "alone")
    assert (report.diagnosis.fault, report.diagnosis.complete) == (fault, True)
    assert "all pixel values are equal" in report.diagnosis.sentence
    assert KEYS[fault] in report.diagnosis.key
    assert report.diagnosis.steps == RIGHT
    assert verdicts(report, "image")["decoded"] == "exact"
    assert verdicts(report, "image", "through") == {
        "unit": "within bound"
    }  # the vectors were left as they are


def test_a_crop_that_is_off_by_one_pixel(
    golden: Golden, exact: bb.Encoder, photographs: dict[str, Path]
) -> None:
    """Cut here by hand, from a larger crop."""

    def tampered(picture: PictureGolden) -> PictureGolden:
        with Image.open(photographs[Path(picture.name).stem]) as image:
            width, height = image.size
            short = min(width, height)
            size = (int(256 * width / short), int(256 * height / short))
            resized = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - 224) // 2 + 1, (size[1] - 224) // 2 + 1
        crop = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
        return dataclasses.replace(picture, pixel_values=(crop.transpose(2, 0, 1) - 127) / 128)

    report = judged(exact, Golden(golden.meta, changed(golden, tampered).pictures))
    assert report.first.stage == "pixel values"
    assert (report.diagnosis.fault, report.diagnosis.complete) == ("crop + 1 px", True)
    assert report.first.worst.levels > 50


def test_values_that_no_fault_explains(golden: Golden, exact: bb.Encoder) -> None:
    def tampered(picture: PictureGolden) -> PictureGolden:
        return dataclasses.replace(picture, pixel_values=picture.pixel_values[:, ::-1].copy())

    report = judged(exact, Golden(golden.meta, changed(golden, tampered).pictures))
    assert report.diagnosis.fault == ""
    assert "None of the known faults" in report.diagnosis.sentence


def test_a_fault_that_is_not_clearly_closer_is_not_named(
    golden: Golden, exact: bb.Encoder, photographs: dict[str, Path]
) -> None:
    """Values that are two thirds of the way to BGR are not BGR."""

    def tampered(picture: PictureGolden) -> PictureGolden:
        bgr = prepared(FAULTS["BGR"], photographs, picture.name)
        mixed = picture.pixel_values + np.float32(0.67) * (bgr - picture.pixel_values)
        return dataclasses.replace(picture, pixel_values=mixed)

    report = judged(exact, Golden(golden.meta, changed(golden, tampered).pictures))
    assert (report.diagnosis.fault, report.diagnosis.key) == ("", "")
    assert report.diagnosis.after < report.diagnosis.before / 2
    assert "None of the known faults" in report.diagnosis.sentence


@pytest.mark.parametrize(
    ("tamper", "stage", "fault"),
    [
        (lambda p: dataclasses.replace(p, decoded=decoded_of(p)[..., ::-1]), "decoded", "BGR"),
        (lambda p: dataclasses.replace(p, raw=p.raw + np.float32(1)), "raw", None),
        (lambda p: dataclasses.replace(p, pooled=p.pooled[::-1].copy()), "pooled", "network"),
        (lambda p: dataclasses.replace(p, pooled=p.pooled * 40), "pooled", "length"),
        (
            lambda p: dataclasses.replace(p, pooled=p.pooled[:100]),
            "pooled",
            "other output",
        ),
        (lambda p: dataclasses.replace(p, unit=p.pooled), "unit", None),
    ],
)
def test_each_stage_is_judged_alone(
    golden: Golden,
    exact: bb.Encoder,
    tamper: Callable[[PictureGolden], PictureGolden],
    stage: str,
    fault: str,
) -> None:
    report = judged(exact, Golden(golden.meta, changed(golden, tamper).pictures))
    assert (report.first.stage, report.first.run) == (stage, "alone")
    assert (report.diagnosis.fault if report.diagnosis else None) == fault


def decoded_of(picture: PictureGolden) -> np.ndarray:
    folder = Path(bb.__file__).parent / "models" / "probe"
    return np.asarray(Image.open(folder / picture.name).convert("RGB"))


@pytest.mark.parametrize(
    ("ids", "fault"),
    [
        (lambda ids: ids[1:-1], "special tokens"),
        (lambda ids: np.append(ids, [0] * (64 - len(ids))) if len(ids) < 64 else ids, "padding"),
        (lambda ids: np.append(ids[:127], ids[-1]) if len(ids) > 128 else ids, "truncation"),
        (lambda ids: ids[::-1], ""),
    ],
)
def test_tokens_are_judged(
    golden: Golden, exact: bb.Encoder, ids: Callable[[np.ndarray], np.ndarray], fault: str
) -> None:
    texts = changed(golden, text=lambda one: dataclasses.replace(one, input_ids=ids(one.input_ids))).texts
    report = judged(exact, Golden(golden.meta, (), texts))
    assert (report.first.tower, report.first.stage) == ("text", "tokens")
    assert report.diagnosis.fault == fault


def test_another_pooling_is_named(golden: Golden, exact: bb.Encoder) -> None:
    from bowerbird.judge.walk import TextWalk

    walk = TextWalk(exact.text)

    def by_cls(text: TextGolden) -> TextGolden:
        tokens = walk.tokens(text.text)
        vector = walk.raw(tokens, np.empty((len(tokens.ids), 384)))[0]
        return dataclasses.replace(text, pooled=vector, unit=vector / np.linalg.norm(vector))

    report = judged(exact, Golden(golden.meta, (), changed(golden, text=by_cls).texts))
    assert (report.first.stage, report.diagnosis.fault) == ("pooled", "cls pooling")


def test_files_are_found_by_their_bytes_then_by_their_name(
    golden: Golden, exact: bb.Encoder, photographs: dict[str, Path], tmp_path: Path
) -> None:
    cat = next(picture for picture in golden.pictures if picture.name == "chelsea.jpg")
    kept = dataclasses.replace(cat, decoded=decoded_of(cat), sha256="0" * 64)
    alone = Golden(golden.meta, (kept,))
    without = judged(exact, alone)
    assert verdicts(without, "image")["decoded"] == "not compared"  # the reference's own pixels start
    assert verdicts(without, "image")["pixel values"] == "exact"
    assert without.ok

    (tmp_path / "chelsea.jpg").write_bytes(photographs["chelsea"].read_bytes())
    named = judged(exact, alone, tmp_path / "chelsea.jpg")
    assert verdicts(named, "image")["decoded"] == "exact"
    assert "Other bytes" in named.problems[0].message

    renamed = tmp_path / "cat.jpg"
    renamed.write_bytes(photographs["chelsea"].read_bytes())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing more")
    found = judged(
        exact, Golden(golden.meta, (cat,)), renamed, photographs["rocket"], broken, tmp_path / "none.png"
    )
    assert verdicts(found, "image")["decoded"] == "exact"
    assert {Path(problem.name).name for problem in found.problems} == {"rocket.jpg", "broken.jpg", "none.png"}


def test_a_reference_that_ignored_exif(
    golden: Golden, exact: bb.Encoder, photographs: dict[str, Path], tmp_path: Path
) -> None:
    stream = io.BytesIO()
    image = Image.open(photographs["coffee"])
    exif = Image.Exif()
    exif[274] = 6
    image.save(stream, "JPEG", exif=exif, quality=95)
    lying = np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB"))
    picture = dataclasses.replace(
        golden.pictures[0],
        name="turned.jpg",
        sha256=hashlib.sha256(stream.getvalue()).hexdigest(),
        decoded=lying,
    )
    path = tmp_path / "turned.jpg"
    path.write_bytes(stream.getvalue())
    report = judged(exact, Golden(golden.meta, (picture,)), path)
    assert (report.first.stage, report.diagnosis.fault, report.diagnosis.complete) == (
        "decoded",
        "EXIF ignored",
        True,
    )


def test_without_a_reference_a_model_is_held_against_itself(
    private_places: Path, photographs: dict[str, Path], tmp_path: Path
) -> None:
    directory = copy_of_mini(tmp_path)
    encoder = bb.load(str(directory), precision="auto")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    large = tmp_path / "large.jpg"
    Image.open(photographs["coffee"]).resize((2400, 1600)).save(large)
    report = verify(encoder, inputs=[large, broken, "a text of mine"])
    assert report.reference is None
    assert report.stages == ()
    assert [(check.tower, check.stage) for check in report.checks] == [
        ("image", "alone or in a batch"),
        ("image", "auto or exact"),
        ("image", "scaled or full decode"),
        ("text", "alone or in a batch"),
        ("text", "auto or exact"),
    ]
    assert report.ok
    assert [Path(problem.name).name for problem in report.problems] == ["broken.png"]
    assert report.checks[3].items[0].name == '"a text of mine"'
    (scaled,) = report.checks[2].items
    assert scaled.name == str(large)
    assert 0.997 <= scaled.cosine < 1


def copy_of_mini(tmp_path: Path) -> Path:
    directory = tmp_path / "copy"
    shutil.copytree(MINI.parent, directory, ignore=shutil.ignore_patterns("golden.npz"))
    return directory


def test_a_model_whose_files_are_wrong_is_found_out(
    golden: Golden, private_places: Path, tmp_path: Path
) -> None:
    """The other way round: the reference is right, and the model's own configuration is not."""
    directory = copy_of_mini(tmp_path)
    config = directory / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"resample": 3', '"resample": 2'))
    report = judged(bb.load(str(directory), precision="exact"), golden)
    assert (report.first.stage, report.diagnosis.fault) == ("pixel values", "bicubic")
    assert verdicts(report, "image", "through")["unit"] == "DIFFERS"
    assert verdicts(report, "text")["pooled"] == "within bound"


def test_a_report_is_plain_data(golden: Golden, exact: bb.Encoder) -> None:
    tampered = changed(golden, lambda p: dataclasses.replace(p, pooled=p.pooled[:9]))
    report = judged(exact, Golden(golden.meta, tampered.pictures[:1]))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["ok"] is False
    assert data["first"] == {"tower": "image", "stage": "pooled", "run": "alone"}
    assert data["stages"][3]["items"][0]["note"] == "shape 384 against 9"


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="bowerbird golden"):
        verify("mini", tmp_path / "none.npz")
    with pytest.raises(BowerbirdError, match="nothing-there"):
        verify("nothing-there")


def test_an_input_that_the_network_refuses(golden: Golden, exact: bb.Encoder) -> None:
    picture = dataclasses.replace(golden.pictures[0], pixel_values=np.zeros((3, 96, 96), np.float32))
    report = judged(exact, Golden(golden.meta, (picture,)))
    assert (report.first.stage, report.first.worst.note) == (
        "pixel values",
        "shape 3x224x224 against 3x96x96",
    )
    assert report.diagnosis.fault == "other size"
    assert "takes 3x96x96, this model 3x224x224" in report.diagnosis.sentence
    pooled = next(stage for stage in report.stages if stage.stage == "pooled")
    assert "ONNX Runtime failed" in pooled.worst.note


def test_roles_and_towers_that_the_model_does_not_have(golden: Golden, tmp_path: Path) -> None:
    texts = (dataclasses.replace(golden.texts[0], role="haiku"), golden.texts[1])
    report = judged(bb.load("mini", precision="exact"), Golden(golden.meta, (), texts))
    assert not report.ok
    assert report.first is None
    assert "haiku" in report.problems[0].message
    alone = judged(of_texts(), Golden(golden.meta, golden.pictures))
    assert not alone.ok
    assert alone.compared == 0
    assert "takes none" in alone.problems[0].message


def of_texts() -> bb.Encoder:
    """mini without its picture half."""
    return bb.Encoder(dataclasses.replace(bb.load("mini").card, image=None), precision="exact")


def test_half_a_model_is_not_the_original(golden: Golden, private_places: Path) -> None:
    report = judged(of_texts(), golden)
    assert report.first is None
    assert report.compared > 0
    assert not report.ok
    assert [(problem.name, problem.fails) for problem in report.problems] == [("pictures", True)]


@pytest.fixture(scope="module")
def broken(private_places: Path, tmp_path_factory: pytest.TempPathFactory) -> bb.Encoder:
    """mini, whose picture network gives only NaN."""
    onnx = pytest.importorskip("onnx")
    directory = copy_of_mini(tmp_path_factory.mktemp("broken"))
    path = directory / "onnx" / "vision_model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    onnx.save(model, path)
    return bb.load(str(directory), precision="auto", engine="onnxruntime")


def test_a_network_that_gives_no_numbers_is_no_model(broken: bb.Encoder, golden: Golden) -> None:
    alone = verify(broken)
    assert not alone.ok
    assert len(alone.problems) == 6
    assert all(problem.fails for problem in alone.problems)
    report = verify(broken, Golden(golden.meta, golden.pictures))
    assert not report.ok
    assert report.diagnosis.fault == "not finite"
    named = [problem.name for problem in report.problems]
    assert len(named) == len(set(named))
    assert not [problem for problem in (*alone.problems, *report.problems) if "exact" in problem.message]


def test_a_reference_of_another_model_is_told_by_its_vectors(golden: Golden, exact: bb.Encoder) -> None:
    other = changed(golden, lambda p: dataclasses.replace(p, pooled=p.pooled[:32], unit=p.unit[:32]))
    report = judged(exact, other)
    assert not report.ok
    assert report.stages == ()
    assert report.diagnosis.fault == "other model"
    assert "its vectors have 32 numbers, this model's 384" in report.diagnosis.sentence


def test_inputs_that_the_reference_has_are_counted(
    golden: Golden, exact: bb.Encoder, photographs: dict[str, Path]
) -> None:
    inputs = [*photographs.values(), golden.texts[0].text]
    report = verify(exact, golden, inputs, checks=False)
    assert [(given.kind, given.count, given.known) for given in report.given] == [
        ("picture", 6, 2),
        ("text", 1, 1),
    ]
    assert report.ok
    assert len(report.problems) == 4


def test_another_profile_is_mentioned(golden: Golden) -> None:
    report = judged(bb.load("mini", precision="exact", profile="hf5-tv"), golden)
    assert "hf4-pil" in report.problems[0].message
    assert report.first.stage == "pixel values"
    assert 0 < report.first.worst.levels < 3


def test_token_vectors_are_compared_where_the_reference_has_them(golden: Golden, exact: bb.Encoder) -> None:
    from bowerbird.judge.walk import TextWalk

    walk = TextWalk(exact.text)

    def with_raw(text: TextGolden) -> TextGolden:
        tokens = walk.tokens(text.text)
        return dataclasses.replace(text, raw=walk.raw(tokens, np.empty((len(tokens.ids), 384))))

    report = judged(exact, Golden(golden.meta, (), changed(golden, text=with_raw).texts))
    assert verdicts(report, "text")["raw"] == "exact"
    halved = changed(
        golden, text=lambda one: dataclasses.replace(with_raw(one), raw=with_raw(one).raw[:, ::-1].copy())
    )
    assert judged(exact, Golden(golden.meta, (), halved.texts)).first.stage == "raw"
