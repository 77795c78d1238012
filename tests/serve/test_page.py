"""The page in a real browser against a real server: what visitors do, and what they must not be able to do."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

from playwright import sync_api
from tests.serve.servers import SECONDS, serving

import bowerbird as bb
from bowerbird.hits import Hits
from bowerbird.serve.api.app import build
from bowerbird.serve.indexed import Ask
from bowerbird.serve.keys import Keys
from bowerbird.serve.page import Page, mount
from bowerbird.serve.page.drawing import Drawings
from bowerbird.serve.service import LocalService

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="chromium is not on this machine")

EVIL = (
    "<script>window.evil = 1</script> red circle",
    '<img src=x onerror="window.evil = 2"> red square',
    "[a link](javascript:window.evil=3) **bold** green circle",
    "{{#each x}}${window.evil = 4}`{{/each}} green square",
    "دائرة زرقاء للصيف 🔵 <b onmouseover=window.evil=5>",
)

WAIT = 1000 * SECONDS


class Pages:
    """The page of a service, started in the loop of its server."""

    def __init__(self, page: Page, app: Any) -> None:
        self.page = page
        self.app = app
        self.there = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._tasks.append(asyncio.get_running_loop().create_task(self._start()))

        async def told() -> Any:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.page.close()
            return message

        await self.app(scope, told, send)

    async def _start(self) -> None:
        await self.page.start()
        self.there.set()


def close(service: LocalService) -> None:
    """In a thread of its own: Playwright has a loop in this one."""
    closing = threading.Thread(target=lambda: asyncio.run(service.close()))
    closing.start()
    closing.join()


@contextmanager
def paged(place: Path, keys: Keys | None = None) -> Iterator[str]:
    """A service with its page, at an address."""
    service = LocalService(str(place))
    door = build(service, keys=keys)
    pages = Pages(mount(door.app, service, keys=keys, admission=door.admission), door)
    try:
        with serving(pages) as address:
            assert pages.there.wait(4 * SECONDS), "the page does not start"
            yield address
    finally:
        close(service)


@pytest.fixture(scope="module")
def evil_index(
    tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder, drawn: Callable[..., bytes]
) -> Path:
    """Drawn shapes under two models; captions, ids and attributes of some would like to be HTML."""
    folder = tmp_path_factory.mktemp("page")
    records = []
    shapes = [(c, s) for c in ("red", "green", "blue", "yellow", "purple") for s in ("circle", "square")]
    for number, (colour, shape) in enumerate(shapes):
        path = folder / f"{colour}-{shape}.png"
        path.write_bytes(drawn(colour, shape))
        text = EVIL[number] if number < len(EVIL) else f"a {colour} {shape}"
        id_ = '<i onmouseover="window.evil=6">/../a b%?#"' if number == 0 else path.stem
        records.append(bb.Record(id_, path, (text,), {"price": 5.5 * number, "brand": "<u>acme</u>"}))
    records.append(bb.Record("note", None, ("a note about deep sea fishing",), {"price": 1.0}))
    bb.Collection.from_items(records).embed(model).write(folder / "shapes.bower")
    bb.Index.open(folder / "shapes.bower", model).add_model(bb.load("mini", dimensions=64))
    return folder / "shapes.bower"


@pytest.fixture(scope="module")
def address(evil_index: Path) -> Iterator[str]:
    """Of a service that wants no key."""
    with paged(evil_index) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Visit:
    """A visitor's tab, and what went wrong in it."""

    tab: Any
    address: str
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note errors, and requests to anywhere else."""
        own = (self.address, "data:", "blob:")
        self.tab.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", lambda one: one.url.startswith(own) or self.faults.append(f"asked {one.url}"))

    def open(self) -> None:
        self.tab.goto(f"{self.address}/")
        self.tab.wait_for_selector("#board .welcome, #board .cards", timeout=WAIT)

    def answered(self) -> None:
        """Wait until nothing is asked any more."""
        self.tab.wait_for_function("!document.body.classList.contains('busy')", timeout=WAIT)

    def ask(self, words: str) -> None:
        """As somebody types and presses Enter."""
        box = self.tab.get_by_label("Search by words")
        box.fill(words)
        box.press("Enter")
        self.tab.locator("#asked .chip q", has_text=words).wait_for(timeout=WAIT)
        self.answered()

    def options(self) -> None:
        """Open them, and wait until Gradio has set them up: until then it may undo what is typed at once."""
        self.tab.get_by_role("button", name="Options").click()
        self.tab.locator("#k input[type=number]").wait_for()
        idle = (
            "new Promise(done => requestIdleCallback(() => setTimeout(() => requestIdleCallback(done), 300)))"
        )
        self.tab.evaluate(idle)

    @property
    def ids(self) -> list[str]:
        """What is found, best first."""
        found: list[str] = self.tab.eval_on_selector_all(
            "#board .card", "all => all.map(one => decodeURIComponent(one.dataset.id))"
        )
        return found


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    """On a desk."""
    with visiting(browser, address) as one:
        one.open()
        yield one
        assert not one.faults


@contextmanager
def visiting(browser: Any, address: str, **options: Any) -> Iterator[Visit]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(WAIT)
    one = Visit(context.new_page(), address)
    one.watch()
    try:
        yield one
    finally:
        context.close()


# In a browser


@needs_chromium
def test_words_are_searched_and_pieces_taken_back(visit: Visit) -> None:
    tab = visit.tab
    assert tab.title() == "Bowerbird"
    visit.ask("a yellow square")
    assert visit.ids[0] == "yellow-square"
    assert "%" in tab.locator("#board .card .match").first.inner_text()
    tab.locator("#board .card", has_text="a yellow circle").get_by_role(
        "button", name="Less like this"
    ).click()
    tab.locator(".chip.unlike").wait_for()
    visit.answered()
    assert "yellow-circle" not in visit.ids
    tab.locator("#board .card", has_text="a purple square").get_by_role(
        "button", name="More like this"
    ).click()
    tab.locator(".chip.like").wait_for()
    tab.locator("#blend").wait_for(state="visible")
    tab.get_by_role("button", name="Take back: the words a yellow square").click()
    tab.locator(".chip.text").wait_for(state="detached")
    visit.answered()
    assert tab.get_by_label("Search by words").input_value() == ""
    assert visit.ids[0] == "purple-circle" or "purple-square" not in visit.ids[:1]
    tab.get_by_role("button", name="Start over").click()
    tab.locator("#board .welcome").wait_for()


@needs_chromium
def test_other_words_begin_anew(visit: Visit) -> None:
    """What results were narrowed by goes with the words that they were of, but for what is kept."""
    tab = visit.tab
    visit.ask("a yellow square")
    more = tab.locator("#board .card", has_text="a purple square").get_by_role(
        "button", name="More like this"
    )
    more.click()
    tab.locator(".chip.like").wait_for()
    visit.answered()
    visit.ask("deep sea fishing")
    assert tab.locator(".chip.like").count() == 0
    assert visit.ids[0] == "note"
    tab.get_by_role("button", name="Start over").wait_for(state="detached")
    visit.ask("a yellow square")
    more.click()
    keep = tab.get_by_role("button", name="Keep: more like")
    keep.click()
    tab.locator(".chip.like .keep[aria-pressed=true]").wait_for()
    visit.answered()
    visit.ask("a yellow circle")
    assert tab.locator(".chip.like").count() == 1


@needs_chromium
def test_faint_results_are_folded_below(visit: Visit) -> None:
    tab = visit.tab
    visit.ask("deep sea fishing")
    listed = tab.eval_on_selector_all(
        "#board .card",
        "all => all.map(one => [!!one.closest('.faint'), one.querySelector('.figure').textContent])",
    )
    matches = [(folded, int("".join(filter(str.isdigit, said)))) for folded, said in listed]
    assert {match < 25 for folded, match in matches if folded} == {True}
    assert {match >= 25 for folded, match in matches if not folded} == {True}
    hidden = tab.locator("#board .faint .card").first
    assert not hidden.is_visible()
    tab.get_by_text("Less alike").click()
    hidden.wait_for(state="visible")


@needs_chromium
def test_what_pictures_alone_can_be_asked(
    browser: Any, tmp_path: Path, model: bb.Encoder, drawn: Callable[..., bytes]
) -> None:
    """Nothing is offered that would only fail: no texts to search, nothing to compare."""
    records = []
    for colour in ("red", "green", "blue"):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(drawn(colour, "circle"))
        records.append(bb.Record(colour, path))
    bb.Collection.from_items(records).embed(model).write(tmp_path / "drawn.bower")
    with paged(tmp_path / "drawn.bower") as address, visiting(browser, address) as visit:
        visit.open()
        tab = visit.tab
        assert "3 pictures" in tab.locator("#head").inner_text()
        assert tab.get_by_role("tab").all_inner_texts() == ["Results", "Collection"]
        tab.get_by_role("button", name="Options").click()
        assert tab.get_by_label("Search in").count() == 0
        where = tab.get_by_label("Only those where")
        example = where.get_attribute("placeholder")
        visit.ask("a red circle")
        where.fill(example or "")
        where.press("Enter")
        tab.locator(".chip.where").wait_for()
        visit.answered()
        assert tab.locator(".notice.alert").count() == 0
        assert not tab.locator("#board .tag").count()
        assert not visit.faults


@needs_chromium
def test_a_picture_is_searched_with(visit: Visit, drawn: Callable[..., bytes]) -> None:
    tab = visit.tab
    tab.get_by_role("button", name="Search by picture").click()
    given = {"name": "mine.png", "mimeType": "image/png", "buffer": drawn("purple", "circle")}
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files(given)
    tab.locator(".chip.picture").wait_for()
    visit.answered()
    assert "purple-circle" in visit.ids[:2]
    broken = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    tab.locator("#picture input[type=file]").set_input_files(broken)
    tab.locator("#picture .fault", has_text="not").wait_for()
    assert any("422" in fault for fault in visit.faults), "the browser itself notes that it was refused"
    visit.faults.clear()


@needs_chromium
def test_a_picture_is_pasted_and_dropped(visit: Visit, drawn: Callable[..., bytes]) -> None:
    tab = visit.tab
    give = """([bytes, kind]) => {
      const carried = new DataTransfer();
      carried.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
      const name = kind === "paste" ? "clipboardData" : "dataTransfer";
      const made = kind === "paste" ? new ClipboardEvent("paste", { [name]: carried, bubbles: true })
        : new DragEvent("drop", { [name]: carried, bubbles: true, cancelable: true });
      document.body.dispatchEvent(made);
    }"""
    tab.evaluate(give, [list(drawn("green", "square")), "paste"])
    tab.locator(".chip.picture").wait_for()
    visit.answered()
    assert visit.ids
    first = tab.locator(".chip.picture img").get_attribute("src")
    tab.evaluate(give, [list(drawn("blue", "circle")), "drop"])
    tab.wait_for_function(
        "before => document.querySelector('.chip.picture img')?.getAttribute('src') !== before", arg=first
    )


@needs_chromium
def test_the_last_question_is_the_one_that_is_answered(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    search = LocalService.search

    async def slow(self: LocalService, ask: Ask) -> Hits:
        await asyncio.sleep(0.0 if ask.where else 1.5)
        return await search(self, ask)

    monkeypatch.setattr(LocalService, "search", slow)
    tab = visit.tab
    visit.options()
    box, where = tab.get_by_label("Search by words"), tab.get_by_label("Only those where")
    for words in ("a green circle", "a purple square"):  # asked before the first is answered
        box.fill(words)
        box.press("Enter")
        tab.wait_for_timeout(300)
    tab.locator("#asked .chip q", has_text="a purple square").wait_for()
    visit.answered()
    assert visit.ids[0] == "purple-square"
    least = tab.get_by_label("number input for Least match, in percent")
    least.fill("1")
    least.press("Enter")
    tab.wait_for_timeout(300)
    where.fill("nonsense ===")  # refused at once, while the one before is still being answered
    where.press("Enter")
    tab.locator("#fault .notice.alert").wait_for()
    tab.wait_for_timeout(2000)
    assert tab.locator("#fault .notice.alert").count() == 1


@needs_chromium
def test_nothing_matches_is_said(visit: Visit) -> None:
    tab = visit.tab
    visit.options()
    least = tab.get_by_label("number input for Least match, in percent")
    least.fill("100")
    least.press("Enter")
    visit.ask("a lecture on quantum chromodynamics")
    tab.locator(".notice", has_text="Nothing matches").wait_for()
    assert tab.locator("#board .card.faded").count() == len(visit.ids) > 0
    least.fill("0")
    least.press("Enter")
    where = tab.get_by_label("Only those where")
    where.fill("nonsense ===")
    where.press("Enter")
    tab.locator("#fault .notice.alert").wait_for()
    where.fill("price > 40")
    where.press("Enter")
    tab.locator("#board .card").first.wait_for()
    visit.answered()
    assert set(visit.ids) <= {"purple-circle", "purple-square"}
    assert tab.locator(".notice.alert").count() == 0
    tab.get_by_role("button", name="Take back: the filter").click()
    tab.locator(".chip.where").wait_for(state="detached")
    assert where.input_value() == ""


@needs_chromium
def test_more_results_follow(visit: Visit) -> None:
    tab = visit.tab
    visit.options()
    number = tab.get_by_label("number input for Results at a time")
    number.fill("6")
    number.press("Enter")
    visit.ask("a shape")
    assert len(visit.ids) == 6
    tab.get_by_role("button", name="More results").click()
    tab.wait_for_function("document.querySelectorAll('#board .card').length > 6")
    assert len(set(visit.ids)) == len(visit.ids)


@needs_chromium
def test_two_models_side_by_side(visit: Visit) -> None:
    tab = visit.tab
    visit.ask("a red circle")
    tab.get_by_role("tab", name="Compare").click()
    tab.locator("#sides .side").nth(1).locator(".card").first.wait_for()
    assert "found on both sides" in tab.locator("#common").inner_text()
    assert tab.locator("#sides .tag.both").count() > 0


@needs_chromium
def test_near_copies_lie_behind_the_first(
    browser: Any, tmp_path: Path, model: bb.Encoder, drawn: Callable[..., bytes]
) -> None:
    """One picture saved again is folded; the same shape in another colour is not."""
    from PIL import Image

    files = {}
    for colour in ("red", "blue"):
        files[colour] = tmp_path / f"{colour}.png"
        files[colour].write_bytes(drawn(colour, "circle"))
    for quality in (60, 90):
        files[f"again-{quality}"] = tmp_path / f"again-{quality}.jpg"
        Image.open(files["red"]).convert("RGB").save(files[f"again-{quality}"], quality=quality)
    bb.Collection.from_items([bb.Record(id_, path) for id_, path in files.items()]).embed(model).write(
        tmp_path / "copies.bower"
    )
    with paged(tmp_path / "copies.bower") as address, visiting(browser, address) as visit:
        visit.open()
        visit.ask("a red circle")
        tab = visit.tab
        seen = tab.locator("#board .card:visible")
        assert (seen.count(), len(visit.ids)) == (2, 4)
        tab.get_by_role("button", name="2 near copies").click()
        assert seen.count() == 4
        places = [place for place, id_ in enumerate(visit.ids) if id_ != "blue"]
        assert places in ([0, 1, 2], [1, 2, 3]), "they are shown one behind the other"
        assert not visit.faults


@needs_chromium
def test_a_closer_look_leads_on(visit: Visit) -> None:
    tab = visit.tab
    visit.ask("a yellow square")
    tab.locator("#board .card .shown").first.click()
    dialog = tab.locator("dialog.closer")
    first = dialog.locator("h2").inner_text()
    tab.wait_for_function("document.querySelector('dialog.closer img').naturalWidth > 0")
    tab.keyboard.press("ArrowRight")
    assert dialog.locator("h2").inner_text() != first
    tab.keyboard.press("ArrowLeft")
    assert dialog.locator("h2").inner_text() == first
    dialog.get_by_role("button", name="More like this").click()
    tab.locator(".chip.like").wait_for()
    assert dialog.count() == 0


@needs_chromium
def test_sliders_are_moved_by_keys(visit: Visit) -> None:
    tab = visit.tab
    visit.options()
    visit.ask("a lecture on quantum chromodynamics")
    tab.get_by_label("range slider for Least match, in percent").focus()
    tab.keyboard.press("End")
    tab.locator(".notice", has_text="Nothing matches").wait_for()


@needs_chromium
@pytest.mark.slow
def test_the_index_is_drawn(visit: Visit) -> None:
    tab = visit.tab
    tab.get_by_role("tab", name="Collection").click()
    for name, kind, title in (
        ("Map", "map", "Bowerbird map"),
        ("Gap between pictures and texts", "gap", "Bowerbird modality gap"),
        ("Health", "health", "Bowerbird doctor"),
    ):
        tab.get_by_role("radio", name=name).check()
        frame = tab.frame_locator(f"iframe.{kind}")
        frame.locator(".brand", has_text=title).wait_for(timeout=4 * WAIT)
    assert not visit.tab.evaluate("'evil' in window")


@needs_chromium
def test_what_strangers_wrote_is_text(visit: Visit) -> None:
    tab = visit.tab
    for words in ("red <script>window.evil=7</script><img src=x onerror=window.evil=8>", "shape"):
        visit.ask(words)
    shown = tab.locator("#board .card .text").all_inner_texts()
    for text in EVIL:
        assert text in shown
    card = tab.locator("#board .card", has_text="window.evil = 1")
    card.get_by_role("button", name="look closer").click()
    dialog = tab.locator("dialog.closer")
    dialog.wait_for()
    assert "<u>acme</u>" in dialog.inner_text()
    dialog.get_by_text("Technical details").click()
    assert '<i onmouseover="window.evil=6">/../a b%?#"' in dialog.inner_text()
    tab.wait_for_function("document.querySelector('dialog.closer img').naturalWidth > 0")
    dialog.get_by_role("button", name="Close").click()
    card.get_by_role("button", name="More like this").click()
    tab.locator(".chip.like").wait_for()
    visit.answered()
    for inside in ("#board", "#asked"):
        assert tab.locator(f"{inside} script, {inside} u, {inside} i, {inside} b, {inside} a").count() == 0
    assert not tab.evaluate("'evil' in window")


@needs_chromium
def test_the_keyboard_is_enough(visit: Visit) -> None:
    tab = visit.tab
    tab.locator("body").press("/")
    assert tab.evaluate("document.activeElement.closest('#words') !== null")
    tab.keyboard.type("a blue square")
    tab.keyboard.press("Enter")
    tab.locator("#asked .chip.text").wait_for()
    visit.answered()
    tab.get_by_label("Search by words").focus()
    reached: list[str] = []
    for _ in range(24):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate(
                "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText || ''"
            )
        )
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"where the focus is cannot be seen: {reached[-1]!r}"
        if reached[-1].startswith("More like this"):
            break
    order = [
        "Search by picture",
        "Search",
        "Options",
        "Take back",
        "Results",
        "look closer",
        "More like this",
    ]
    places = [next((at for at, name in enumerate(reached) if wanted in name), -1) for wanted in order]
    assert -1 not in places
    assert places == sorted(places)
    tab.keyboard.press("Enter")
    tab.locator(".chip.like").wait_for()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser: Any, address: str, scheme: str) -> None:
    size = {"width": 375, "height": 812}
    with visiting(
        browser, address, viewport=size, color_scheme=scheme, has_touch=True, is_mobile=True
    ) as visit:
        visit.open()
        visit.ask("a red circle")
        tab = visit.tab
        wide = "document.documentElement.scrollWidth"
        assert tab.evaluate(wide) == 375
        lefts = tab.eval_on_selector_all(
            "#board .card", "all => all.map(one => Math.round(one.getBoundingClientRect().left))"
        )
        assert len(set(lefts)) == 2
        tab.get_by_role("button", name="Options").click()
        assert tab.evaluate(wide) == 375
        dark = tab.evaluate("getComputedStyle(document.querySelector('.gradio-container')).backgroundColor")
        assert (dark == "rgb(17, 19, 24)") == (scheme == "dark")
        heights = tab.eval_on_selector_all(
            ".card .do button, #go, .chip button", "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert min(heights) >= 32
        assert not visit.faults


@needs_chromium
def test_whoever_has_a_key_signs_in(browser: Any, evil_index: Path) -> None:
    keys = Keys(text="sk-a-key-for-the-page name=anna")
    with paged(evil_index, keys) as address, visiting(browser, address) as visit:
        tab = visit.tab
        tab.goto(f"{address}/")
        tab.get_by_label("API key").fill("sk-some-other-key")
        tab.get_by_role("button", name="Sign in").click()
        tab.get_by_text("There is no such key.").wait_for()
        tab.get_by_label("API key").fill("sk-a-key-for-the-page")
        tab.get_by_role("button", name="Sign in").click()
        tab.locator("#board .welcome").wait_for()
        (cookie,) = tab.context.cookies()
        assert cookie["name"].endswith(address.rpartition(":")[2]), "another service on this host has its own"
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert "sk-a-key" not in cookie["value"]
        visit.ask("a red circle")
        assert tab.locator("#board .card").first.is_visible()
        with httpx2.Client(base_url=address) as stranger:
            assert stranger.get("/").headers["location"] == "page/sign-in"
            for path in (
                "/page/image?id=red-square",
                "/page/drawing?kind=map",
                "/gradio_api/queue/data",
                "/theme.css",
            ):
                assert stranger.get(path).status_code == 401
        tab.get_by_role("button", name="Sign out").click()
        tab.get_by_label("API key").wait_for()
        assert not tab.context.cookies()


@needs_chromium
def test_what_is_asked_on_the_page_counts_among_what_a_key_is_allowed(
    browser: Any, evil_index: Path, drawn: Callable[..., bytes]
) -> None:
    secret = "sk-a-key-of-few-requests"
    with (
        paged(evil_index, Keys(text=f"{secret} name=bert rate=3")) as address,
        visiting(browser, address) as visit,
    ):
        tab = visit.tab
        tab.goto(f"{address}/")
        tab.get_by_label("API key").fill(secret)
        tab.get_by_role("button", name="Sign in").click()
        tab.locator("#board .welcome").wait_for()
        visit.ask("a red circle")
        cards = tab.locator("#board .card").count()
        with httpx2.Client(base_url=address, headers={"authorization": f"Bearer {secret}"}) as same:
            assert same.post("/v1/search", json={"text": "a shape"}).status_code == 200
            assert same.post("/v1/search", json={"text": "a shape"}).status_code == 429
        visit.ask("a green square")
        tab.locator("#board .notice", has_text="3 requests a minute are allowed").wait_for()
        assert tab.locator("#board .card").count() == cards, "what is there stays"
        give = (
            "async bytes => (await fetch('page/given', {method: 'POST', body: new Uint8Array(bytes)})).status"
        )
        assert tab.evaluate(give, list(drawn("red", "circle"))) == 429


# Without one


@pytest.fixture(scope="module")
def plain(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, timeout=SECONDS) as client:
        yield client


def test_only_what_the_page_needs_of_gradio_is_reached(plain: httpx2.Client) -> None:
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=https://example.com/",
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/upload",
        "/gradio_api/info",
        "/gradio_api/api/predict",
        "/config",
        "/monitoring",
        "/file=/etc/passwd",
        "/login",
    ):
        assert plain.get(path).status_code == 404, path
    for path in (
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2fpackage.json",
    ):
        assert plain.get(path).status_code in (403, 404), path
    assert plain.post("/gradio_api/upload", files={"files": b"x"}).status_code in (404, 405)


def test_the_document_leads_nowhere_else(plain: httpx2.Client) -> None:
    answer = plain.get("/")
    head = answer.text.split("</head>")[0]
    assert "<title>Bowerbird</title>" in head
    for outside in ("googleapis", "cloudflare", "huggingface", "raw.githubusercontent"):
        assert outside not in head
    for name in ("content-security-policy", "x-content-type-options", "referrer-policy"):
        assert len(answer.headers.get_list(name)) == 1, (
            "two of one header are read as the stricter, or as none"
        )
    policies = answer.headers["content-security-policy"]
    assert "connect-src 'self'" in policies
    assert "'unsafe-inline'" not in policies.split("script-src")[1].split(";")[0]


def test_pages_of_other_sites_cannot_ask(plain: httpx2.Client, drawn: Callable[..., bytes]) -> None:
    elsewhere = {"origin": "https://example.com"}
    assert plain.post("/page/given", content=drawn("red", "circle"), headers=elsewhere).status_code == 403
    assert plain.post("/gradio_api/queue/join", json={}, headers=elsewhere).status_code == 403


@pytest.mark.parametrize(
    "place", [lambda file: {"data": [file]}, lambda file: {"event_data": {"a": [[file]]}, "data": []}]
)
@pytest.mark.parametrize("path", ["https://192.0.2.1/a.png", "/etc/passwd"])
def test_gradio_is_given_no_files_to_open_or_fetch(
    plain: httpx2.Client, place: Callable[[Any], Any], path: str
) -> None:
    asked = {"fn_index": 0, "session_hash": "a", **place("words")}
    assert plain.post("/gradio_api/queue/join", json=asked).status_code == 200
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    refused = plain.post("/gradio_api/queue/join", json={**asked, **place(file)})
    assert refused.status_code == 422


def test_questions_that_are_none(plain: httpx2.Client) -> None:
    for body, status in ((b"{", 422), (b"[" * 100_000, 422), (b" " * (2 << 20), 413)):
        assert plain.post("/gradio_api/queue/join", content=body).status_code == status


def test_pictures_that_are_given(plain: httpx2.Client, drawn: Callable[..., bytes]) -> None:
    taken = plain.post("/page/given", content=drawn("red", "circle"))
    assert taken.status_code == 200
    shown = plain.get("/page/given", params={"name": taken.text})
    assert shown.headers["content-type"] == "image/jpeg"
    assert plain.get("/page/given", params={"name": "0" * 64}).status_code == 404
    assert plain.post("/page/given", content=b"<svg onload=alert(1)>").status_code == 422
    assert plain.post("/page/given", content=b"\0" * (33 << 20)).status_code == 413


def test_pictures_of_records(plain: httpx2.Client) -> None:
    for size, kind in (("thumbnail", "image/jpeg"), ("original", "image/png")):
        answer = plain.get("/page/image", params={"id": "blue-square", "size": size})
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    preview = plain.get("/page/image", params={"id": "blue-square", "size": "320"})
    assert (preview.status_code, preview.headers["content-type"]) == (200, "image/jpeg")
    for id_ in ("", "../../etc/passwd", "/etc/passwd", "note", "file:///etc/passwd"):
        assert plain.get("/page/image", params={"id": id_, "size": "original"}).status_code == 404


def test_the_api_stays_as_it_is(plain: httpx2.Client) -> None:
    assert plain.get("/openapi.json").status_code == 200
    assert plain.get("/docs").status_code == 200
    assert plain.get("/v1/embeddings").status_code == 405
    unknown = plain.get("/v1/nothing")
    assert unknown.status_code == 404
    assert "error" in unknown.json()


def test_reports_tell_no_paths(evil_index: Path) -> None:
    from bowerbird.serve.reports import REPORTS, report

    index = bb.Index.open(evil_index)
    for kind in REPORTS:
        html = report(index, kind, model="mini" if kind != "health" else "", name="shapes.bower")
        assert str(evil_index.parent) not in html
    with pytest.raises(bb.BowerbirdError, match="no report"):
        report(index, "weather")


def test_a_drawing_is_shown_though_the_index_changes_all_the_time() -> None:
    class Changing:
        """An index with a new version whenever anybody looks."""

        version = 0
        drawn = asyncio.Event()

        async def facts(self) -> Any:
            self.version += 1
            return self

        async def report(self, kind: str, *, model: str, colour: str) -> str:
            await self.drawn.wait()
            return f"a {kind} of version {self.version}"

    async def look() -> tuple[str, str]:
        service: Any = Changing()
        drawings = Drawings(service)
        waiting = await drawings.page("map")
        service.drawn.set()
        return waiting, await drawings.page("map")

    done: list[tuple[str, str]] = []
    # Playwright has a loop in this thread.
    looking = threading.Thread(target=lambda: done.append(asyncio.run(look())))
    looking.start()
    looking.join()
    ((waiting, shown),) = done
    assert "refresh" in waiting
    assert shown.startswith("a map of version")


def test_before_gradio_is_there_visitors_wait(evil_index: Path) -> None:
    service = LocalService(str(evil_index))
    door = build(service)
    mount(door.app, service)
    with serving(door) as address:
        answer = httpx2.get(f"{address}/")
        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text
    close(service)
