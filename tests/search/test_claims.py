"""Who embeds what: of all records with the same bytes one, whoever asks, in whatever order, and however often."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from bowerbird.search.claims import Claims

CONTENTS = st.sampled_from("abcdef")
CHUNKS = st.lists(st.lists(CONTENTS, max_size=5), max_size=8)


def named(chunks: list[list[str]]) -> list[tuple[list[str], list[str]]]:
    """Contents, and the ids of the records that hold them: an id of its own for each."""
    return [
        (chunk, [f"{number}:{place}" for place in range(len(chunk))]) for number, chunk in enumerate(chunks)
    ]


@given(CHUNKS, st.sets(CONTENTS))
def test_each_content_is_embedded_once_and_none_that_is_held(chunks: list[list[str]], held: set[str]) -> None:
    claims = Claims(held)
    embedded = Counter(
        content
        for contents, records in named(chunks)
        for content, known in zip(contents, claims(contents, records), strict=True)
        if not known
    )
    assert embedded == Counter({content for chunk in chunks for content in chunk} - held)


@given(CHUNKS, st.sets(CONTENTS), st.randoms(use_true_random=False))
def test_asking_again_gives_the_same_answer(chunks: list[list[str]], held: set[str], chance: object) -> None:
    """A worker that takes over from one that died embeds what that one was to embed."""
    claims = Claims(held)
    questions = named(chunks)
    answers = [claims(*question) for question in questions]
    again = list(enumerate(questions))
    chance.shuffle(again)  # type: ignore[attr-defined]
    for place, question in again:
        assert claims(*question) == answers[place]


@given(st.lists(st.text(max_size=3)), st.sets(st.text(max_size=3)))
def test_which_ids_have_rows(asked: list[str], have: set[str]) -> None:
    assert Claims((), have).replaced(asked) == [id_ in have for id_ in asked]
    assert Claims(have).replaced(asked) == [False] * len(asked), "contents are no ids"


def test_many_threads_at_once() -> None:
    claims = Claims(["held"])
    contents = [f"{number % 500}" for number in range(4000)] + ["held"] * 10
    start = threading.Barrier(8)

    def ask(worker: int) -> list[str]:
        start.wait()
        mine: list[str] = []
        for begin in range(0, len(contents), 7):
            some = contents[begin : begin + 7]
            known = claims(some, [f"{worker}:{begin + place}" for place in range(len(some))])
            mine += [content for content, skip in zip(some, known, strict=True) if not skip]
        return mine

    with ThreadPoolExecutor(8) as pool:
        embedded = Counter(content for mine in pool.map(ask, range(8)) for content in mine)
    assert embedded == Counter(map(str, range(500)))


def test_a_run_of_copies_runs_the_network_once_for_each(tmp_path, picture) -> None:
    """Through the real thing: hundreds of copies in many threads, and as many rows."""
    import bowerbird as bb
    from bowerbird import Collection, Record

    pictures = [picture(seed) for seed in range(4)]
    records = [Record(f"r{number}", pictures[number % 4], named=False) for number in range(400)]
    executor = bb.Local(threads=4)
    report = Collection.from_items(records).on(executor).write(tmp_path / "copies.bower")
    assert {name: report.counts[name] for name in ("added", "copies")} == {"added": 400, "copies": 396}
    index = bb.Index.open(tmp_path / "copies.bower")
    assert len(index) == 400
    hits = index.search("a pattern", k=10)
    assert sorted(hit.attributes["copies"] for hit in hits) == [100] * 4
