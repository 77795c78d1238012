"""Indexes judged by pairs and by files of TREC, against ir-measures and against what can be computed by hand."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.errors import QueryError, RowError
from bowerbird.judge.evaluate import IMAGE_TO_TEXT, QUERIES, TEXT_TO_IMAGE, evaluate_index
from bowerbird.judge.measures import measure
from bowerbird.judge.similarity import Similarity, cells, coloured, heat_map, similarities
from bowerbird.judge.trec import read_run, write_qrels, write_run

CAPTIONS = {
    "astronaut": ("an astronaut in an orange suit", "a smiling woman in front of a flag"),
    "camera": ("a man with a camera on a tripod",),
    "chelsea": ("a tabby cat", "the face of a cat"),
    "coffee": ("a cup of coffee on a table",),
    "hubble_deep_field": ("galaxies in deep space",),
    "rocket": ("a rocket on its launch pad",),
}


def table(
    path: Path, *, image: str = "image", text: str = "caption", more: tuple[tuple[str, str], ...] = ()
) -> Path:
    """Write a row for each caption, and some more."""
    rows = [(f"{name}.jpg", said) for name, captions in CAPTIONS.items() for said in captions]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([(image, text), *rows, *more])
    return path


@pytest.fixture(scope="module")
def index(model: bb.Encoder, tmp_path_factory: pytest.TempPathFactory) -> bb.Index:
    """The photographs that come with the package, without texts."""
    made = bb.Index.create(tmp_path_factory.mktemp("plain") / "photos.bower", model)
    made.add(bb.samples())
    return made


@pytest.fixture(scope="module")
def two(model: bb.Encoder, tmp_path_factory: pytest.TempPathFactory) -> bb.Index:
    """The same with two models: mini, and its first 48 dimensions."""
    made = bb.Index.create(
        tmp_path_factory.mktemp("two") / "photos.bower", [model, model.adapted(dimensions=48)]
    )
    made.add(bb.samples())
    return made


@pytest.fixture(scope="module")
def told(model: bb.Encoder, tmp_path_factory: pytest.TempPathFactory) -> bb.Index:
    """Records with a picture and a text, with ids of the user's."""
    folder = tmp_path_factory.mktemp("told")
    rows = "".join(f"{name},{name}.jpg,{captions[0]}\n" for name, captions in CAPTIONS.items())
    (folder / "shop.csv").write_text(f"id,image,text\n{rows}")
    records = bb.Collection.from_csv(
        folder / "shop.csv", image="image", text="text", id="id", root=bb.samples()
    )
    records.embed(model).write(folder / "shop.bower")
    return bb.Index.open(folder / "shop.bower", model)


def vectors(model: bb.Encoder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines (captions, pictures) and which of them belong together."""
    said = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]
    texts = model.embed([caption for _, caption in said])
    pictures = model.embed([bb.samples() / f"{name}.jpg" for name in CAPTIONS])
    return texts @ pictures.T, np.array([[name == other for other in CAPTIONS] for name, _ in said])


def share_first(scores: np.ndarray, truth: np.ndarray) -> float:
    """How often the best of a row belongs to it."""
    return float(truth[np.arange(len(scores)), scores.argmax(1)].mean())


def test_pairs_are_judged_in_both_directions(index: bb.Index, model: bb.Encoder, tmp_path: Path):
    found = evaluate_index(
        index, pairs=table(tmp_path / "captions.csv"), measures=["Success@1", "median rank"]
    )
    scores, truth = vectors(model)
    first, rank = measure("Success@1"), measure("median rank")
    forth, back = found.row(TEXT_TO_IMAGE), found.row(IMAGE_TO_TEXT)
    assert forth.figures[first].mean == pytest.approx(share_first(scores, truth))
    assert back.figures[first].mean == pytest.approx(share_first(scores.T, truth.T))
    order = np.argsort(-scores, axis=1)
    assert forth.figures[rank].mean == np.median(np.take_along_axis(truth, order, 1).argmax(1) + 1)
    assert (len(forth.scores.queries), len(back.scores.queries)) == (8, 6)
    assert found.problems == ()
    for row in found.rows:
        assert all(figure.low <= figure.mean <= figure.high for figure in row.figures.values())
    assert found.similarity is not None
    assert (
        np.abs(found.similarity.values - scores).max() < 2e-3
    )  # pictures of an index are decoded at a smaller scale
    assert (found.similarity.truth == truth).all()


def test_texts_of_the_index_are_asked_where_it_has_some(told: bb.Index, model: bb.Encoder, tmp_path: Path):
    """A text to a picture, and a picture to the texts of all records, its own included."""
    found = evaluate_index(told, pairs=table(tmp_path / "captions.csv"), measures=["R@1", "R@6"])
    back = found.row(IMAGE_TO_TEXT)
    assert set(back.run["chelsea"]) == set(CAPTIONS)
    assert back.figures[measure("R@6")].mean == 1.0
    assert "6 texts of the index" in found.protocol["picture to text"]


def catalogue(folder: Path, model: bb.Encoder, own: dict[str, str]) -> bb.Index:
    """The photographs, some of them with a text of their own, beside records that are texts alone."""
    records = [
        bb.Record(name, bb.samples() / f"{name}.jpg", (own[name],) if name in own else ())
        for name in CAPTIONS
    ]
    records += [bb.Record(f"text {n}", texts=(text,)) for n, text in enumerate(("a shoe", "a hat", "a coat"))]
    bb.Collection.from_items(records).embed(model).write(folder / "shop.bower")
    return bb.Index.open(folder / "shop.bower", model)


@pytest.mark.parametrize("own", [{}, {"chelsea": "a cat"}], ids=["none", "one"])
def test_captions_are_asked_where_few_pictures_have_a_text_of_their_own(
    model: bb.Encoder, tmp_path: Path, own: dict[str, str]
):
    """A mixed catalogue: its texts are of other records, and right for none of the pictures."""
    index = catalogue(tmp_path, model, own)
    found = evaluate_index(index, pairs=table(tmp_path / "t.csv"), measures=["Success@1"])
    back, (scores, truth) = found.row(IMAGE_TO_TEXT), vectors(model)
    assert len(back.scores.queries) == len(CAPTIONS)
    assert back.figures[measure("Success@1")].mean == pytest.approx(share_first(scores.T, truth.T))
    assert "8 captions of the table" in found.protocol["picture to text"]
    assert f"Only {len(own)} of 6 pictures" in found.problems[0]


def test_equal_texts_of_the_index_are_one_answer(model: bb.Encoder, tmp_path: Path):
    """As equal captions are: what two pictures share is right for both, whichever record it is of."""
    own = dict.fromkeys(CAPTIONS, "the very same words")
    index = catalogue(tmp_path, model, own)
    found = evaluate_index(index, pairs=table(tmp_path / "t.csv"), measures=["R@1", "R@4"])
    back = found.row(IMAGE_TO_TEXT)
    assert {len(run) for run in back.run.values()} == {4}
    assert back.figures[measure("R@4")].mean == 1.0
    assert "among 4 texts of the index" in found.protocol["picture to text"]


def test_a_direction_that_nothing_can_ask_is_left_out_and_said(model: bb.Encoder, tmp_path: Path):
    """The table names records of texts, which have no picture to ask with."""
    index = catalogue(tmp_path, model, {})
    (tmp_path / "t.csv").write_text("image,caption\ntext 0,boots\ntext 1,a cap\n")
    found = evaluate_index(index, pairs=tmp_path / "t.csv", measures=["R@1"])
    assert (
        {row.direction for row in found.rows} == {task.direction for task in found.tasks} == {TEXT_TO_IMAGE}
    )
    assert any(
        "picture to text was left out: none of the 2 pictures" in problem for problem in found.problems
    )
    assert "From pictures to texts" not in found.page()


def test_two_models_of_one_name_are_told_apart(twins: bb.Index, tmp_path: Path):
    found = evaluate_index(twins, pairs=table(tmp_path / "t.csv"), measures=["R@1"], fusions=["rank"])
    sources = [entry.source for entry in twins.manifest.models]
    assert [row.models for row in found.rows if row.direction == TEXT_TO_IMAGE] == [
        *sources,
        " + ".join(sources),
    ]


def test_every_model_and_every_fusion_is_judged(two: bb.Index, tmp_path: Path):
    found = evaluate_index(two, pairs=table(tmp_path / "captions.csv"), measures=["nDCG@10", "R@1"])
    names = [(row.models, row.fusion) for row in found.rows if row.direction == TEXT_TO_IMAGE]
    small = "mini, dimensions 48"
    both = f"mini + {small}"
    assert names == [
        ("mini", ""),
        (small, ""),
        *((both, f) for f in ("calibrated", "rank", "weighted", "raw")),
    ]
    assert [(row.models, row.fusion) for row in found.rows if row.direction == IMAGE_TO_TEXT] == names
    for row in found.rows:
        for figure in row.figures.values():
            assert (figure.p is None) == (row.models == "mini")
            assert figure.p is None or 0 < figure.p <= 1
    raw = found.row(IMAGE_TO_TEXT, both, "raw")
    only = evaluate_index(
        two,
        pairs=tmp_path / "captions.csv",
        models=[two.manifest.models[1].space],
        fusions=["raw"],
        measures=["R@1"],
    )
    assert [row.models for row in only.rows] == [small, small]
    assert raw.run != found.row(IMAGE_TO_TEXT, "mini").run


def test_a_seed_makes_it_repeatable(index: bb.Index, tmp_path: Path):
    pairs = table(tmp_path / "captions.csv")
    assert evaluate_index(index, pairs=pairs).to_dict() == evaluate_index(index, pairs=pairs).to_dict()


def test_exact_copies_stand_for_each_other(model: bb.Encoder, tmp_path: Path):
    """A copy is shown as the same result, so it is right where the other one is."""
    for name in ("chelsea", "coffee"):
        shutil.copy(bb.samples() / f"{name}.jpg", tmp_path / f"{name}.jpg")
    shutil.copy(tmp_path / "chelsea.jpg", tmp_path / "a-copy.jpg")
    shutil.copy(tmp_path / "chelsea.jpg", tmp_path / "zz-copy.jpg")
    made = bb.Index.create(tmp_path / "photos.bower", model)
    made.add(tmp_path / "*.jpg")
    (tmp_path / "t.csv").write_text(
        "image,caption\nchelsea.jpg,a tabby cat\nzz-copy.jpg,a cat\ncoffee.jpg,coffee\n"
    )
    found = evaluate_index(made, pairs=tmp_path / "t.csv", measures=["R@1"])
    assert found.row(TEXT_TO_IMAGE).figures[measure("R@1")].mean == 1.0
    assert len(found.row(IMAGE_TO_TEXT).scores.queries) == 2


def trec(folder: Path, qrels: dict[str, dict[str, int]], queries: str = "") -> dict[str, Path]:
    """Files of TREC."""
    write_qrels(folder / "qrels.txt", qrels)
    (folder / "q.tsv").write_text(
        queries or "1\ta cat\n2\ta rocket\n3\tcat.jpg\n4\tsomething to drink\n5\tnobody judged this\n"
    )
    shutil.copy(bb.samples() / "chelsea.jpg", folder / "cat.jpg")
    return {"queries": folder / "q.tsv", "qrels": folder / "qrels.txt"}


QRELS = {
    "1": {"chelsea": 2},
    "2": {"rocket": 1, "hubble_deep_field": 1},
    "3": {"chelsea": 1},
    "4": {"coffee": 1},
}


def test_trec_files_give_what_ir_measures_gives_for_the_run(told: bb.Index, tmp_path: Path):
    """The run that is written, judged by ir-measures, has the figures that were reported."""
    ir_measures = pytest.importorskip("ir_measures")
    names = ["nDCG@10", "AP", "RR", "R@1", "P@3", "RR@10", "Judged@3"]
    found = evaluate_index(told, **trec(tmp_path, QRELS), measures=names)
    assert [row.fusion for row in found.rows] == ["calibrated", "rank", "weighted", "raw"]
    for row in found.rows:
        write_run(tmp_path / "run.txt", row.run)
        theirs = ir_measures.calc_aggregate(
            [ir_measures.parse_measure(name) for name in names],
            ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")),
            ir_measures.read_trec_run(str(tmp_path / "run.txt")),
        )
        ours = {str(one): figure.mean for one, figure in row.figures.items()}
        assert ours == pytest.approx({str(one): value for one, value in theirs.items()})
    assert "1 query was without judgement and left out, such as '5'" in found.problems[0]


def test_records_may_be_named_by_file_and_words_may_be_searched(told: bb.Index, tmp_path: Path):
    files = {
        query: {f"{name}.jpg": grade for name, grade in grades.items()} for query, grades in QRELS.items()
    }
    by_id = evaluate_index(told, **trec(tmp_path, QRELS), by_words=True, fusions=["rank"])
    by_file = evaluate_index(told, **trec(tmp_path, files), by_words=True, fusions=["rank"])
    assert by_id.to_dict()["rows"] == by_file.to_dict()["rows"]


def test_a_query_picture_that_cannot_be_read_is_told_of_and_finds_nothing(told: bb.Index, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    files = trec(tmp_path, {"1": {"chelsea": 1}, "2": {"coffee": 1}}, "1\ta cat\n2\tbroken.jpg\n")
    found = evaluate_index(told, **files, fusions=["calibrated"], measures=["R@6"])
    assert found.row(QUERIES).scores.values[measure("R@6")].tolist() == [1, 0]
    assert "Query '2'" in found.problems[0] and "broken.jpg" in found.problems[0]


def test_unknown_records_and_queries_are_told_of(told: bb.Index, tmp_path: Path):
    files = trec(tmp_path, {"1": {"chelsea": 1, "chelsae": 1}, "9": {"coffee": 1}})
    found = evaluate_index(told, **files, measures=["R@6"], fusions=["raw"])
    assert found.row(QUERIES).scores.values[measure("R@6")].tolist() == [0.5, 0]
    first, second, third = found.problems
    assert "'chelsae' (did you mean 'chelsea'?)" in first
    assert "such as '9'" in second
    assert "without judgement" in third


def test_what_contradicts_itself_is_refused(told: bb.Index, tmp_path: Path):
    pairs, files = table(tmp_path / "t.csv"), trec(tmp_path, {"1": {"lost": 1}})
    with pytest.raises(QueryError, match="None of the 1 records"):
        evaluate_index(told, **files)
    with pytest.raises(QueryError, match="None of the 5 queries"):
        evaluate_index(told, **trec(tmp_path, {"7": {"chelsea": 1}}))
    for wrong in (
        {},
        {"queries": files["queries"]},
        {"pairs": pairs, **files},
        {"pairs": pairs, "k": 0},
        {"pairs": pairs, "measures": []},
        {"pairs": pairs, "by_words": True},
        {"pairs": pairs, "fusions": ["sum"]},
        {"pairs": pairs, "fusions": []},
        {"pairs": pairs, "models": ["maxi"]},
        {"pairs": pairs, "measures": ["ndgc@3"]},
        {"pairs": pairs, "where": "colour = 'red'"},
    ):
        with pytest.raises(QueryError):
            evaluate_index(told, **wrong)  # type: ignore[arg-type]
    (tmp_path / "qrels.txt").write_text("1 0\n")
    with pytest.raises(RowError, match=r"qrels\.txt:1"):
        evaluate_index(told, **files)


def test_a_filter_leaves_only_what_passes(told: bb.Index, tmp_path: Path):
    found = evaluate_index(
        told, pairs=table(tmp_path / "t.csv"), where="name != 'coffee.jpg'", measures=["R@1"]
    )
    assert "coffee.jpg" in found.problems[0]
    assert all("coffee" not in ids for row in found.rows for ids in row.run.values())


def test_a_map_has_the_colours_of_viridis():
    ends = coloured(np.array([-2, 0, 1, 2], np.float32), 0, 1)
    assert ends.tolist() == [[0x44, 0x01, 0x54]] * 2 + [[0xFD, 0xE7, 0x25]] * 2
    matplotlib = pytest.importorskip("matplotlib")
    steps = np.linspace(0, 1, 256, dtype=np.float32)
    theirs = np.asarray(matplotlib.colormaps["viridis"].colors) * 255
    assert np.abs(coloured(steps, 0, 1) - theirs).max() < 2.5


@pytest.mark.parametrize(
    "shape", [(3, 3), (8, 6), (2, 300), (300, 2), (1000, 1000), (1500, 1200), (1, 1), (0, 0)]
)
def test_a_heat_map_shows_the_diagonal_at_every_size(shape: tuple[int, int]):
    values = np.eye(*shape, dtype=np.float32)
    found = Similarity(values, values > 0, [], [])
    drawn = cells(found)
    assert max(drawn.size) <= 1000
    if min(shape) > 1 and min(drawn.size) > 1:
        rows, columns = (min(side, 1000) for side in shape)
        at = (drawn.width // columns // 2, drawn.height // rows // 2)
        assert drawn.getpixel(at) == (0xFD, 0xE7, 0x25)
        assert drawn.getpixel((drawn.width - 1, at[1])) == (0x44, 0x01, 0x54)
    assert heat_map(found).width <= 1000 + 2 * 48


def test_a_matrix_is_saved_as_numbers_and_as_a_picture(model: bb.Encoder, tmp_path: Path):
    pictures = [bb.samples() / "chelsea.jpg", bb.samples() / "coffee.jpg"]
    values = similarities(model, ["a cat", "coffee", "a dog"], pictures)
    assert values.shape == (3, 2)
    assert values[0, 0] > values[0, 1] and values[1, 1] > values[1, 0]
    found = Similarity(values, values > 0.3, ["a", "b", "c"], ["d", "e"])
    found.save(tmp_path / "m.npy")
    assert (np.load(tmp_path / "m.npy") == values).all()
    found.save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as drawn:
        assert drawn.format == "PNG"
    with pytest.raises(QueryError):
        found.save(tmp_path / "m.csv")


def test_the_report_needs_nothing_else_and_shows_strangers_names_safely(two: bb.Index, tmp_path: Path):
    pairs = table(
        tmp_path / "captions.csv", more=(("rocket.jpg", "<script>alert(1)</script>"), ("<b>.jpg", "x"))
    )
    page = evaluate_index(two, pairs=pairs).page()
    assert "<script" not in page and "<b>" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert "default-src 'none'" in page and "style=" not in re.sub(
        r"<style>.*?</style>", "", page, flags=re.DOTALL
    )
    outside = [
        uri for uri in re.findall(r'(?:src|href)="([^"]*)"', page) if not uri.startswith(("data:", "#"))
    ]
    assert outside == []
    for shown in (
        "From texts to pictures",
        "nDCG@10",
        "Every text against every picture",
        "bootstrap",
        "not in the index",
    ):
        assert shown in page


@pytest.mark.slow
def test_the_command_judges_and_writes_its_files(index: bb.Index, run, tmp_path: Path):
    pairs = table(tmp_path / "captions.csv", more=(("lost.jpg", "nobody knows"),))
    files = ("-o", "r.html", "--run-out", "run.txt", "--matrix", "m.npy")
    done = run("evaluate", index.path, "--pairs", pairs, "--measures", "R@1,median rank", *files)
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert [line[0] for line in lines] == ["text to picture"] * 2 + ["picture to text"] * 2
    assert all(len(line) == 8 for line in lines)
    assert "lost.jpg" in done.err
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert len(read_run(tmp_path / "run.txt")) == 8
    assert np.load(tmp_path / "m.npy").shape == (8, 6)
    data = json.loads(run("evaluate", index.path, "--pairs", pairs, "--json", "-k", "1").out)
    assert data["rows"][0]["queries"] == 8
    assert None in {values["median rank"] for values in data["rows"][0]["per_query"].values()}


@pytest.mark.slow
def test_the_command_judges_files_of_trec(told: bb.Index, run, tmp_path: Path):
    files = trec(tmp_path, QRELS)
    words = (
        "--queries",
        files["queries"],
        "--qrels",
        files["qrels"],
        "--measures",
        "nDCG@10",
        "--fusion",
        "rank",
    )
    (line,) = run("evaluate", told.path, *words).out.splitlines()
    assert line.startswith("queries\tmini\trank\tnDCG@10\t")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pairs", "t.csv", "--measures", "ndgc@3"], "Did you mean nDCG@3?"),
        (["--pairs", "none.csv"], "none.csv"),
        (["--queries", "q.tsv"], "What is right is not said"),
        (["--matrix", "m.npy"], "Add --pairs"),
        (["--pairs", "t.csv", "--matrix", "m.txt"], ".npy or .png"),
        (["--image", "photo"], "Add --pairs"),
    ],
)
def test_the_command_says_what_is_wrong(index: bb.Index, run, tmp_path: Path, words: list[str], said: str):
    table(tmp_path / "t.csv")
    assert said in run("evaluate", index.path, *words, code=2).err
