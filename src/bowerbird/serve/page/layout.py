"""What is where on the page, and what leads to what, in Gradio's terms."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import gradio as gr

from bowerbird.search.page import escaped, resource
from bowerbird.serve.keys import TooManyError
from bowerbird.serve.page.asked import AMONG, FUSIONS, Options, parts_of
from bowerbird.serve.page.boards import message, things
from bowerbird.serve.page.conversation import Answered, Conversation, Shown, Sides
from bowerbird.serve.page.filters import filter_example, filter_help

if TYPE_CHECKING:
    from bowerbird.serve.page.site import Page
    from bowerbird.serve.service import Facts

__all__ = ["Layout"]

AT_ONCE = 32
"""Questions of the page that are worked on at once; the service has its own bounds."""

WAITING = 256
"""Beyond so many, visitors are told that it is busy."""

VISITORS = 512
"""Whose page is remembered: Gradio keeps some 100 KB of each, and never forgets one but for a newer one. Who is
forgotten searches on, without what they had narrowed their question by.
"""

REMEMBERED = 3600
"""Seconds after which what a visitor saw is forgotten."""

DRAWINGS = {
    "Map": ("map", "Map of the collection"),
    "Health": ("health", "Health of the index"),
    "Gap between pictures and texts": ("gap", "Modality gap"),  # of an index that has both
}
"""What is drawn of the collection, in words: its kind, as of `Service.report`, and its title."""

_PRESS = "element.addEventListener('click', (event) => bower.press(event, trigger));"
_GIVE = "bower.give(element, trigger);"
_BUSY = "(...given) => { bower.busy(); return given; }"


class Layout:
    """Components, and what happens when they are used."""

    def __init__(self, page: Page, facts: Facts | None) -> None:
        self.page = page
        self.facts = facts
        self.signed = page.sessions.needed
        self.conversation = Conversation(page.service, page.pictures)
        self.models = list(facts.models) if facts else []
        self.parts = parts_of(facts.parts if facts else ())
        with gr.Blocks(
            title="Bowerbird", analytics_enabled=False, fill_width=True, elem_id="bower"
        ) as self.blocks:
            self.shown = gr.State(Shown(), time_to_live=REMEMBERED)
            self._html(
                self._header(),
                elem_id="head",
            )
            self._bar()
            self._options()
            self.chips = self._html("", elem_id="asked", js_on_load=_PRESS)
            self.blend = gr.Slider(
                0,
                100,
                50,
                step=5,
                label="How much the picture counts beside the words, in percent",
                visible=False,
                elem_id="blend",
                buttons=[],
            )
            self._tabs()
            self._events()
        self.blocks.state_session_capacity = VISITORS
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
        # Else every question ends with a summary of the last ones, made with pandas, which nobody sees.
        self.blocks._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize  # spelled so in Gradio

    def _html(self, html: str, **options: Any) -> Any:
        return gr.HTML(html, apply_default_css=False, **options)

    # What is where

    def _header(self) -> str:
        facts = self.facts
        told = f"{escaped(facts.name)}, {things(facts)}" if facts else ""
        out = (
            '<form method="post" action="page/sign-out"><button type="submit" class="plain">Sign out</button></form>'
            if self.signed
            else ""
        )
        return (
            '<header><h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 20C3.5 13 5.5 6.5 10.5 3M7.5 20C7 '
            '14.5 8 9 11.5 5M20 20c.5-7-1.5-13.5-6.5-17M16.5 20c.5-5.5-.5-11-4-15"/><circle cx="12" cy="17.5" '
            f'r="2.5"/></svg>Bowerbird</h1><p dir="auto">{told}</p>{out}</header>'
        )

    def _bar(self) -> None:
        with gr.Row(elem_id="bar"):
            self.words = gr.Textbox(
                label="Search by words",
                placeholder="Say what to find",
                lines=1,
                max_lines=1,
                elem_id="words",
                show_label=False,
                container=False,
                autofocus=True,
                html_attributes=gr.InputHTMLAttributes(
                    autocomplete="off", spellcheck=False, enterkeyhint="search"
                ),
                max_length=10_000,
            )
            self.picture = self._html(
                resource("bowerbird.serve.page", "picture.html"), elem_id="picture", js_on_load=_GIVE
            )
            self.go = gr.Button("Search", variant="primary", elem_id="go", scale=0, min_width=0)

    def _options(self) -> None:
        with gr.Accordion("Options", open=False, elem_id="options"):
            with gr.Row(elem_classes="row"):
                self.model = gr.Dropdown(
                    self.models,
                    value=self.models[:1],
                    multiselect=True,
                    label="Models",
                    elem_id="models",
                    visible=len(self.models) > 1,
                )
                self.among = gr.Dropdown(
                    self.parts,
                    value=self.parts[0],
                    label="Search in",
                    elem_id="among",
                    visible=len(self.parts) > 1,
                )
                self.k = gr.Slider(6, 96, 24, step=6, label="Results at a time", elem_id="k", buttons=[])
                self.least = gr.Slider(
                    0, 100, 0, step=5, label="Least match, in percent", elem_id="least", buttons=[]
                )
            with gr.Row(elem_classes="row"):
                with gr.Column(min_width=220):
                    self.where = gr.Textbox(
                        label="Only those where",
                        placeholder=filter_example(self.facts),
                        elem_id="where",
                        lines=1,
                        max_lines=1,
                        max_length=10_000,
                    )
                    self.fault = self._html("", elem_id="fault")
                    self._html(filter_help(self.facts))
                self.fusion = gr.Dropdown(
                    list(FUSIONS),
                    value=next(iter(FUSIONS)),
                    label="Put in order",
                    elem_id="fusion",
                    visible=len(self.parts) > 1 or len(self.models) > 1,
                )

    def _tabs(self) -> None:
        with gr.Tabs(elem_id="tabs") as self.tabs:
            with gr.Tab("Results", id="results") as self.tab_results:
                self.board = self._html("", elem_id="board", js_on_load=_PRESS)
                self.further = gr.Button("More results", visible=False, elem_id="further")
            two = len(self.parts) > 1 or len(self.models) > 1
            with gr.Tab("Compare", id="compare", visible=two) as self.tab_compare:
                self._compare()
            with gr.Tab("Collection", id="collection") as self.tab_collection, gr.Row(elem_classes="row"):
                both = self.facts is not None and {"image", "text"} <= set(self.facts.parts)
                drawings = [name for name, (kind, _) in DRAWINGS.items() if kind != "gap" or both]
                self.kind = gr.Radio(drawings, value=drawings[0], label="Show", elem_id="kind", min_width=0)
                self.map_model = gr.Dropdown(
                    self.models,
                    value=self.models[0] if self.models else None,
                    label="Model",
                    visible=len(self.models) > 1,
                )
                colours = ["nothing", *(self.facts.attributes if self.facts else ())]
                self.colour = gr.Dropdown(
                    colours, value="nothing", label="Colour by", visible=len(colours) > 1
                )
            with self.tab_collection:
                self.drawing = self._html("", elem_id="drawing", elem_classes="drawing")

    def _compare(self) -> None:
        self.sides: list[Any] = []
        self.lists: list[Any] = []
        parts = self.parts
        same = len(self.models) < 2
        self._html(
            '<p class="lead">The same question, asked twice: under two models, or in pictures and in texts.</p>'
        )
        self.common = self._html("", elem_id="common")
        with gr.Row(elem_id="sides"):
            for place, name in enumerate(("Left", "Right")):
                with gr.Column(min_width=0, elem_classes="side"):
                    with gr.Row(elem_classes="row"):
                        model = gr.Dropdown(
                            self.models,
                            value=self.models[min(place, len(self.models) - 1)] if self.models else None,
                            label=f"{name}: model",
                            visible=not same,
                            min_width=0,
                        )
                        part = gr.Dropdown(
                            parts,
                            value=parts[min(1 + place, len(parts) - 1)] if same else parts[0],
                            visible=len(parts) > 1,
                            label=f"{name}: search in",
                            min_width=0,
                        )
                    self.sides += [model, part]
                    self.lists.append(self._html("", js_on_load=_PRESS, elem_classes="list"))

    # What leads to what

    def _events(self) -> None:
        controls = [
            self.words,
            self.blend,
            self.model,
            self.among,
            self.k,
            self.least,
            self.where,
            self.fusion,
        ]
        asking = [self.shown, *controls, *self.sides]
        told = [
            *(
                self.shown,
                self.words,
                self.where,
                self.blend,
                self.tabs,
                self.chips,
                self.board,
                self.further,
            ),
            *(*self.lists, self.common, self.fault),
        ]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": True}

        async def ask(request: gr.Request, shown: Shown, *given: Any) -> list[Any]:
            async with shown.turn:
                self._take(shown, given)
                if shown.view not in ("results", "compare"):
                    shown.view = "results"
                return self._typed(await self._answered(request, shown, given))

        async def change(request: gr.Request, shown: Shown, *given: Any) -> list[Any]:
            async with shown.turn:
                self._take(shown, given, words=False)
                if not shown.asked.anything:
                    return [shown, *[gr.skip()] * (len(told) - 1)]
                return self._typed(await self._answered(request, shown, given))

        async def press(request: gr.Request, event: gr.EventData, shown: Shown, *given: Any) -> list[Any]:
            data = event._data if isinstance(event._data, dict) else {}
            async with shown.turn:
                self._take(shown, given, words=data.get("do") == "picture")
                if await self.conversation.press(shown, data) and shown.view not in ("results", "compare"):
                    shown.view = "results"
                return await self._answered(request, shown, given)

        async def more(request: gr.Request, shown: Shown, *given: Any) -> list[Any]:
            async with shown.turn:
                ask = partial(self.conversation.more, shown)
                return self._typed(self._told(shown, await self._charged(request, shown, ask, more=True)))

        async def begin(request: gr.Request) -> Any:
            try:
                with self.page.charged(request.request):
                    return await self.conversation.begin()
            except TooManyError as error:
                return message(error.message, error.hint or "")

        for one in (ask, change, press, more, begin):
            _typed_for_gradio(one)

        # What is asked while an answer is on its way is asked after it; by itself Gradio would leave it out.
        last: dict[str, Any] = {**quiet, "trigger_mode": "always_last"}
        gr.on([self.words.submit, self.go.click, self.where.submit], ask, asking, told, js=_BUSY, **last)
        changes = [self.blend.release, self.k.release, self.least.release, self.model.input, self.among.input]
        gr.on(
            [*changes, self.fusion.input, *(one.input for one in self.sides)],
            change,
            asking,
            told,
            js=_BUSY,
            **last,
        )
        pressed = [self.chips, self.board, self.picture, *self.lists]
        gr.on([one.click for one in pressed], press, asking, told, **quiet)
        self.further.click(more, asking, told, js=_BUSY, **quiet)
        self.blocks.load(begin, None, self.board, **quiet)
        self._views(asking, told, quiet)

    def _views(self, asking: list[Any], told: list[Any], quiet: dict[str, Any]) -> None:
        """What tabs show when they are opened."""

        def viewing(view: str) -> Callable[..., Any]:
            async def look(request: gr.Request, shown: Shown, *given: Any) -> list[Any]:
                async with shown.turn:
                    before, shown.view = shown.view, view
                    if view == before or (view == "results" and shown.cards) or not shown.asked.anything:
                        return [shown, *[gr.skip()] * (len(told) - 1)]
                    return self._typed(await self._answered(request, shown, given))

            return _typed_for_gradio(look)

        self.tab_results.select(viewing("results"), asking, told, **quiet)
        self.tab_compare.select(viewing("compare"), asking, told, **quiet)

        def look(shown: Shown, said: str, model: str | None, colour: str) -> Any:
            shown.view = "collection"
            kind, title = DRAWINGS.get(said, next(iter(DRAWINGS.values())))
            colour = "" if colour == "nothing" or kind != "map" else colour
            coloured = gr.update(visible=kind == "map" and bool(self.facts and self.facts.attributes))
            return shown, _frame(kind, title, model or "", colour), coloured

        which = [self.shown, self.kind, self.map_model, self.colour]
        drawn = [self.shown, self.drawing, self.colour]
        self.tab_collection.select(look, which, drawn, **quiet)
        gr.on(
            [self.kind.input, self.map_model.input, self.colour.input],
            look,
            which,
            drawn,
            trigger_mode="always_last",
            **quiet,
        )

    def _take(self, shown: Shown, given: tuple[Any, ...], *, words: bool = True) -> None:
        """What the controls say."""
        text, blend, models, among, k, least, where, fusion = given[:8]
        options = Options(
            models=tuple(models or ()),
            among=AMONG.get(among, ""),
            k=int(min(96, max(1, k))),
            min_match=min(100.0, max(0.0, float(least))) / 100,
            where=(where or "").strip() if words else shown.asked.options.where,
            fusion=FUSIONS.get(fusion, "calibrated"),
        )
        share = min(100.0, max(0.0, float(blend))) / 100
        asked = shown.asked.with_words((text or "").strip()) if words else shown.asked
        shown.asked = replace(asked, share=share, options=options)

    async def _answered(self, request: gr.Request, shown: Shown, given: tuple[Any, ...]) -> list[Any]:
        left, right = ((given[at] or "", AMONG.get(given[at + 1], "")) for at in (8, 10))
        ask = partial(self.conversation.answer, shown, Sides(left, right))
        return self._told(shown, await self._charged(request, shown, ask))

    async def _charged(
        self, request: gr.Request, shown: Shown, ask: Callable[[], Awaitable[Answered]], *, more: bool = False
    ) -> Answered:
        """An answer, which counts among what its visitor is allowed."""
        try:
            with self.page.charged(request.request):
                return await ask()
        except TooManyError as error:
            return self.conversation.refused(shown, error, more=more)

    @staticmethod
    def _typed(told: list[Any]) -> list[Any]:
        """What is told, but for the words and the filter: somebody may be typing others by now."""
        return [told[0], gr.skip(), gr.skip(), *told[3:]]

    def _told(self, shown: Shown, answered: Answered) -> list[Any]:
        compare = shown.view == "compare"
        return [
            shown,
            shown.asked.text,
            shown.asked.options.where,
            gr.update(visible=shown.asked.blended),
            gr.update(selected=shown.view),
            answered.chips,
            gr.skip() if compare and shown.asked.anything else answered.board,
            gr.update(visible=answered.more),
            answered.left,
            answered.right,
            answered.sum,
            answered.fault,
        ]


def _typed_for_gradio(function: Callable[..., Any]) -> Callable[..., Any]:
    """With what Gradio goes by when it tells who asks, and what was pressed; annotations of this module are strings."""
    for name, kind in (("request", gr.Request), ("event", gr.EventData)):
        if name in function.__annotations__:
            function.__annotations__[name] = kind
    return function


def _frame(kind: str, title: str, model: str, colour: str) -> str:
    address = escaped("page/drawing?" + urlencode({"kind": kind, "model": model, "colour": colour}))
    return f'<iframe class="{kind}" src="{address}" title="{title}" sandbox="allow-scripts"></iframe>'
