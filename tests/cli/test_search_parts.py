"""`search`, `compare` and `calibrate` as a user runs them, on a catalogue of pictures and texts under two models."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.conftest import Command

import bowerbird as bb
from bowerbird.models.hub.fetch import locate
from bowerbird.search.entries import labels
from bowerbird.store.manifest import ModelEntry

pytestmark = pytest.mark.slow

GOODS = [
    ("cat", "chelsea.jpg", "a ginger cat", 40, "own"),
    ("cup", "coffee.jpg", "a cup of coffee with a spoon", 5, "x"),
    ("rocket", "rocket.jpg", "", 900, "x"),
    ("camera", "camera.jpg", "a photographer with a camera", 70, "own"),
    ("dress", "", "a flowing red evening dress", 80, "own"),
    ("gown", "", "a long red gown for the evening", 180, "own"),
    ("frock", "", "a red evening frock", 60, "x"),
    ("shoes", "", "black leather shoes", 60, "own"),
    ("hat", "", "a black hat", 25, "own"),
]
COLOURS, THINGS = ("red", "green", "blue", "black"), ("lamp", "sofa", "guitar", "bicycle", "scarf")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, photographs) -> Command:
    """A folder with `catalogue.csv`, `fashion`, a model like mini with other steps, and `catalogue.bower`."""
    folder = tmp_path_factory.mktemp("shop")
    for name in ("chelsea", "coffee", "rocket", "camera", "astronaut"):
        shutil.copy(photographs[name], folder)
    rows = [",".join(map(str, row)) for row in GOODS]
    rows += [f"{c}-{t},,a {c} {t},10,own" for c, t in itertools.product(COLOURS, THINGS)]
    (folder / "catalogue.csv").write_text("\n".join(["id,photo,description,price,brand", *rows]) + "\n")
    shutil.copytree(locate("mini").directory, folder / "fashion")
    path = folder / "fashion" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 2}))
    data, index = folder / "data", folder / "catalogue.bower"
    command = Command(folder, {"BOWERBIRD_DATA_DIR": str(data), "BOWERBIRD_INDEX": str(index)})
    if not Path(command.program[0]).exists():
        pytest.skip(f"{command.program[0]} is not installed")
    parts = ("--image", "photo", "--text", "description", "--id", "id")
    done = command(
        "index", "catalogue.csv", *parts, "--model", "mini", "--model", "./fashion", "--index", index
    )
    assert done.out == ""
    assert "29 added" in done.err
    return command


def asked(shop: Command, *words: object) -> list[dict]:
    return json.loads(shop("search", *words, "--json").out)


def test_both_models_a_filter_and_a_least_match(shop):
    words = ("flowing red evening dress", "--model", "both", "--where", "price < 100 and brand != 'x'")
    rows = asked(shop, *words, "--min-match", "0.5")
    assert rows[0]["id"] == "dress"
    assert {"gown", "frock"}.isdisjoint(row["id"] for row in rows)
    for row in rows:
        assert 0.5 <= row["match"] <= 1
        assert -1 <= row["score"] <= 1
        assert row["part"] in ("image", "text")
        assert row["model"] in ("mini", "fashion")
        assert row["price"] < 100
    matches = [row["match"] for row in rows]
    assert matches == sorted(matches, reverse=True)
    lines = shop("search", *words, "--min-match", "0.5").rows
    assert [round(match, 4) for match, _ in lines] == [round(match, 4) for match in matches]


def test_words_a_picture_weights_and_what_to_leave_out(shop):
    rows = asked(
        shop, "black hat", "--image", "chelsea.jpg", "--weights", "0.7,0.3", "--without", "logo", "--top", 40
    )
    ids = [row["id"] for row in rows]
    assert len(ids) == 29
    assert ids.index("hat") < 3
    only_words = [row["id"] for row in asked(shop, "black hat", "--without", "logo", "--top", 40)]
    assert ids.index("cat") < only_words.index("cat")


def test_parts_fusions_and_pages(shop):
    rows = asked(shop, "black hat", "--among", "text,words", "--top", 5)
    assert rows[0]["id"] == "hat"
    assert all(row["part"] in ("text", "words") for row in rows)
    weighed = ("black hat", "--fusion", "weighted", "--part-weights", "image=0.3,text=0.7")
    whole = [row["id"] for row in asked(shop, *weighed, "--top", 6)]
    second = [row["id"] for row in asked(shop, *weighed, "--top", 3, "--offset", 3)]
    assert second == whole[3:]


def test_nothing_matches(shop):
    done = shop("search", "the parliament of Norway", "--min-match", "0.95", "--top", 3)
    assert done.raw == b""
    assert "Nothing matches: no result reaches 0.95. The nearest were:" in done.err
    assert len(done.err.strip().splitlines()) == 5, "a line, a head, three results"
    as_json = shop("search", "the parliament of Norway", "--min-match", "0.95", "--json")
    nearest = json.loads(as_json.out)
    assert [row["passes"] for row in nearest] == [False] * len(nearest) != []
    assert all(row["match"] < 0.95 for row in nearest)
    assert 'Nothing matches: no result reaches 0.95. The nearest have "passes": false.' in as_json.err
    assert len(as_json.err.strip().splitlines()) == 1
    assert all(row["passes"] for row in asked(shop, "black hat"))
    unsure = shop("search", "the parliament of Norway", "--top", 3)
    assert unsure.out.count("\n") == 3
    assert "Nothing here is surely what you asked for" in unsure.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--min-match", "1.5"), "The least match 1.5 is not between 0 and 1"),
        (("--fusion", "best"), "Use one of calibrated, rank, weighted, raw"),
        (("--part-weights", "image"), "--part-weights 'image' cannot be read"),
        (("--threshold", "0.3"), "Give a least match (min_match) instead"),
        (("--model", "fashon"), "Did you mean fashion?"),
        (("--where", "prise < 3"), "price"),
        (("--among", "picture"), "There is no part 'picture' to search"),
        (("--top", "0"), "top"),
        (("--image", "missing.jpg"), "missing.jpg"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked(shop, words, said):
    done = shop("search", "black hat", *words, code=None)
    assert done.code in (1, 2)
    assert done.raw == b""
    assert said in " ".join(done.err.split())


def test_compare(shop):
    found = shop(
        "compare", "flowing red evening dress", "--models", "mini,fashion", "--sheet", "compared.html"
    )
    lines = [line.split("\t") for line in found.out.splitlines()]
    assert {name for name, _, _ in lines} == {"mini", "fashion", "together"}
    assert all(0 <= float(match) <= 1 for _, match, _ in lines)
    assert "Contact sheet: compared.html" in found.err
    page = (shop.cwd / "compared.html").read_text()
    assert "flowing red evening dress" in page
    rows = json.loads(shop("compare", "black hat", "--top", 2, "--json").out)
    assert [len(hits) for hits in rows.values()] == [2, 2, 2]
    assert rows["together"][0]["id"] == "hat"
    wrong = shop("compare", "black hat", "--models", "mini,fashon", code=2)
    assert "Did you mean fashion?" in wrong.err


@pytest.fixture(scope="module")
def alike(shop, model) -> Path:
    """An index of two models of one name, one of which takes no texts, with attributes that JSON has no word for."""
    index = bb.Index.create(shop.cwd / "alike.bower", [model, bb.load("mini", layer="penultimate")])
    odd = {"price": float("inf"), "passes": "mine", "path": "my own"}
    items = [bb.Record(name, shop.cwd / f"{name}.jpg", attributes=odd) for name in ("chelsea", "coffee")]
    bb.Collection.from_items(items).embed(model).write(index.path)
    return Path(index.path)


def test_compare_models_of_one_name(shop, alike):
    second = "mini, layer penultimate"
    found = json.loads(shop("compare", "coffee.jpg", "--json", "--index", alike).out)
    assert list(found) == ["mini", second, "together"]
    assert {hits[0]["id"] for hits in found.values()} == {"coffee"}
    # One that cannot answer is told of; it is not the end.
    done = shop("compare", "a cat", "--json", "--index", alike, "--sheet", "alike.html")
    found = json.loads(done.out)
    assert list(found) == ["mini", second]
    assert found["mini"][0]["id"] == "chelsea"
    assert found[second] == []
    assert f"{second}: " in done.err
    wrong = shop("compare", "a cat", "--where", "prise < 3", "--index", alike, code=2)
    assert "price" in wrong.err


def test_a_model_called_together():
    models = [
        ModelEntry(name, source, source * 16, {}, {}, ())
        for name, source in (("together", "a"), ("b", "b"), ("b", "c"))
    ]
    assert list(labels(models, ("together",)).values()) == ["a", "b", "c"]


def test_json_is_strict(shop, alike):
    out = shop("search", "a cat", "--json", "--index", alike).out

    def refuse(word: str) -> None:
        raise ValueError(word)

    row, _ = json.loads(out, parse_constant=refuse)
    assert row["price"] is None
    assert row["passes"] is True
    assert row["passes_"] == "mine"
    assert row["path"].endswith("chelsea.jpg")
    assert row["path_"] == "my own"


def test_an_address_is_an_index_too(shop):
    said = " ".join(shop("search", "--help").out.split())
    assert all(scheme in said for scheme in ("s3://", "postgresql://", "pinecone://"))


def test_compare_on_a_terminal(shop):
    """As wide as it is, with the models side by side."""
    script = shutil.which("script")
    if not script or sys.platform != "linux":
        pytest.skip("there is no terminal to be had")
    command = f"{shop.program[0]} compare 'black hat' --top 2"
    terminal = Command(shop.cwd, {**shop.env, "TERM": "xterm", "COLUMNS": "100"}, (script,))
    shown = terminal("-qec", command, os.devnull).out
    (head,) = [line for line in shown.splitlines() if "together" in line]
    assert head.index("mini") < head.index("fashion") < head.index("together")
    assert "black hat" in shown


def test_calibrate(shop):
    done = shop("calibrate", "catalogue.bower")
    assert done.out.startswith("mini: measured on 29 records\n")
    assert "\nfashion: measured on 29 records\n" in done.out
    assert "modality gap: left as it is" in done.out
    assert "text -> mini__sentence_embedding: unrelated pairs score" in done.out
    (facts,) = json.loads(shop("calibrate", "catalogue.bower", "--model", "fashion", "--json").out)
    assert (facts["model"], facts["records"], facts["labels"]) == ("fashion", 29, [])


def test_calibrate_with_pairs(shop):
    lines = ["query,record,label"]
    for thing in THINGS:
        lines += [
            f"a {thing} to buy,{c}-{t},{int(t == thing)}" for c, t in itertools.product(COLOURS, THINGS)
        ]
    (shop.cwd / "labelled.csv").write_text("\n".join([*lines, "a cat,nobody,1"]) + "\n")
    shutil.copytree(shop.cwd / "catalogue.bower", shop.cwd / "own.bower")
    words = ("a blue guitar", "--among", "text", "--index", "own.bower")
    before = asked(shop, *words)
    done = shop("calibrate", "own.bower", "--pairs", "labelled.csv")
    assert "text -> mini__sentence_embedding: platt on 100 labelled pairs; log loss" in done.out
    assert "line 102: no record 'nobody' is in the index" in done.err
    after = asked(shop, *words)
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert [row["match"] for row in after] != [row["match"] for row in before]
    (shop.cwd / "labelled.csv").write_text("query,record,label\na cat,cat,perhaps\n")
    wrong = shop("calibrate", "own.bower", "--pairs", "labelled.csv", code=None)
    assert wrong.code in (1, 2)
    assert "labelled.csv:2 has the label 'perhaps'" in wrong.err
    (shop.cwd / "labelled.csv").write_text("query,record,label\na cat,cat,1\n")
    assert shop("calibrate", "own.bower").out
    assert asked(shop, *words) == after, "what was learned stays"
    few = shop("calibrate", "own.bower", "--pairs", "labelled.csv", code=2)
    assert "Nothing can be learned from 1 labelled pairs" in few.err
    assert asked(shop, *words) == after
    shop("calibrate", "own.bower", "--forget-labels")
    assert [row["match"] for row in asked(shop, *words)] == [row["match"] for row in before]
