"""What happens on the page: somebody asks, the service answers, and both are shown."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field, replace
from typing import Any

from bowerbird.errors import BowerbirdError
from bowerbird.hits import Hits
from bowerbird.serve.page.asked import Asked
from bowerbird.serve.page.cards import cards, chips, collection, id_of, message, side, status, unsure, welcome
from bowerbird.serve.page.pictures import Pictures
from bowerbird.serve.service import NotServedError, Service

__all__ = ["Conversation", "Shown", "Sides"]

_LOG = logging.getLogger("bowerbird.serve")

MOST = 480
"""Results that one page shows; whoever wants more asks the API."""

COMPARED = 12
"""Results on each side."""

FIRST = 12
"""Records that are shown before anything is asked."""

EXAMPLES = ("something red", "a person smiling", "a close-up of food", "at the seaside", "black and white")
"""Where no text of the collection is short enough to be one."""


@dataclass(frozen=True)
class Sides:
    """What is asked of each side: (model, part) of the left one, then of the right one."""

    left: tuple[str, str] = ("", "")
    right: tuple[str, str] = ("", "")


@dataclass
class Shown:
    """What one visitor sees. Kept for them by Gradio.

    Attributes:
        asked: what was asked.
        view: which tab: `results`, `compare`, or another one.
        cards: those that are there, as HTML.
        count: how many.
        names: by id, what records that were pressed are called.
        head: what is said above the results.
    """

    asked: Asked = field(default_factory=Asked)
    view: str = "results"
    cards: str = ""
    count: int = 0
    names: dict[str, str] = field(default_factory=dict)
    head: str = ""


@dataclass(frozen=True)
class Answered:
    """What is to be seen now: HTML, and what controls show.

    Attributes:
        chips: what is asked.
        board: the results, or what invites to ask.
        more: whether there may be further ones.
        left: the first list of the two that are compared.
        right: the second.
        sum: what the two have in common.
    """

    chips: str = ""
    board: str = ""
    more: bool = False
    left: str = ""
    right: str = ""
    sum: str = ""


class Conversation:
    """Answers for all visitors; it keeps nothing of them itself.

    Args:
        service: that is asked.
        pictures: those that were given.
    """

    def __init__(self, service: Service, pictures: Pictures) -> None:
        self._service = service
        self._pictures = pictures

    async def begin(self) -> str:
        """What is shown before anything is asked."""
        try:
            facts = await self._service.facts()
            if facts is None or not facts.records:
                return welcome(facts, ())
            page = await self._service.page(limit=200)
        except BowerbirdError as error:
            return message(error.message, error.hint or "")
        records = list(page.records)
        drawn = random.Random(facts.version).sample(records, min(FIRST, len(records)))
        texts = {one.text.strip() for one in records}
        short = sorted(
            text for text in texts if 3 <= len(text) <= 40 and text.isprintable() and text[0].isalnum()
        )
        examples = random.Random(facts.version).sample(short, min(5, len(short))) or EXAMPLES
        return welcome(facts, examples) + collection(drawn)

    async def answer(self, shown: Shown, sides: Sides) -> Answered:
        """Ask anew."""
        shown.cards, shown.count = "", 0
        shown.names = {
            id_: shown.names.get(id_, id_) for id_ in (shown.asked.like, *shown.asked.unlike) if id_
        }
        head = chips(shown.asked, shown.names)
        if not shown.asked.anything:
            return Answered(head, await self.begin())
        if shown.view == "compare":
            return await self._compared(shown, sides, head)
        try:
            hits = await self._service.search(shown.asked.ask(self._pictures))
        except Exception as error:  # noqa: BLE001  told below, and logged where it is a defect
            return Answered(head, _told(error))
        return self._listed(shown, hits, head)

    async def more(self, shown: Shown) -> Answered:
        """Further results, below those that are there."""
        head = chips(shown.asked, shown.names)
        if not shown.asked.anything:
            return Answered(head, await self.begin())
        ask = shown.asked.ask(self._pictures, offset=shown.count)
        try:
            hits = await self._service.search(ask)
        except Exception as error:  # noqa: BLE001  likewise
            return Answered(head, _framed(shown.head, shown.cards) + _told(error))
        return self._listed(shown, hits, head)

    def _listed(self, shown: Shown, hits: Hits, head: str) -> Answered:
        asked = shown.asked
        several = len(asked.options.models) > 1
        first = shown.count == 0
        found = hits if hits or hits.below is None else hits.below
        weak = first and not hits
        kept = _leave_out(found, (*asked.unlike,))
        shown.cards += cards(kept, first=shown.count, faded=not hits or unsure(hits), models=several)
        shown.count += len(found)
        if first:
            shown.head = status(hits, asked, len(kept), asked.options.min_match)
        more = not weak and len(found) == asked.options.k and shown.count < MOST
        return Answered(head, _framed(_counted(shown), shown.cards), more)

    async def _compared(self, shown: Shown, sides: Sides, head: str) -> Answered:
        lists: list[Hits] = []
        for model, part in (sides.left, sides.right):
            options = replace(
                shown.asked.options, models=(model,) if model else (), among=part, min_match=0.0
            )
            ask = replace(shown.asked, options=options).ask(self._pictures, k=COMPARED)
            try:
                lists.append(await self._service.search(ask))
            except Exception as error:  # noqa: BLE001  likewise
                return Answered(head, left=_told(error))
        left, right = lists
        both = len(set(left.ids) & set(right.ids))
        total = max(len(left), len(right))
        said = f"{both} of {total} are found on both sides" if both else "Nothing is found on both sides"
        return Answered(
            head,
            left=side(sides.left[0], left, right.ids),
            right=side(sides.right[0], right, left.ids),
            sum=f'<p class="sum">{said}.</p>',
        )

    async def press(self, shown: Shown, what: dict[str, Any]) -> bool:
        """Do what a button says; whether there is anything to ask anew.

        Args:
            shown: what is changed.
            what: data of the event, as the browser sent it.
        """
        do, id_ = _word(what, "do"), id_of(_word(what, "id"))
        asked = shown.asked
        if do in ("like", "unlike") and id_:
            shown.names[id_] = await self._name(id_)
            asked = asked.more_like(id_) if do == "like" else asked.less_like(id_)
        elif do == "drop":
            asked = asked.without(_word(what, "piece"), id_)
        elif do == "ask":
            asked = replace(asked.without("all"), text=_word(what, "text"))
        elif do == "picture":
            asked = asked.with_picture(_word(what, "name"))
        else:
            return False
        shown.asked = asked
        return True

    async def _name(self, id_: str) -> str:
        try:
            record = await self._service.record(id_)
        except BowerbirdError:
            return id_
        if record is None:
            return id_
        return record.text.partition("\n")[0] or str(record.attributes.get("name") or id_)


def _leave_out(hits: Hits, ids: tuple[str, ...]) -> Hits:
    """Results without those that are moved away from."""
    if not set(ids) & set(hits.ids):
        return hits
    return hits._taken([place for place, id_ in enumerate(hits.ids) if id_ not in ids])


def _framed(head: str, listed: str) -> str:
    return f'<div class="said" role="status">{head}</div><ol class="cards" role="list">{listed}</ol>'


def _counted(shown: Shown) -> str:
    return shown.head


def _word(what: dict[str, Any], name: str) -> str:
    value = what.get(name)
    return value[:100_000] if isinstance(value, str) else ""


def _told(error: Exception) -> str:
    """An error, for people."""
    if isinstance(error, BowerbirdError) and not isinstance(error, NotServedError):
        return message(error.message, error.hint or "")
    if isinstance(error, (NotServedError, TimeoutError)):
        return message(str(error) or "This took too long.")
    _LOG.error("A search of the page failed.", exc_info=error)
    return message("Something went wrong here.", "The log of the service has the details.")
