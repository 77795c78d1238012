"""The map: where points lie, what is known of them, and a page that a browser draws."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.judge.browser import browser

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import QueryError
from bowerbird.judge.atlas import CATEGORIES, Atlas, atlas, colours_of
from bowerbird.judge.atlas_page import atlas_page
from bowerbird.judge.gap import gap_of
from bowerbird.judge.projection import flat


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder, picture: Callable[..., bytes]
) -> bb.Index:
    """Twenty pictures with texts, five pictures, five texts; a brand and a price."""
    path = tmp_path_factory.mktemp("atlas") / "shop.bower"
    records = [
        Record(
            f"{n:02}",
            picture(n) if n < 25 else None,
            (f"blocks <b>number {n}</b>",) if n < 20 or n >= 25 else (),
            {"brand": "abc"[n % 3], "price": float(n) if n else None},
        )
        for n in range(30)
    ]
    Collection.from_items(records).embed(model).write(path)
    return bb.Index.open(path, model)


def test_every_picture_and_every_text_is_a_point(shop: bb.Index) -> None:
    found = atlas(shop, method="pca")
    assert len(found.places) == 50
    assert np.count_nonzero(found.texts) == 25
    assert sorted(found.ids) == [f"{n:02}" for n in range(30)]
    parts = {id_: [] for id_ in found.ids}
    for owner, text in zip(found.owners, found.texts, strict=True):
        parts[found.ids[owner]].append(bool(text))
    assert all(sorted(parts[f"{n:02}"]) == ([False, True] if n < 20 else [n >= 25]) for n in range(30))
    assert found.places.min() >= 0
    assert found.places.max() <= 1
    assert found.corrected
    assert {found.ids[at] for at in found.thumbnails} == {f"{n:02}" for n in range(25)}
    again = atlas(shop, method="pca")
    np.testing.assert_array_equal(again.places, found.places)
    assert again.thumbnails == found.thumbnails


def test_raw_leaves_two_islands_and_the_default_does_not(shop: bb.Index) -> None:
    def apart(found: Atlas) -> float:
        one, other = found.places[found.texts], found.places[~found.texts]
        return float(np.linalg.norm(one.mean(0) - other.mean(0)))

    raw, moved = atlas(shop, raw=True, method="pca"), atlas(shop, method="pca")
    assert not raw.corrected
    assert apart(raw) > 3 * apart(moved)


def test_what_is_left_out_is_said(shop: bb.Index) -> None:
    found = atlas(shop, points=20, thumbnails=2, method="pca")
    assert len(found.places) <= 20
    assert len(found.thumbnails) == 2
    assert len(found.notes) == 2
    assert "of 30 records are on the map" in found.notes[0]
    assert "2 of " in found.notes[1]
    both = [at for at in range(len(found.ids)) if np.count_nonzero(found.owners == at) == 2]
    whole = [at for at in range(len(found.ids)) if int(found.ids[at]) < 20]
    assert both == whole  # never half a record
    assert atlas(shop, thumbnails=0, method="pca").thumbnails == {}


def test_an_index_of_pictures_alone_uses_the_output_between_pictures(
    tmp_path: Path, model: bb.Encoder, photographs: dict[str, Path]
) -> None:
    index = bb.Index.create(tmp_path / "photos.bower", model)
    index.add(list(photographs.values()))
    found = atlas(index)
    assert not found.corrected
    assert not found.texts.any()
    vectors = [row for batch in index.table.scan([index.columns[-1].name]) for row in batch.to_pylist()]
    expected, _ = flat(np.array([next(iter(row.values())) for row in vectors], np.float32), method="pca")
    np.testing.assert_allclose(np.sort(found.places, axis=0), np.sort(expected, axis=0), atol=1e-3)
    assert found.method == "PCA"


def test_colours(shop: bb.Index) -> None:
    brands = atlas(shop, colour="brand", method="pca").colours
    assert brands is not None
    assert brands.labels == ("a", "b", "c")
    assert not brands.scale
    prices = atlas(shop, colour="price", method="pca").colours
    assert prices is not None
    assert prices.scale
    assert prices.labels == ("1", "15", "29")
    assert sorted(prices.values)[0] == -1.0
    assert max(prices.values) == 1.0
    with pytest.raises(QueryError, match="Did you mean brand"):
        atlas(shop, colour="brnad")
    with pytest.raises(QueryError, match="no vectors of the model"):
        atlas(shop, model="nothing")


@given(st.lists(st.none() | st.sampled_from([f"value {n}" for n in range(14)]), max_size=60))
def test_the_most_frequent_categories_have_a_colour_of_their_own(values: list[str | None]) -> None:
    found = colours_of("x", values)
    assert not found.scale
    assert len(found.values) == len(values)
    for value, number in zip(values, found.values, strict=True):
        assert (number == -1) == (value is None)
        if value is not None and number < CATEGORIES:
            assert found.labels[int(number)] == value
    counts = [values.count(label) for label in found.labels if label != "others"]
    assert counts == sorted(counts, reverse=True)


@given(st.lists(st.none() | st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=40, max_size=60))
def test_numbers_lie_on_a_scale_in_their_order(values: list[float | None]) -> None:
    found = colours_of("x", values)
    told = [(v, r) for v, r in zip(values, found.values, strict=True) if v is not None and not math.isnan(v)]
    if found.scale:
        ranks = [rank for _, rank in sorted(told)]
        assert ranks == sorted(ranks)
        assert (min(ranks), max(ranks)) == (0, 1)
    else:
        assert len({value for value, _ in told}) <= CATEGORIES


def test_times_lie_on_a_scale_and_booleans_do_not() -> None:
    times = [datetime(2020, 1, day) for day in range(1, 20)]
    assert colours_of("x", times).labels == ("2020-01-01", "2020-01-10", "2020-01-19")
    assert colours_of("x", [True, False, True]).labels == ("True", "False")


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_it_all_and_escapes_it(shop: bb.Index) -> None:
    found = atlas(shop, colour="brand", method="pca")
    page = atlas_page(found, place="</script><b>shop")
    data = data_of(page)
    assert data["captions"] == list(found.captions)
    assert "<b>number" not in page
    assert "<b>shop" not in page
    places = np.frombuffer(base64.b64decode(str(data["places"])), "<u2").reshape(-1, 2) / 65535
    np.testing.assert_allclose(places, found.places, atol=1 / 65535)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", re.sub(r"base64,[^\"]*", "", page))
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(", page)
    assert page == atlas_page(atlas(shop, colour="brand", method="pca"), place="</script><b>shop")


@pytest.mark.slow
def test_umap_draws_the_same_map_again() -> None:
    pytest.importorskip("umap", reason="needs umap-learn")
    rng = np.random.default_rng(0)
    middles = np.eye(3, 32)
    rows = np.repeat(middles, 30, axis=0) + 0.1 * rng.normal(size=(90, 32))
    places, how = flat(rows.astype(np.float32))
    assert how == "PCA, then UMAP"
    again, _ = flat(rows.astype(np.float32))
    np.testing.assert_array_equal(places, again)
    groups = places.reshape(3, 30, 2)
    within = max(np.linalg.norm(g - g.mean(0), axis=1).mean() for g in groups)
    between = min(np.linalg.norm(groups[a].mean(0) - groups[b].mean(0)) for a in range(3) for b in range(a))
    assert between > 3 * within


def test_records_that_are_all_alike_are_one_point(tmp_path: Path, model: bb.Encoder, picture) -> None:
    """UMAP has no place for them."""
    same = picture(1)
    Collection.from_items([Record(f"{n}", same) for n in range(40)]).embed(model).write(
        tmp_path / "same.bower"
    )
    found = atlas(bb.Index.open(tmp_path / "same.bower", model))
    np.testing.assert_array_equal(found.places, np.full((40, 2), 0.5, np.float32))
    assert found.method == "no spread: all vectors are the same"
    assert "all vectors are the same" in atlas_page(found, place="same.bower")


@pytest.mark.parametrize("look", [atlas, gap_of], ids=["map", "gap"])
def test_several_models_are_too_many(twins: bb.Index, look: Callable[..., object]) -> None:
    with pytest.raises(QueryError, match="'both' means 2 models"):
        look(twins, model="both")


def test_two_models_of_one_name_are_told_apart(twins: bb.Index) -> None:
    for entry in twins.manifest.models:
        assert atlas(twins, model=entry.space, method="pca").model == entry.source
        assert gap_of(twins, entry.space)[0].model == entry.source


LIST, CARD = "document.getElementById('list')", "document.getElementById('card')"
INK = """(() => { const canvas = document.getElementById('canvas');
const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
let sum = 0; for (let at = 3; at < data.length; at += 4) sum += data[at] > 0; return sum; })()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_draws_it(shop: bb.Index, tmp_path: Path, dark: bool) -> None:
    page = tmp_path / "map.html"
    page.write_text(atlas_page(atlas(shop, method="pca"), place="shop.bower"), "utf-8")
    with browser(tmp_path / "profile") as tab:
        tab.open(page, dark=dark)
        tab.until(f"{INK} > 200")
        tab.until(f"{LIST}.children.length === 30")
        box = tab.value("(({x, y, width, height}) => [x, y, width, height])(canvas.getBoundingClientRect())")
        tab.value(f"{LIST}.querySelector('button').click()")
        tab.until(f"!{CARD}.hidden && {CARD}.classList.contains('pinned')")
        assert tab.value(f"{CARD}.querySelector('strong').textContent") in {f"{n:02}" for n in range(30)}
        tab.key("Escape")
        tab.until(f"{CARD}.hidden")
        tab.mouse("mouseWheel", box[0] + box[2] / 2, box[1] + box[3] / 2, deltaX=0, deltaY=-900)
        tab.until(f"{LIST}.children.length < 30")
        tab.value("document.getElementById('fit').click()")
        tab.until(f"{LIST}.children.length === 30")
        tab.value("document.getElementById('find').focus()")
        tab.send("Input.insertText", text="NUMBER 19")
        tab.until(f"{LIST}.children.length === 1 && {LIST}.textContent.includes('number 19')")
        tab.value("document.getElementById('find').select()")
        tab.send("Input.insertText", text="")
        tab.until(f"{LIST}.children.length === 30")
        tab.value("document.querySelector('.chip').click()")
        tab.until(f"{LIST}.children.length === 25")  # pictures are switched off: those that have a text
        assert tab.value("document.querySelector('.chip').getAttribute('aria-pressed')") == "false"
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")
        assert tab.errors == []


def test_hovering_shows_a_card_with_picture_and_text(shop: bb.Index, tmp_path: Path) -> None:
    found = atlas(shop, method="pca")
    page = tmp_path / "map.html"
    page.write_text(atlas_page(found, place="shop.bower"), "utf-8")
    with browser(tmp_path / "profile") as tab:
        tab.open(page, width=500, height=1400)
        tab.until(f"{LIST}.children.length === 30")
        x, y, wide, high = tab.value(
            "(({x, y, width, height}) => [x, y, width, height])(canvas.getBoundingClientRect())"
        )
        side = 0.94 * min(wide, high)
        # One that no other point is near.
        apart = np.linalg.norm(found.places[:, None] - found.places[None], axis=2) + 9 * np.eye(
            len(found.places)
        )
        at = int(np.argmax(np.where(found.texts, 0, apart.min(1))))
        place = found.places[at].tolist()
        left, top = x + wide / 2 + (place[0] - 0.5) * side, y + high / 2 + (0.5 - place[1]) * side
        tab.mouse("mouseMoved", left, top)
        tab.until(f"!{CARD}.hidden && {CARD}.querySelector('img') !== null")
        name = found.names[found.owners[at]]
        assert tab.value(f"{CARD}.querySelector('strong').textContent") == name
        assert not tab.value(f"{CARD}.classList.contains('pinned')")
        button = {"button": "left", "clickCount": 1}
        tab.mouse("mousePressed", left, top, **button)
        tab.mouse("mouseReleased", left, top, **button)
        tab.until(f"{CARD}.classList.contains('pinned')")
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")
        assert tab.errors == []
