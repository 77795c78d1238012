"""The contact sheet: what the page holds, what it must not hold, and how it lies in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from bowerbird.search.sheet import Panel, Tile, contact_sheet

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Element:
    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def all(self, tag: str = "", kind: str = "") -> list[Element]:
        """Descendants in document order with this tag and this class; "" for any."""
        found: list[Element] = []
        for child in self.children:
            if isinstance(child, Element):
                if tag in ("", child.tag) and (not kind or kind in child.attributes.get("class", "").split()):
                    found.append(child)
                found += child.all(tag, kind)
        return found

    def one(self, tag: str = "", kind: str = "") -> Element:
        (found,) = self.all(tag, kind)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """A strict reader: every end tag must match, and no attribute may be given twice."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.here = Element("", {}, None)
        self.feed(page)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> is never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        element = Element(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def picture(form: str = "JPEG", size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (40, 80, 170)).save(buffer, form)
    return buffer.getvalue()


TILE = Tile(
    "cat.jpg", "/p/cat.jpg", "file:///p/cat.jpg", picture(), 300, 200, 0.25, ("JPEG 300 × 200", "2 copies")
)


def sheet(*tiles: Tile, **panel: str | bytes) -> str:
    return contact_sheet([Panel("a cat", tiles, **panel)], title="Cats")  # type: ignore[arg-type]


def tree(*tiles: Tile, **panel: str | bytes) -> Element:
    return Tree(sheet(*tiles, **panel)).root


def references(page: Element) -> list[str]:
    """Every address that an element of the page could load or link to."""
    names = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "formaction", "ping"}
    return [value for e in page.all() for name, value in e.attributes.items() if name in names]


def test_one_tile_per_hit_in_order_with_rank_score_and_facts() -> None:
    tiles = [replace(TILE, name=f"cat {i}.jpg", path=f"/p/{i}.jpg", score=0.3 - i / 100) for i in range(12)]
    page = tree(*tiles)
    found = page.all("li", "tile")
    assert [tile.one(kind="name").text for tile in found] == [tile.name for tile in tiles]
    assert [tile.one(kind="rank").text for tile in found] == [str(rank) for rank in range(1, 13)]
    assert found[4].one(kind="score").text == "score 0.260"
    assert [fact.text for fact in found[4].one("ul", "facts").all("li")] == ["JPEG 300 × 200", "2 copies"]
    assert page.one("p", "sum").text == "12 results"


def test_a_tile_names_its_picture_and_shows_its_path_on_hover() -> None:
    tile = tree(TILE).one("li", "tile")
    image = tile.one("img")
    assert image.attributes["alt"] == "cat.jpg, result 1"
    assert (image.attributes["width"], image.attributes["height"]) == ("300", "200")
    assert image.attributes["src"] == "data:image/jpeg;base64," + base64.b64encode(TILE.thumbnail).decode()
    assert tile.one(kind="name").attributes["title"] == "/p/cat.jpg"
    link = tile.one("a")
    assert link.attributes["href"] == "file:///p/cat.jpg"
    assert link.attributes["target"] == "_blank"
    assert "noopener" in link.attributes["rel"]
    assert link.all("img") == [image]
    assert tile.one("button").attributes["data-path"] == "/p/cat.jpg"
    assert tile.one("code", "path").text == "/p/cat.jpg"


def test_the_page_declares_language_viewport_title_and_both_colour_schemes() -> None:
    page = Tree(contact_sheet([Panel("q", [TILE])], title="Cats & dogs", subtitle="42 <pictures>")).root
    assert page.one("html").attributes["lang"] == "en"
    meta = {m.attributes.get("name"): m.attributes.get("content", "") for m in page.all("meta")}
    assert "width=device-width" in meta["viewport"]
    assert meta["color-scheme"] == "light dark"
    assert page.one("title").text == page.one("h1").text == "Cats & dogs"
    assert page.one("p", "subtitle").text == "42 <pictures>"
    style = page.one("style").text
    assert "color-scheme: light dark" in style
    assert "prefers-color-scheme: dark" in style
    assert "prefers-reduced-motion: reduce" in style
    assert "@media print" in style
    assert ":focus-visible" in style


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_enough_contrast_in_both_schemes() -> None:
    blocks = re.findall(r":root \{([^}]*--ink[^}]*)\}", tree(TILE).one("style").text)
    assert len(blocks) == 2
    for block in blocks:
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for text in ("ink", "soft", "accent"):
            for ground in ("page", "mat", "mat-hover", "accent-wash"):
                light, dark = sorted((luminance(colour[text]), luminance(colour[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_nothing_is_loaded_from_anywhere() -> None:
    text = contact_sheet([Panel("a", [TILE], query_image=picture("WEBP")), Panel("b", [TILE])], title="t")
    page = Tree(text).root
    links = {link.attributes["href"] for link in page.all("a") if "target" in link.attributes}
    others = [address for address in references(page) if address not in links]
    assert others
    assert all(address.startswith(("data:", "#")) for address in others)
    assert not re.search(r"@import|url\(", page.one("style").text)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:", page.one("script").text)


def test_the_policy_allows_exactly_the_inline_style_and_script() -> None:
    page = tree(TILE)
    (policy,) = (m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.one(tag).text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    # What the policy would refuse must not be relied upon.
    assert not [e for e in page.all() for name in e.attributes if name == "style" or name.startswith("on")]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>.png",
        "\"quoted\" & 'single' onerror=x.jpg",
        "--><!-- ]]> </style></title>.jpg",
        "&lt;already&amp;escaped&gt;.jpg",
        "صورة القط الجميل في الحديقة.jpg",
        "\u202egnp.exe",
        "👩‍👩‍👧‍👦🏳️‍🌈 holiday.png",
        "very_long_name_" * 40 + ".tiff",
        "  two  blanks  .jpg",
        ".hidden",
        "no extension at all",
    ],
)
def test_any_name_is_text_and_nothing_else(name: str) -> None:
    plain = Tree(contact_sheet([Panel("q", [TILE])], title="t", subtitle="s")).root
    odd = Tile(name, f"/p/{name}", TILE.href, TILE.thumbnail, 300, 200, 0.25, (name, name))
    page = Tree(contact_sheet([Panel(name, [odd], note=name)], title=name, subtitle=name)).root
    tile = page.one("li", "tile")
    assert tile.one(kind="name").text == name
    assert tile.one(kind="name").attributes["title"] == f"/p/{name}"
    assert tile.one("img").attributes["alt"] == f"{name}, result 1"
    assert tile.one("button").attributes["data-path"] == f"/p/{name}"
    assert [fact.text for fact in tile.one("ul", "facts").all("li")] == [name, name]
    assert page.one("h1").text == page.one("h2").text == page.one("title").text == name
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert {e.tag for e in page.all()} == {e.tag for e in plain.all()} | {"bdi"}


def test_names_that_are_not_utf8_do_not_stop_the_page_from_being_written() -> None:
    name = b"caf\xe9 \xff.jpg".decode("utf-8", "surrogateescape")
    odd = Tile(
        name, f"/p/{name}", f"file:///p/{name.replace(' ', '%20')}", b"", 0, 0, 0.1, (name, "\ud83d half")
    )
    text = contact_sheet(
        [Panel(name, [odd], note=name), Panel(name, [], note=name)], title=name, subtitle=name
    )
    page = Tree(text.encode("utf-8").decode("utf-8")).root
    tile = page.one("li", "tile")
    assert tile.one(kind="name").text == "caf\\xe9 \\xff.jpg"
    assert tile.one("a").attributes["href"] == "file:///p/caf%E9%20%FF.jpg"
    assert tile.one("ul", "facts").all("li")[1].text == "\\ud83d half"


def test_control_characters_are_shown_and_line_ends_of_a_path_survive() -> None:
    tile = tree(replace(TILE, name="a\0b\x1b.jpg", path="/p/a\r\n\tb.jpg")).one("li", "tile")
    assert tile.one(kind="name").text == "a\\x00b\\x1b.jpg"
    assert tile.one("button").attributes["data-path"] == "/p/a\r\n\tb.jpg"
    assert 'data-path="/p/a&#13;&#10;&#9;b.jpg"' in sheet(replace(TILE, path="/p/a\r\n\tb.jpg"))


@pytest.mark.parametrize(
    "href",
    [
        "",
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "blob:https://example.org/1",
        "ftp://example.org/a.jpg",
        "//example.org/a.jpg",
        "a.jpg",
        "http:a.jpg",
        "https://example.org/\na.jpg",
    ],
)
def test_only_web_and_file_addresses_are_linked(href: str) -> None:
    page = tree(replace(TILE, href=href))
    assert page.all("a") == []
    assert len(page.all("li", "tile")) == 1
    assert "javascript:" not in sheet(replace(TILE, href=href)).lower()


@pytest.mark.parametrize(
    "href",
    [
        "http://h/a.jpg",
        'https://h/a.jpg?x=1&y="2"',
        "file:///p/a%20b.jpg",
        "FILE:/p/a.jpg",
        "https://h/ä.jpg",
    ],
)
def test_good_addresses_are_linked_as_they_are(href: str) -> None:
    assert tree(replace(TILE, href=href)).one("a").attributes["href"] == href


@pytest.mark.parametrize(("form", "kind"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp")])
def test_thumbnails_carry_their_own_type(form: str, kind: str) -> None:
    image = tree(replace(TILE, thumbnail=picture(form))).one("li", "tile").one("img")
    assert image.attributes["src"].startswith(f"data:image/{kind};base64,")


@pytest.mark.parametrize(
    "data", [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8", b"RIFF1234WAVE"]
)
def test_without_a_usable_thumbnail_a_placeholder_is_drawn(data: bytes) -> None:
    tile = tree(replace(TILE, thumbnail=data)).one("li", "tile")
    assert tile.all("img") == []
    assert tile.one(kind="none").attributes["aria-label"] == "cat.jpg, result 1"
    assert len(tile.all("a")) == 1


def test_an_empty_panel_says_why() -> None:
    page = tree(note="nothing passed the threshold 0.30 <x>")
    assert page.all("li", "tile") == []
    assert "nothing passed the threshold 0.30 <x>" in page.one("div", "empty").text
    assert page.all("footer") == []
    assert tree().one("div", "empty").text.endswith("This search found nothing.")
    assert Tree(contact_sheet([], title="none")).root.one("h1").text == "none"


def test_several_searches_get_a_navigation_and_one_does_not() -> None:
    panels = [
        Panel("first <1>", [TILE]),
        Panel("second", []),
        Panel("third", [TILE, TILE], query_image=picture()),
    ]
    page = Tree(contact_sheet(panels, title="t")).root
    links = page.one("nav").all("a")
    targets = [page.all("section")[i].attributes["id"] for i in range(3)]
    assert [link.attributes["href"] for link in links] == [f"#{target}" for target in targets]
    assert [link.one("bdi").text for link in links] == ["first <1>", "second", "third"]
    assert [link.one(kind="count").text for link in links] == ["1 result", "0 results", "2 results"]
    identifiers = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(identifiers) == len(set(identifiers))
    assert page.all("section")[2].one("div", "ask").one("img").attributes["alt"]
    assert tree(TILE).all("nav") == []


def test_bars_start_at_zero_and_end_at_the_best_score() -> None:
    scores = (0.4, 0.3, 0.0, -0.2, float("nan"), None)
    tiles = tree(*(replace(TILE, score=score) for score in scores)).all("li", "tile")
    widths = [[rect.attributes["width"] for rect in tile.one(kind="gauge").all("rect")] for tile in tiles]
    assert widths == [["100.0"], ["75.0"], ["0.0"], ["0.0"], [], []]
    assert [tile.all(kind="score") == [] for tile in tiles] == [False] * 5 + [True]
    assert tiles[3].one(kind="score").text == "score \N{MINUS SIGN}0.200"


@pytest.mark.parametrize(
    ("best", "shown"),
    [
        (0.31234, "0.312"),
        (0.03126, "0.0313"),
        (12.5, "12.500"),
        (0.0, "0.000"),
        (3e-9, "3.00e\N{MINUS SIGN}09"),
        (2e7, "2.00e+07"),
    ],
)
def test_scores_keep_three_digits_that_mean_something(best: float, shown: str) -> None:
    assert tree(replace(TILE, score=best)).one(kind="score").text == f"score {shown}"


def test_scores_that_are_all_negative_get_no_bar() -> None:
    page = tree(replace(TILE, score=-1.5), replace(TILE, score=-2.5))
    assert page.one("ol").all(kind="bar") == []
    assert [score.text for score in page.all(kind="score")] == [
        "score \N{MINUS SIGN}1.500",
        "score \N{MINUS SIGN}2.500",
    ]


@pytest.mark.parametrize(
    ("size", "shape"),
    [((400, 300), "wide"), ((300, 400), "tall"), ((300, 300), "square"), ((0, 0), "square")],
)
def test_the_mats_take_the_shape_that_suits_most_pictures(size: tuple[int, int], shape: str) -> None:
    usual = replace(TILE, width=size[0], height=size[1])
    page = tree(usual, usual, usual, replace(TILE, width=50, height=50))
    assert page.one("ol").attributes["class"] == f"grid {shape}"


def test_a_name_is_cut_before_its_ascii_end_only() -> None:
    def parts(name: str) -> tuple[str, str]:
        shown = tree(replace(TILE, name=name)).one(kind="name")
        return shown.one(kind="stem").text, shown.one(kind="tail").text

    assert parts("IMG_20230131_0042.jpeg") == ("IMG_20230131_", "0042.jpeg")
    assert parts("cat.jpg") == ("cat.jpg", "")
    assert parts("holiday at sea 👩‍👧.png") == ("holiday at sea 👩‍👧", ".png")
    assert parts("no extension at all here") == ("no extension at all here", "")


CHROMIUM = shutil.which("chromium")
# Writes what the browser made of the framed page where --dump-dom shows it. The frame is `srcdoc`, thus of
# the wrapper's origin and open to measuring; a policy or a script of the page applies there all the same.
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><iframe id="f" style="border:0;width:360px;height:800px"
srcdoc="{page}"></iframe><p id="result">none</p><script>
document.getElementById("f").onload = (event) => {{
  const page = event.target.contentDocument, root = page.documentElement;
  const tiles = [...page.querySelectorAll(".tile")].map((tile) => tile.getBoundingClientRect());
  document.getElementById("result").textContent = JSON.stringify({{
    inner: event.target.contentWindow.innerWidth, scroll: root.scrollWidth, script: root.className,
    tiles: tiles.length, columns: new Set(tiles.map((box) => box.left)).size,
    flat: tiles.filter((box) => box.height < 100 || box.right > 360).length,
    loaded: [...page.images].filter((image) => image.naturalWidth > 0).length,
  }});
  event.target.remove();
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_a_browser_lays_it_out_on_a_phone_without_sideways_scrolling(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    long = "without-a-single-blank" * 30
    tiles = [
        Tile(f"{i} {long}.jpg", f"/{long}", "", picture(size=size), *size, 1 / (i + 1), (long,))
        for i, size in enumerate([(40, 10), (10, 40), (30, 30), (40, 30), (30, 40)])
    ]
    panels = [
        Panel(long, tiles, note=long, query_image=picture()),
        Panel(long, [], note=long),
        Panel("c", [TILE]),
    ]
    page = contact_sheet(panels, title=long, subtitle=long)
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(MEASURE.format(page=html.escape(page)), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    done = subprocess.run(
        [
            CHROMIUM,
            *options.split(),
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--virtual-time-budget=2000",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            wrapper.as_uri(),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    found = re.search(r'<p id="result">(.*?)</p>', done.stdout.decode())
    assert found, done.stderr.decode()
    assert json.loads(html.unescape(found[1])) == {
        "inner": 360,
        "scroll": 360,
        "script": "js",  # thus the policy let the script run, and the style apply
        "tiles": 6,
        "columns": 2,
        "flat": 0,
        "loaded": 7,
    }
