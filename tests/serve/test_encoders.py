"""A model whose batches are shared gives what the model gives alone, whoever else asks it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bowerbird.errors import InputError, ModelError
from bowerbird.models.encoder import Outcome
from bowerbird.serve.batching import BusyError, Scheduler
from bowerbird.serve.encoders import Prepared, SharedEncoder
from bowerbird.serve.models import Models

SECONDS = 60.0


@pytest.fixture(scope="module")
def scheduler():
    found = Scheduler(2, queue_seconds=600.0)
    yield found
    assert found.stop(SECONDS)
    assert found.held_bytes() == 0


@pytest.fixture(scope="module")
def shared(model, scheduler):
    return SharedEncoder(model, scheduler).warm()


def assert_same(found: list[Outcome], expected: list[Outcome]) -> None:
    assert [one.index for one in found] == [one.index for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert type(one.error) is type(other.error)
        assert one.note == other.note
        if one.error is None:
            assert (
                np.abs(one.vector - other.vector).max() < 1e-4
            )  # batches of other sizes round in other ways
            assert one.norm == pytest.approx(other.norm, rel=1e-3)
        else:
            assert str(one.error) == str(other.error)


@pytest.fixture(scope="module")
def mixed(photographs: dict[str, Path]) -> list[object]:
    """Texts and pictures of every kind, and some that are none."""
    path = photographs["chelsea"]
    return [
        "a red dress",
        path.read_bytes(),
        "far too long " * 400,
        b"no picture",
        Image.new("RGB", (50, 30), "red"),
        "",
        path,
        np.zeros((20, 20, 3), np.uint8),
        "Umlaute \udc80 äöü",
    ]


def test_outcomes_are_those_of_the_model(shared, model, mixed):
    assert_same(shared.outcomes(mixed), model.outcomes(mixed))
    assert_same(shared.outcomes("one text"), model.outcomes("one text"))
    assert_same(shared.outcomes([]), [])


def test_outcomes_are_each_one_s_own_when_many_ask_at_once(shared, model, mixed):
    texts = [f"a thing of the number {number} " + "and more " * (number % 7) for number in range(40)]
    asked = [[texts[n], mixed[n % len(mixed)], texts[-n]] for n in range(12)]
    expected = [model.outcomes(inputs) for inputs in asked]

    async def from_a_loop(lists):
        return await asyncio.gather(*[shared.embed(inputs) for inputs in lists])

    with ThreadPoolExecutor(6) as pool:
        loops = [
            pool.submit(lambda part=part: asyncio.run(from_a_loop(part))) for part in (asked, asked[::-1])
        ]
        plain = list(pool.map(shared.outcomes, asked))
        found, backwards = (loop.result(SECONDS) for loop in loops)
    for place, outcomes in enumerate(expected):
        assert_same(plain[place], outcomes)
        assert_same(found[place].outcomes, outcomes)
        assert_same(backwards[-1 - place].outcomes, outcomes)


def test_an_answer_says_what_it_took(shared, photographs):
    long = "far too long " * 400
    answer = asyncio.run(shared.embed(["a red dress", long, photographs["coffee"].read_bytes()]))
    assert answer.tokens > 256
    assert answer.cut > 500
    assert answer.outcomes[1].note.startswith("cut to 256 tokens")
    assert answer.ran > 0
    assert answer.decoded > 0
    assert answer.waited >= 0


def test_an_array_that_is_ready_is_taken_as_it_is(shared, model):
    low, high = model.image.tower.steps.bounds
    array = np.linspace(low, high, 3 * 224 * 224, dtype=np.float32).reshape(3, 224, 224)
    inputs = [Prepared(array), Prepared(array[:, :5]), Prepared(array * 100), "a text"]
    ready, narrow, bright, text = shared.outcomes(inputs)
    assert isinstance(narrow.error, InputError)
    assert isinstance(bright.error, InputError)
    assert_same([Outcome(3, text.vector, text.norm)], [Outcome(3, model.embed(["a text"])[0], text.norm)])
    (expected,) = model.adapted(preprocess="none").outcomes([array])
    assert_same([ready], [expected])


def test_lanes_are_made_once_whatever_number_asks(model, scheduler):
    fresh = SharedEncoder(model, scheduler)
    together = threading.Barrier(8)

    def lane(_: int) -> object:
        together.wait(SECONDS)
        return fresh.text_lane(model.text, "")

    with ThreadPoolExecutor(8) as pool:
        assert len({id(found) for found in pool.map(lane, range(8))}) == 1
    assert len(fresh.lanes()) == 1


def test_how_fast_a_tower_is_is_known_before_anybody_asks(model, scheduler):
    warm = SharedEncoder(model, scheduler).warm()
    assert len(warm.lanes()) == 2
    assert all(lane.speed > 0 for lane in warm.lanes())


def failing(shared: SharedEncoder, bad: str) -> SharedEncoder:
    """The model on a network that fails on one text."""
    found = SharedEncoder(shared.encoder, shared._scheduler)
    lane = found.text_lane(shared.encoder.text, "")
    through = lane.run
    (ids,) = [tokens.ids for tokens in shared.encoder.text.tokens([bad])]

    def run(payloads):
        if any(tokens.ids == ids for tokens in payloads):
            raise RuntimeError("the network stumbles")
        return through(payloads)

    lane.run = run
    return found


def test_a_model_that_fails_on_one_input_says_so_at_its_place(shared):
    stumbling = failing(shared, "stumble")
    good, bad, other = stumbling.outcomes(["good", "stumble", "other"])
    assert good.error is None
    assert other.error is None
    assert "failed on this input alone" in str(bad.error)
    with pytest.raises(ModelError):
        stumbling.outcomes(["stumble"])


def test_a_model_can_be_unloaded_while_it_is_asked(model):
    scheduler = Scheduler(2, queue_seconds=600.0)
    models = Models(scheduler)
    models.add("mini", model)
    models.add("twin", model)
    texts = [f"text {number}" for number in range(30)]
    expected = model.outcomes(texts)

    async def ask(name: str) -> list[Outcome]:
        return (await (await models.got(name)).embed(texts)).outcomes

    async def all_of_it() -> list[list[Outcome]]:
        asking = [asyncio.ensure_future(ask(name)) for name in ("mini", "twin") * 3]
        while not scheduler.held_bytes():
            await asyncio.sleep(0.001)
        await asyncio.to_thread(models.unload, "mini")
        return await asyncio.gather(*asking)

    for outcomes in asyncio.run(all_of_it()):
        assert_same(outcomes, expected)
    assert scheduler.stop(SECONDS)
    assert scheduler.waiting_inputs() == {}
    with pytest.raises(BusyError):
        models.get("mini").outcomes(["late"])
