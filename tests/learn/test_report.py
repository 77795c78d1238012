"""The report of a run: what is read, what is found in it, and a page that a browser shows."""

from __future__ import annotations

import ast
import base64
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.judge.browser import browser

from bowerbird.errors import LearnError
from bowerbird.learn.report import Report, read_report
from bowerbird.learn.report_charts import duration, shown
from bowerbird.learn.report_findings import (
    by_class,
    confusion,
    examples,
    measured_on,
    own_ranks,
    reservations,
    similarity,
    truth,
)
from bowerbird.learn.report_tables import told
from bowerbird.learn.split import Copy

CLASSES = ("hat", "shoes", "t-shirt")
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\udcff"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def thumbnail(seed: int) -> str:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((48, 48), Image.Resampling.NEAREST).save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def figures(*values: float) -> dict[str, Any]:
    names = ("R@1", "R@5", "R@10")
    return {n: {"mean": v, "low": v - 0.05, "high": v + 0.05} for n, v in zip(names, values, strict=True)}


def facts(pictures: int = 30, *, classes: tuple[str, ...] = (), captions: int = 1) -> dict[str, Any]:
    texts = [f"a photo of {name}" for name in classes] or [f"caption {n}" for n in range(pictures * captions)]
    before = {"text->image": figures(0.1, 0.2, 0.3), "image->text": figures(0.1, 0.25, 0.35)}
    after = {"text->image": figures(0.3, 0.6, 0.7), "image->text": figures(0.3, 0.55, 0.72)}
    return {
        "format": 1,
        "recipe": "Linear(epochs=3)",
        "settings": {"seed": 7},
        "source": "pairs.csv",
        "models": {"image": "mini", "text": "mini"},
        "counts": {
            "pictures": 100,
            "texts": 100,
            "pairs": 100,
            "train": 60,
            "validation": 10,
            "test": pictures,
        },
        "dropped": [{"name": "torn.jpg", "reason": "it is a truncated JPEG"}],
        "problems": ["12 captions are longer than 256 tokens: their ends were not read"],
        "copies": [{"names": ["a.jpg", "b.jpg"], "cosine": 0.995, "part": "train", "removed": []}],
        "seconds": {"embedding": 3.0, "cached": 5, "training": 2.0, "recomputing": 9.0, "total": 5.5},
        "history": [
            {
                "epoch": n,
                "loss": 3.0 / n,
                "metrics": {"text->image R@10": 0.2 * n},
                "seconds": 1.0,
                "lr": 1e-3,
            }
            for n in (1, 2, 3)
        ],
        "steps": [3.0 / (1 + 0.1 * n) for n in range(30)],
        "best": 3,
        "choice": [
            {
                "recipe": "Ridge()",
                "figure": 0.5,
                "measure": "R@10",
                "seconds": 1.0,
                "why": "0.2 below the best",
            },
            {"recipe": "Linear(epochs=3)", "figure": 0.7, "measure": "R@10", "seconds": 2.0, "why": "taken"},
        ],
        "before": {"class->image": {"P@10": {"mean": 0.4}}} if classes else before,
        "after": {"class->image": {"P@10": {"mean": 0.9}}} if classes else after,
        "held_out": "test",
        "held_out_pictures": [
            {"id": str(n), "name": f"folder/{n}.jpg", "thumbnail": thumbnail(n)} for n in range(pictures)
        ],
        "held_out_texts": texts,
        "classes": list(classes),
        "versions": {"bowerbird": "0.1.0"},
        "made": "2026-11-21T22:00:00+00:00",
    }


def arrays(pictures: int = 30, *, classes: tuple[str, ...] = (), captions: int = 1) -> dict[str, np.ndarray]:
    """Pictures that lie near their own text after fitting, and in a cone of their own before."""
    rng = np.random.default_rng(0)
    texts = unit(rng.normal(size=(len(classes) or pictures * captions, 16)))
    own = np.arange(pictures) % len(texts)
    links = [
        np.stack([np.arange(pictures), (own + one * pictures) % len(texts)], 1) for one in range(captions)
    ]
    noise = rng.normal(size=(pictures, 16))
    found = {
        "links": np.concatenate(links),
        "images_before": unit(texts[own] * 0.3 + noise * 0.3 + np.eye(16)[0] * 2),
        "texts_before": texts,
        "images_after": unit(texts[own] * 3 + noise * 0.4),
        "texts_after": texts,
    }
    return {n: a.astype(np.int64 if n == "links" else np.float16) for n, a in found.items()} | (
        {"labels": own.astype(np.int64)} if classes else {}
    )


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """A directory as a run leaves it, some of it changed."""

    def make(
        *,
        pictures: int = 30,
        captions: int = 1,
        classes: tuple[str, ...] = (),
        without: tuple[str, ...] = (),
        npz: bool = True,
        **changed: Any,
    ) -> Path:
        place = tmp_path / "my-model"
        place.mkdir()
        every = facts(pictures, classes=classes, captions=captions) | changed
        data = {name: value for name, value in every.items() if name not in without}
        (place / "fit.json").write_text(json.dumps(data), "utf-8")
        if npz:
            np.savez(place / "fit.npz", **arrays(pictures, classes=classes, captions=captions))
        return place

    return make


def test_what_was_saved_is_read(save: Save) -> None:
    found = read_report(save())
    assert found.name == "my-model"
    assert found.headline == ("text->image", "R@10")
    assert found.after["text->image"]["R@10"].low == pytest.approx(0.65)
    assert found.dropped == (("torn.jpg", "it is a truncated JPEG"),)
    assert found.copies == (Copy(("a.jpg", "b.jpg"), 0.995, "train"),)
    assert (found.held_out, found.held_out_of) == ("test", {"pictures": 30, "texts": 30})
    assert [epoch.number for epoch in found.history] == [1, 2, 3]
    assert found.held is not None
    assert found.held.before is not None
    np.testing.assert_allclose(np.linalg.norm(found.held.before[0], axis=1), 1, atol=1e-6)


def test_what_is_not_there_is_left_out(save: Save) -> None:
    place = save(npz=False)
    (place / "fit.json").write_text('{"format": 1}', "utf-8")
    found = read_report(place)
    assert found.held is None
    assert found.to_json()["after"] == {}
    page = found.page()
    assert "No figures were measured." in page
    assert "nearest texts" not in page


def test_towers_that_shared_no_space_have_no_before(save: Save) -> None:
    place = save(before={})
    kept = arrays()
    del kept["images_before"], kept["texts_before"]
    np.savez(place / "fit.npz", **kept)
    page = read_report(place).page()
    assert "shared no space before" in page
    assert "rank 1<" in page


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: (place / "fit.json").unlink(), "is no fitted model"),
        (lambda place: (place / "fit.json").write_text("{"), "damaged: it is no JSON"),
        (lambda place: (place / "fit.json").write_bytes(b"\xff\xfe\x00"), "damaged: it is no JSON"),
        (lambda place: (place / "fit.json").write_text("[" * 100_000), "damaged: it is no JSON"),
        (lambda place: (place / "fit.json").write_text("[1]"), "does not say its format"),
        (lambda place: (place / "fit.json").write_text('{"format": 2}'), "format 2"),
        (lambda place: (place / "fit.json").write_text('{"format": 1, "history": 3}'), "'history' holds int"),
        (lambda place: (place / "fit.json").write_text('{"format": 1, "dropped": [3]}'), "'dropped' holds"),
        (lambda place: (place / "fit.npz").write_bytes(b"PK\x03\x04broken"), "fit.npz is damaged"),
        (lambda place: (place / "fit.npz").write_bytes(b""), "fit.npz is damaged"),
        (
            lambda place: np.savez(place / "fit.npz", **{**arrays(), "links": np.array([[99, 0]])}),
            "not there",
        ),
        (lambda place: np.savez(place / "fit.npz", **{**arrays(), "images_after": np.ones((2, 3))}), "shape"),
    ],
    ids=[
        "absent",
        "cut",
        "binary",
        "deep",
        "list",
        "later",
        "type",
        "rows",
        "zip",
        "empty",
        "links",
        "shape",
    ],
)
def test_damage_is_named(save: Save, spoil: Callable[[Path], object], said: str) -> None:
    place = save()
    spoil(place)
    with pytest.raises(LearnError, match=re.escape(said)):
        read_report(place)


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LearnError, match="There is no directory"):
        read_report(tmp_path / "nowhere")


def test_ranks_examples_and_similarity(save: Save) -> None:
    held = read_report(save()).held
    assert held is not None
    right = truth(held)
    ranks = own_ranks(held.after, right)
    assert ranks is not None
    assert held.after is not None
    scores = held.after[0] @ held.after[1].T
    for row in range(len(ranks)):
        assert ranks[row] == 1 + (np.delete(scores[row], row) >= scores[row, row]).sum()
    found = examples(held)
    assert {one.kind for one in found} == {"best", "typical", "worst"}
    assert len({one.picture for one in found}) == len(found) == 18
    for one in found:
        assert one.after == ranks[one.picture]
        assert [said.score for said in one.nearest] == sorted(
            (said.score for said in one.nearest), reverse=True
        )
        assert any(said.right for said in one.nearest) == (one.after <= 5)
    drawn = similarity(held, held.after)
    assert drawn is not None
    np.testing.assert_array_equal(drawn.truth, np.eye(30, dtype=bool))
    np.testing.assert_allclose(np.diag(drawn.values), np.diag(scores), atol=1e-6)


def test_classes(save: Save) -> None:
    report = read_report(save(classes=CLASSES))
    held = report.held
    assert held is not None
    assert [one.name for one in by_class(held)] == list(CLASSES)
    assert [one.after for one in by_class(held)] == [1.0, 1.0, 1.0]
    matrix = confusion(held, held.after)
    assert matrix is not None
    np.testing.assert_array_equal(matrix, np.diag([10, 10, 10]))
    page = report.page()
    assert "What pictures are taken for" in page
    assert "100 % of pictures lie nearest to the text of their own class" in page
    assert report.headline == ("class->image", "P@10")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("test", "Measured on 30 pictures of the test set, which took no part"),
        ("validation", "stopped or chosen: the figures are optimistic"),
        ("train", "from which the run has learned: the figures say nothing of other pictures"),
    ],
)
def test_it_says_whether_the_run_has_seen_what_it_was_measured_on(save: Save, part: str, said: str) -> None:
    report = read_report(save(held_out=part, held_out_of={"pictures": 30, "texts": 30}))
    assert said in measured_on(report)
    assert said in report.page()
    assert ("took no part" in report.page()) == (part == "test")
    assert reservations(report) == ()


@pytest.mark.parametrize(
    ("pictures", "rough", "sure"),
    [(30, False, []), (20, False, []), (19, True, []), (8, True, ["R@10"]), (5, True, ["R@5 and R@10"])],
)
def test_figures_of_few_pictures_are_rough(
    save: Save, pictures: int, *, rough: bool, sure: list[str]
) -> None:
    report = read_report(save(pictures=pictures))
    page = report.page()
    assert ("the figures are rough" in page) == rough
    assert re.findall(r"Among \d+ pictures, (.*?) from texts to pictures cannot be below 1", page) == sure
    assert re.findall(r"Among \d+ texts, (.*?) from pictures to texts cannot be below 1", page) == sure


@pytest.mark.parametrize(("captions", "most"), [(1, ""), (2, "0.50"), (5, "0.20")])
def test_recall_of_several_texts_is_explained(save: Save, captions: int, most: str) -> None:
    page = read_report(save(captions=captions)).page()
    assert (f"with the {captions} texts of each picture here, R@1 is at most {most}" in page) == bool(most)
    assert ("as ir-measures defines recall" in page) == bool(most)


def test_a_sample_is_called_one(save: Save) -> None:
    report = read_report(save(classes=CLASSES, held_out_of={"pictures": 3000, "texts": 3}))
    page = report.page()
    assert "Measured on 3,000 pictures" in page
    # In what is said of the figures, and where the sample is shown: classes, similarities, examples, map and gap.
    assert page.count("30 of 3,000 pictures") == 6


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        (Copy(("a", "b"), 1.0, "train"), "a = b, all in train"),
        (Copy(("a", "b"), 0.99, "test", ("b",)), "a, in test; left out as its copy: b (cosine 0.990)"),
        (Copy(("a", "b", "c"), 1.0, "test", ("b",)), "a = c, all in test; left out as copies: b"),
        (Copy(("a", "b", "c"), 1.0, "test", ("a", "c")), "b, in test; left out as copies: a, c"),
    ],
    ids=["kept", "one of two", "one of three", "two of three"],
)
def test_copies_are_told(save: Save, copy: Copy, said: str) -> None:
    assert told(copy) == said
    page = read_report(save(copies=[vars(copy)])).page()
    assert f'<li dir="auto">{said}</li>' in page
    assert "<dd>1</dd><dt>groups of copies, none of them in two splits</dt>" in page
    left = f"<dd>{len(copy.removed)}</dd><dt>copies left out</dt>"
    assert (left in page) == bool(copy.removed)


def call(report: Report) -> tuple[ast.Call, str]:
    """How to do it again, as Python reads it; and all that is said of it."""
    code = re.search(r"<pre>(.*?)</pre>", report.page(), re.DOTALL)
    assert code is not None
    text = html.unescape(code[1])
    _, found = ast.parse(text).body
    assert isinstance(found, ast.Expr) and isinstance(found.value, ast.Call)
    return found.value, text


def words(found: ast.Call) -> dict[str, str]:
    return {str(one.arg): ast.unparse(one.value) for one in found.keywords}


def test_all_that_was_asked_for_is_in_the_call(save: Save) -> None:
    asked = {
        "source": "pairs.csv",
        "recipe": "Linear(loss=InfoNCE(temperature=0.07, learned=False, both=True), epochs=3)",
        "image": "file",
        "text": ["de", "en"],
        "labels": "",
        "root": "pictures",
        "id": None,
        "delimiter": ";",
        "validation": "given",
        "test": 0.0,
        "seconds": 60.0,
        "seed": 0,
        "image_model": "mini",
        "text_model": "other",
    }
    found, text = call(read_report(save(settings=asked)))
    assert ast.unparse(found.func) == "bb.fit"
    assert ast.literal_eval(found.args[0]) == "pairs.csv"
    assert words(found) == {
        "image_model": "'mini'",
        "text_model": "'other'",
        "recipe": "bb.recipes.Linear(loss=bb.losses.InfoNCE(temperature=0.07, learned=False, both=True), epochs=3)",
        "image": "'file'",
        "text": "['de', 'en']",
        "root": "'pictures'",
        "delimiter": "';'",
        "validation": "...",
        "test": "0.0",
        "seconds": "60.0",
        "seed": "0",
    }
    assert "# validation: pairs of your own were given" in text


def test_auto_is_asked_for_again(save: Save) -> None:
    found, text = call(read_report(save(settings={"recipe": "auto", "seed": 7})))
    assert words(found) == {
        "image_model": "'mini'",
        "text_model": "'mini'",
        "recipe": "'auto'",
        "seed": "7",
    }
    assert "# auto took bb.recipes.Linear(epochs=3)" in text


def test_tuning_is_asked_for_again(save: Save) -> None:
    asked = {"lora": "LoRA(rank=4)", "epochs": 2, "freeze": "", "precision": "fp32", "seed": 1, "clip": 1.0}
    found, _ = call(read_report(save(recipe="fine_tune(lora=LoRA(rank=4), epochs=2)", settings=asked)))
    assert ast.unparse(found.func) == "bb.fine_tune"
    assert words(found) == {
        "model": "'mini'",
        "lora": "bb.LoRA(rank=4)",
        "epochs": "2",
        "precision": "'fp32'",
        "seed": "1",
    }


def test_small_classes_are_judged_by_what_can_reach_one(save: Save) -> None:
    after = {"class->image": {"P@10": {"mean": 0.3}, "Rprec": {"mean": 1.0}}}
    page = read_report(save(classes=CLASSES, after=after)).page()
    tiles = re.findall(r'<div class="tile[^>]*><p>(.*?)</p>', page)
    assert tiles == ["P@10, from classes to pictures", "Rprec, from classes to pictures", "time in all"]


def test_what_is_no_number_is_a_dash(save: Save) -> None:
    nothing = {"text->image": {"R@10": {"mean": None, "low": None, "high": None}}}
    broken = [{"epoch": 1, "loss": None, "metrics": {"R@10": None}}, {"epoch": 2, "loss": 1.0, "metrics": {}}]
    found = read_report(
        save(after=nothing, before=nothing, history=broken, steps=[None, 2.0], seconds={"total": None})
    )
    page = found.page()
    assert "<b>\N{EN DASH}</b>" in page
    assert "nan" not in re.sub(r'base64,[^"]*', "", page).lower()
    assert (
        json.loads(json.dumps(found.to_json(), allow_nan=False))["after"]["text->image"]["R@10"]["mean"]
        is None
    )


def test_strangers_names_are_text(save: Save) -> None:
    pictures = [
        {"id": str(n), "name": HOSTILE, "thumbnail": "no base64!" if n % 2 else ""} for n in range(30)
    ]
    place = save(
        held_out_pictures=pictures,
        held_out_texts=[HOSTILE] * 30,
        source=HOSTILE,
        recipe=HOSTILE,
        problems=[HOSTILE],
        dropped=[{"name": HOSTILE, "reason": HOSTILE}],
        models={"image": HOSTILE},
        versions={HOSTILE: HOSTILE},
        choice=[{"recipe": HOSTILE, "why": HOSTILE}],
        history=[{"epoch": 1, "loss": 1.0, "metrics": {HOSTILE: 0.5}}],
        after={HOSTILE: {HOSTILE: 0.5}},
    )
    page = read_report(place).page()
    page.encode("utf-8")
    assert "<img src=x" not in page
    assert "<script" not in page
    assert page.count("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;") > 60


def test_a_page_asks_for_nothing(save: Save) -> None:
    page = read_report(save()).page()
    assert "default-src 'none'" in page
    assert set(re.findall(r'(?:src|href)="([a-z]+:|#)', page)) == {"data:", "#"}
    assert "http://" not in page
    assert "style=" not in page


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_figures_for_people(value: float) -> None:
    said = shown(value)
    assert (
        said == "\N{EN DASH}"
        if not np.isfinite(value)
        else float(said.replace("\N{MINUS SIGN}", "-")) is not None
    )
    assert not said.startswith("\N{MINUS SIGN}0.000")


def test_durations() -> None:
    assert [duration(s) for s in (0.44, 12.3, 200, 7500, float("nan"))] == [
        "0.4 s",
        "12 s",
        "3 min 20 s",
        "2 h 5 min",
        "\N{EN DASH}",
    ]


@pytest.mark.parametrize(
    ("width", "dark"), [(390, False), (1300, True)], ids=["phone", "desktop in the dark"]
)
def test_a_browser_shows_it(save: Save, tmp_path: Path, width: int, *, dark: bool) -> None:
    page = tmp_path / "report.html"
    page.write_text(read_report(save(classes=CLASSES if dark else ())).page(), "utf-8")
    with browser(tmp_path / "profile") as tab:
        tab.open(page, width=width, height=900, dark=dark)
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")
        assert tab.value("[...document.images].every(i => i.loading === 'lazy' || i.naturalWidth > 0)")
        assert tab.value("document.querySelectorAll('.card').length") == 18
        assert tab.value(
            "[...document.querySelectorAll('svg.plot')].every(s => s.getBoundingClientRect().width > 200)"
        )
        bar = "document.querySelector('.compared .after rect')"
        assert tab.value(f"getComputedStyle({bar}).fill") == (
            "rgb(147, 177, 255)" if dark else "rgb(44, 79, 174)"
        )
        each = "[...document.querySelectorAll('svg.plot')]"
        size = "12 * s.getBoundingClientRect().width / s.viewBox.baseVal.width"
        assert (
            tab.value(f"Math.min(...{each}.map(s => {size}))") > 8.5
        )  # words in drawings can be read on a phone
        assert tab.errors == []


def test_the_command(run: Callable[..., Any], save: Save) -> None:
    place = save()
    found = run("report", place)
    assert "text->image\tR@10\t0.3000\t0.2500\t0.3500\t0.7000\t0.6500\t0.7500" in found.out
    assert (run.cwd / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    told = json.loads(run("report", place, "--json").out)
    assert told["recipe"] == "Linear(epochs=3)"
    assert told["gap"]["before"]["distance"] > told["gap"]["after"]["distance"]
    assert "no fitted model" in run("report", run.cwd, code=2).err


def test_a_report_is_of_the_vectors_alone(save: Save) -> None:
    """Nothing of it depends on when it is drawn."""
    place = save()
    first: Report = read_report(place)
    assert first.page() == read_report(place).page()
