"""Collections as their users see them: chains, laziness, failures at their places, what is logged."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import (
    BowerbirdError,
    FunctionError,
    InputError,
    QueryError,
    RecordError,
    SpaceMismatchError,
)


def is_prime(number: int) -> bool:
    return number > 1 and all(number % other for other in range(2, int(number**0.5) + 1))


def threads_of_ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bowerbird")]


@pytest.fixture
def pictures(picture) -> list[Record]:
    return [Record(f"picture {seed}", image=picture(1000 + seed)) for seed in range(4)]


def test_the_first_example_of_the_readme():
    chain = Collection.range(100).filter(is_prime).filter(lambda n: n % 10 == 3).map(str)
    assert chain.to_list() == ["3", "13", "23", "43", "53", "73", "83"]


def test_search_as_in_the_issue(photographs, model):
    data = Collection.from_glob(photographs["coffee"].parent / "*.jpg").decode().embed(model)
    query = Collection.from_glob(photographs["coffee"], photographs["rocket"]).decode().embed(model)
    near = query.search(data, metric="l2", k=5).select("ids", "scores").to_list()
    assert [row["ids"][0] for row in near] == [str(photographs["coffee"]), str(photographs["rocket"])]
    for row in near:
        assert len(row["ids"]) == 5 == len(set(row["ids"]))
        assert row["scores"][0] == 0
        assert (np.diff(row["scores"]) >= 0).all()


# Lazy, immutable.


def test_nothing_runs_before_a_sink():
    calls = []

    def source():
        calls.append("source")
        yield from (3, 1, 2)

    def note(value):
        calls.append("step")
        return value

    chain = (
        Collection.from_items(source)
        .map(note)
        .filter(note)
        .tee(note)
        .flat_map(lambda n: [note(n)])
        .map_batches(lambda batch: [note(n) for n in batch])
        .sort(note)
        .dedupe(by=note)
        .sample(0.5)
        .limit(2)
        .batch(2)
    )
    joined = chain.join(Collection.from_items(source).map(note))
    repr(joined), joined.explain(), iter(joined), joined.split()
    assert calls == []


def test_every_step_gives_another_collection(model):
    start = Collection.range(10)
    plan = start.plan
    others = [
        start.map(str),
        start.filter(bool),
        start.flat_map(range),
        start.tee(str),
        start.map_batches(list),
        start.batch(3),
        start.limit(3),
        start.sample(3),
        start.sort(),
        start.dedupe(),
        start.select("a"),
        start.drop_missing(),
        start.decode(),
        start.embed(model),
        start.join(start),
        start.search(start),
        start.progress(),
        start.on_error("drop"),
        start.on(bb.Local()),
        *start.split(),
    ]
    assert all(other is not start for other in others)
    assert start.plan is plan
    assert start.to_list() == list(range(10))
    with pytest.raises(AttributeError):
        start.plan.source = None


def test_two_collections_may_go_on_from_one():
    numbers = Collection.range(4).map(lambda n: n + 1)
    assert numbers.filter(lambda n: n % 2).to_list() == [1, 3]
    assert numbers.map(lambda n: -n).to_list() == [-1, -2, -3, -4]


def test_a_collection_can_be_run_again_and_twice_at_once():
    chain = Collection.range(50).map(lambda n: n * n)
    assert chain.to_list() == chain.to_list()
    assert list(zip(chain, chain, strict=True)) == [(n * n, n * n) for n in range(50)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_limit_takes_little_more_than_it_needs(count):
    taken, mapped = [], []

    def source():
        for number in range(10**9):
            taken.append(number)
            yield number

    def double(number):
        mapped.append(number)
        return 2 * number

    assert Collection.from_items(source).map(double).limit(count).to_list() == [2 * n for n in range(count)]
    # Chunks grow by doubling from one element.
    assert len(taken) <= 2 * count + 1
    assert len(mapped) <= 2 * count + 1
    if count < 2:
        assert len(taken) == len(mapped) == count


def test_the_first_element_waits_for_no_other():
    mapped = []
    first = next(iter(Collection.range(1000).map(lambda n: mapped.append(n) or n)))
    assert (first, mapped) == (0, [0])


def test_after_a_sort_nothing_more_than_needed_is_worked_on_either():
    mapped = []
    chain = Collection.range(1000).sort(reverse=True).map(lambda n: mapped.append(n) or n).limit(2)
    assert chain.to_list() == [999, 998]
    assert len(mapped) <= 3


@pytest.mark.parametrize("threads", [1, 4])
def test_leaving_a_loop_early_stops_the_threads_and_closes_the_source(threads):
    closed = []

    def source():
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        for number in Collection.from_items(source).map(lambda n: n, threads=threads):
            if number == 10:
                raise KeyboardInterrupt
    assert closed
    assert threads_of_ours() == []


def test_an_interrupt_inside_a_function_stops_the_run():
    def interrupt(number):
        if number == 5:
            raise KeyboardInterrupt
        return number

    with pytest.raises(KeyboardInterrupt):
        Collection.range(1000).map(interrupt, threads=2).to_list()
    assert threads_of_ours() == []


# What goes wrong.

BAD_ROWS = ["1", "x", "3", "", "5"]


def test_failures_stand_at_their_own_places():
    numbers = Collection.from_items(BAD_ROWS).map(int).map(lambda n: n + 1)
    results = numbers.to_list()
    assert [item if isinstance(item, int) else None for item in results] == [2, None, 4, None, 6]
    first, second = results[1], results[3]
    assert (first.id, first.step, first.kind, first.value) == ("'x'", "map(int)", "ValueError", "x")
    assert (second.id, second.value) == ("''", "")
    assert isinstance(first.error, FunctionError)
    assert "invalid literal" in str(first.error)
    report = numbers.executor.report
    assert (report.done, dict(report.failed), [one.id for one in report.failures]) == (
        3,
        {"ValueError": 2},
        ["'x'", "''"],
    )


def test_failures_may_be_dropped_and_are_counted_all_the_same():
    numbers = Collection.from_items(BAD_ROWS).map(int).on_error("drop")
    assert numbers.to_list() == [1, 3, 5]
    assert numbers.executor.report.failed == {"ValueError": 2}
    assert numbers.count() == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_raise_stops_at_the_first_failure_and_names_the_record_and_the_step(threads):
    records = [Record(f"row {n}", attributes={"price": n if n != 5 else "?"}) for n in range(100)]
    chain = Collection.from_items(records).map(lambda r: r["price"] + 1, threads=threads).on_error("raise")
    given = []
    with pytest.raises(RecordError) as caught:
        for item in chain:
            given.append(item)
    error = caught.value
    assert (error.id, error.step) == ("row 5", "map(lambda)")
    assert "row 5" in str(error)
    assert "map(lambda)" in str(error)
    assert isinstance(error.__cause__, FunctionError)
    # What came before the failure has been given, whatever the chunks were.
    assert given == [1, 2, 3, 4, 5]
    assert chain.executor.report.done == 5
    assert chain.executor.report.failed == {"TypeError": 1}


def test_what_failed_is_logged_once_and_by_kind(caplog):
    def fail(number):
        if number % 10 == 0:
            raise ValueError("ten")
        if number % 10 == 1:
            raise KeyError("eleven")
        return number

    with caplog.at_level(logging.WARNING, "bowerbird"):
        Collection.range(100).map(fail).to_list()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "80 done, 20 failed (10 ValueError, 10 KeyError)" in message
    assert "map(fail) at 0" in message
    caplog.clear()
    with caplog.at_level(logging.WARNING, "bowerbird"):
        Collection.range(3).map(str).to_list()
    assert caplog.records == []


def test_a_source_that_breaks_off_stops_the_run_after_what_it_gave():
    def source():
        yield from (1, 2)
        raise OSError("the disk is gone")

    given = []
    with pytest.raises(bb.BowerbirdError, match="raised OSError after 2 elements: the disk is gone"):
        for number in Collection.from_items(source).map(lambda n: n + 1):
            given.append(number)
    assert given == [2, 3]


def test_a_failure_passes_every_step_untouched(model):
    broken = Collection.from_items(["x"]).map(int)
    chains = [
        broken.map(str),
        broken.filter(bool),
        broken.flat_map(range),
        broken.tee(str),
        broken.map_batches(list, size=2),
        broken.batch(2),
        broken.limit(5),
        broken.sample(5),
        broken.sample(0.0),
        broken.sort(),
        broken.dedupe(),
        broken.dedupe(threshold=0.5),
        broken.select("a"),
        broken.drop_missing(),
        broken.decode(),
        broken.embed(model),
        broken.join(Collection.from_items([{"id": 1}])),
        broken.search(Collection.from_items([Record("a", vectors={"image": np.ones(3, np.float32)})])),
        broken.progress(lambda progress: None),
    ]
    for chain in chains:
        (failure,) = chain.to_list()
        assert (failure.step, failure.kind, failure.value) == ("map(int)", "ValueError", "x"), chain


def test_records_of_a_broken_run_say_what_they_are(pictures, model, picture, tmp_path):
    missing = tmp_path / "gone.jpg"
    records = [
        pictures[0],
        Record("broken", image=picture(1)[:50]),
        Record("missing", image=missing),
        Record("nothing"),
        Record("number", image=5),
        Record("text", image="photo.jpg"),
        7,
        Record("words", texts="a cat"),
        Record("no text", texts=(5,)),
        pictures[1],
    ]
    results = Collection.from_items(records).embed(model).to_list()
    assert [r.id for r in results] == [getattr(r, "id", repr(r)) for r in records]
    told = {r.id: (r.step, r.kind) for r in results if isinstance(r, bb.Failure)}
    label = "embed(mini)"
    assert told == {
        "broken": ("decode", "DecodeError"),
        "missing": ("read", "UnreadableError"),
        "nothing": (label, "UnsupportedInputError"),
        "number": ("read", "UnsupportedInputError"),
        "text": ("read", "UnsupportedInputError"),
        "7": (label, "UnsupportedInputError"),
        "words": (label, "UnsupportedInputError"),
        "no text": (label, "UnsupportedInputError"),
    }
    assert str(missing) in str(results[2].error)


# Steps.


def test_select_names_what_there_is():
    rows = Collection.from_items(
        [Record("a", texts=("x",), attributes={"price": 3}), {"price": 4, "id": "b"}, 5, Record("c")]
    ).select("id", "price")
    first, second, third, fourth = rows.to_list()
    assert (first, second) == ({"id": "a", "price": 3}, {"id": "b", "price": 4})
    assert "neither a record nor a mapping" in str(third.error)
    assert "c has no 'price'; it has id" in str(fourth.error)
    (lacking,) = Collection.from_items([{"price": 4}]).select("cost").to_list()
    assert "has no 'cost'; it has price" in str(lacking.error)


def test_drop_missing(tmp_path, picture):
    (tmp_path / "there.png").write_bytes(picture(1))
    long_name = tmp_path / ("x" * 300)  # no system can say whether it is there
    records = [
        Record("file", image=tmp_path / "there.png"),
        Record("gone", image=tmp_path / "gone.png"),
        Record("none", texts=("words",)),
        Record("bytes", image=picture(2), attributes={"price": 0}),
        Record("long", image=long_name),
    ]
    with_pictures = Collection.from_items(records).drop_missing()
    assert [r.id for r in with_pictures] == ["file", "bytes", "long"]
    assert with_pictures.executor.report.counts["drop_missing(image): dropped"] == 2
    assert [r.id for r in Collection.from_items(records).drop_missing("text")] == ["none"]
    assert [r.id for r in Collection.from_items(records).drop_missing("image", "price")] == ["bytes"]


def test_tee_lets_elements_pass_and_reports_what_it_raises():
    seen = []

    def look(n):
        seen.append(n)
        if n == 1:
            raise RuntimeError("no")
        return "ignored"

    results = Collection.range(3).tee(look).to_list()
    assert (results[0], results[2], seen) == (0, 2, [0, 1, 2])
    assert results[1].kind == "RuntimeError"


def test_progress_tells_how_far():
    told = []
    Collection.from_items(BAD_ROWS).progress(told.append).to_list()
    assert (told[-1].done, told[-1].failed, told[-1].total) == (5, 0, 5)
    Collection.from_items(BAD_ROWS).map(int).progress(told.append).to_list()
    assert (told[-1].done, told[-1].failed, told[-1].total) == (3, 2, None)
    assert "3 done, 2 failed" in str(told[-1])


def test_progress_is_logged_where_no_function_is_given(caplog, monkeypatch):
    monkeypatch.setattr("bowerbird.flow.order.PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "bowerbird"):
        Collection.range(3).progress().to_list()
    assert "3 of 3 done" in caplog.records[-1].getMessage()


# sample, split.

elements = st.lists(st.one_of(st.integers(), st.text(max_size=80)), unique_by=repr, max_size=60)


@limits(max_examples=30, deadline=None)
@given(elements, st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_split_is_complete_disjoint_and_does_not_depend_on_the_others(items, seed, chance):
    parts = [part.to_list() for part in Collection.from_items(items).split(0.5, 0.3, 0.2, seed=seed)]
    assert sorted(repr(item) for part in parts for item in part) == sorted(map(repr, items))
    home = {repr(item): place for place, part in enumerate(parts) for item in part}
    more = [*items, "another", -17]
    chance.shuffle(more)
    again = [part.to_list() for part in Collection.from_items(more).split(0.5, 0.3, 0.2, seed=seed)]
    for place, part in enumerate(again):
        for item in part:
            assert home.get(repr(item), place) == place


def test_shares_are_about_as_large_as_asked_and_seeds_differ():
    records = Collection.from_items(
        [Record(f"/photos/of/a/long/path/that/goes/on/and/on/{n}.jpg") for n in range(2000)]
    )
    sizes = [part.count() for part in records.split()]
    assert sum(sizes) == 2000
    assert np.allclose(np.array(sizes) / 2000, [0.8, 0.1, 0.1], atol=0.03)
    first, other = records.split(0.5, 0.5)[0], records.split(0.5, 0.5, seed=1)[0]
    assert [r.id for r in first] == [r.id for r in records.split(0.5, 0.5)[0]]
    assert [r.id for r in first] != [r.id for r in other]


def test_elements_that_begin_alike_are_not_split_alike():
    texts = [f"{'the same beginning of a long text ' * 3}{n}" for n in range(400)]
    train, test = Collection.from_items(texts).split(0.5, 0.5)
    assert 150 < train.count() < 250
    assert train.count() + test.count() == 400


def test_the_content_of_a_record_does_not_move_it_to_another_part():
    records = [Record(str(n), texts=(f"old {n}",)) for n in range(100)]
    changed = [replace(r, texts=("new",), attributes={"more": 1}) for r in records]
    for before, after in zip(
        Collection.from_items(records).split(), Collection.from_items(changed).split(), strict=True
    ):
        assert [r.id for r in before] == [r.id for r in after]


@limits(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 80), st.integers(0, 9))
def test_a_sample_of_a_number_has_that_many_in_order(size, total, seed):
    drawn = Collection.range(total).sample(size, seed=seed).to_list()
    assert len(drawn) == min(size, total)
    assert drawn == sorted(set(drawn))
    assert drawn == Collection.range(total).sample(size, seed=seed).to_list()


def test_every_element_is_as_likely_in_a_sample():
    counts = np.zeros(20)
    for seed in range(600):
        counts[Collection.range(20).sample(5, seed=seed).to_list()] += 1
    assert np.abs(counts / 600 - 0.25).max() < 0.08  # 4.5 standard deviations


def test_a_sample_of_a_share_grows_with_the_share():
    small = set(Collection.range(500).sample(0.1).to_list())
    large = set(Collection.range(500).sample(0.4).to_list())
    assert small < large
    assert 20 < len(small) < 85
    assert Collection.range(500).sample(1.0).count() == 500
    assert Collection.range(500).sample(0.0).count() == 0


# explain, repr.


def test_explain_says_what_runs_where(model):
    here = bb.Local(threads=3, memory=64 << 20)
    chain = (
        Collection.range(10)
        .filter(is_prime)
        .map(str)
        .map(str, threads=5)
        .map(str, processes=2)
        .map(str, processes=1)
        .sort()
        .embed(model)
        .on(here)
    )
    assert chain.explain().splitlines() == [
        "source      range(0, 10)",
        "one by one  filter(is_prime) > map(str)",
        "5 threads   map(str)",
        "2 processes map(str)",
        "1 process   map(str)",
        "in order    sort()",
        "3 threads   embed(mini)",
        "memory      at most 64 MiB of finished elements waiting",
    ]


def test_repr_is_a_line_of_steps(photographs, model):
    chain = Collection.range(9).filter(is_prime).map(lambda n: n).limit(3)
    assert repr(chain) == "<Collection range(0, 9) > filter(is_prime) > map(lambda) > limit(3)>"
    records = Collection.from_texts(["a"]).embed(model).dedupe(threshold=0.9).sort("id").split()[0]
    assert repr(records).endswith("> embed(mini) > dedupe(vector, 0.9) > sort(id) > split(0.8)>")


# What cannot be asked.


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.batch(0),
        lambda c: c.limit(-1),
        lambda c: c.sample(-1),
        lambda c: c.sample(1.5),
        lambda c: c.sample(float("nan")),
        lambda c: c.sample(float("inf")),
        lambda c: c.split(0.5, 0.4),
        lambda c: c.split(1.5, -0.5),
        lambda c: c.on_error("ignore"),
        lambda c: c.map(str, threads=2, processes=2),
        lambda c: c.map(str, threads=-1),
        lambda c: c.map_batches(list, size=-1),
        lambda c: c.join(c, how="outer"),
        lambda c: c.dedupe(by=str, threshold=0.5),
        lambda c: c.embed("mini").embed("mini"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(ask):
    with pytest.raises(BowerbirdError) as caught:
        ask(Collection.range(3))
    assert caught.value.hint
    assert not isinstance(caught.value, InputError)


def test_searches_that_cannot_be_asked(model):
    words = Collection.from_texts(["a"]).embed(model)
    with pytest.raises(QueryError, match="k=0"):
        words.search(words, k=0)
    with pytest.raises(QueryError, match="no metric 'hamming'"):
        words.search(words, metric="hamming")
    shorter = Collection.from_texts(["a"]).embed(bb.load("mini", dimensions=64))
    with pytest.raises(SpaceMismatchError):
        words.search(shorter)


def test_a_model_that_does_not_exist_is_an_error_when_the_step_is_added():
    with pytest.raises(bb.BowerbirdError, match="no-such-model"):
        Collection.range(3).embed("no-such-model")


def test_steps_that_ask_what_decoding_tells_do_not_lose_it(model):
    photos = Collection.from_glob(bb.samples())
    for steps in (
        photos.decode().drop_missing("width").embed(model),
        photos.decode().embed(model).drop_missing("height"),
    ):
        assert steps.count() == len(steps.to_list()) == 6


def test_facts_are_those_of_the_picture_that_was_embedded(model):
    from dataclasses import replace

    def corner(record):
        return replace(record, image=record.image.crop((0, 0, 50, 40)))

    (found,) = Collection.from_glob(bb.samples() / "coffee.jpg").decode().map(corner).embed(model).to_list()
    assert (found["width"], found["height"]) == (50, 40)


def test_what_is_dropped_is_listed_in_the_errors_file(tmp_path):
    report = (
        Collection.from_texts(["a", "b"])
        .map(lambda record: 1 / 0 if record.text == "b" else record)
        .on_error("drop")
        .write(tmp_path / "out.parquet")
    )
    assert (report.done, dict(report.failed)) == (1, {"ZeroDivisionError": 1})
    (errors,) = tmp_path.glob("*errors.jsonl")
    assert "ZeroDivisionError" in errors.read_text()


def test_hits_of_a_collection_say_what_is_known_of_them(model):
    data = Collection.from_glob(bb.samples()).map(
        lambda record: record.with_attributes(kind=record.image.stem)
    )
    (cat,) = Collection.from_texts(["a cat"]).embed(model).search(data.embed(model), k=1).to_list()
    assert cat.hits[0].attributes["kind"] == "chelsea"
    assert cat.hits[0].attributes["width"] == 320


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda c: c.search("near.bower"), "search takes a Collection, not str"),
        (lambda c: c.join([1, 2]), "join takes a Collection, not list"),
        (lambda c: c.on("ray"), "'ray' does not run collections"),
        (lambda c: c.on(bb.Local), "does not run collections"),
        (lambda c: c.embed(5), "cannot be given as int"),
        (lambda c: c.limit("a"), "count='a'"),
        (lambda c: c.batch("a"), "size='a'"),
        (lambda c: c.search(c, k=5.0), "k=5.0"),
        (lambda c: c.search(c, by=("image",)), "is not two names"),
        (lambda c: c.dedupe(threshold=95), "threshold=95 is no cosine"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(wrong, said):
    with pytest.raises(bb.BowerbirdError, match=said):
        wrong(Collection.range(3))


def test_map_batches_says_when_results_are_too_few():
    found = Collection.range(5).map_batches(lambda numbers: [sum(numbers)], size=5).to_list()
    assert all(
        "returned 1 results for" in failure.error.message
        for failure in found
        if isinstance(failure, bb.Failure)
    )
    assert sum(isinstance(item, bb.Failure) for item in found) >= 4


def test_records_and_failures_print_short(model):
    (record,) = Collection.from_glob(bb.samples() / "coffee.jpg").decode().embed(model).to_list()
    assert len(repr(record)) < 400
    (failure,) = Collection.from_items([bb.Record("x", image=b"x" * 10_000)]).embed(model).to_list()
    assert len(repr(failure)) < 400
