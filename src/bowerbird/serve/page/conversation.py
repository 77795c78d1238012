"""What happens on the page: somebody asks, the service answers, and both are shown."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bowerbird.errors import BowerbirdError, QueryError
from bowerbird.hits import Hits
from bowerbird.search.query import Query
from bowerbird.serve.api.errors import error_of
from bowerbird.serve.indexed import Ask, Stored
from bowerbird.serve.keys import TooManyError
from bowerbird.serve.page.asked import LIKELY, Asked
from bowerbird.serve.page.boards import message, near, results, side, status, unsure, welcome
from bowerbird.serve.page.cards import cards, collection
from bowerbird.serve.page.chips import chips
from bowerbird.serve.page.copies import among, near_copies
from bowerbird.serve.page.markup import id_of
from bowerbird.serve.page.pictures import Pictures
from bowerbird.serve.service import Facts, NotServedError, Service

__all__ = ["Conversation", "Shown", "Sides"]

_LOG = logging.getLogger("bowerbird.serve")

MOST = 480
"""Results that one page shows; whoever wants more asks the API."""

COMPARED = 12
"""Results on each side."""

FIRST = 12
"""Records that are shown before anything is asked."""

EXAMPLES = (
    *(
        "sports shoes",
        "a dress",
        "a t-shirt",
        "a hat",
        "a dog",
        "a cat",
        "a bird",
        "flowers",
        "the sea",
        "mountains",
    ),
    *(
        "food on a plate",
        "a car",
        "a bicycle",
        "a building",
        "a person smiling",
        "a chart",
        "a room with furniture",
    ),
)
"""What may be in a collection without short texts: what surely is in it is offered."""


WORDS_COUNT = 0.9
"""Share of a picture beside words up to which it matters whether the words match anything."""

_FILTER = QueryError("The filter cannot be used.", hint="Mend it under Options, or take it back above.")


@dataclass(frozen=True)
class Sides:
    """What is asked of each side: (model, part) of the left one, then of the right one."""

    left: tuple[str, str] = ("", "")
    right: tuple[str, str] = ("", "")


class Cards:
    """Cards as HTML, kept small: of a visitor who wants ever more there is a megabyte."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []

    def __str__(self) -> str:
        return "".join(zlib.decompress(one).decode("utf-8", "surrogatepass") for one in self._packed)

    def __bool__(self) -> bool:
        return bool(self._packed)

    def add(self, html: str) -> None:
        """Put some behind the others."""
        if html:
            self._packed.append(zlib.compress(html.encode("utf-8", "surrogatepass"), 1))


@dataclass
class Shown:
    """What one visitor sees. Kept for them by Gradio.

    Attributes:
        asked: what was asked.
        view: which tab: `results`, `compare`, or another one.
        cards: those that are there.
        faint: those that are hardly what was asked for.
        count: how many there are.
        placed: how many of them have a number: near copies have none.
        names: by id, what records that were pressed are called.
        further: whether more results were asked for.
        folded: whether they are folded.
        most: match that none has more of, where words are asked together with something to look at.
        head: what is said above the results.
        turn: held by one question at a time, in the order in which they were asked: else the answer to an earlier one,
            where that took longer, would stay in the place of the last.
    """

    asked: Asked = field(default_factory=Asked)
    view: str = "results"
    cards: Cards = field(default_factory=Cards)
    faint: Cards = field(default_factory=Cards)
    count: int = 0
    placed: int = 0
    further: bool = False
    folded: bool = False
    most: float = math.nan
    names: dict[str, str] = field(default_factory=dict)
    head: str = ""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


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
        fault: what is wrong with the filter.
    """

    chips: str = ""
    board: str = ""
    more: bool = False
    left: str = ""
    right: str = ""
    sum: str = ""
    fault: str = ""


class Conversation:
    """Answers for all visitors; it keeps nothing of them itself.

    Args:
        service: that is asked.
        pictures: those that were given.
    """

    def __init__(self, service: Service, pictures: Pictures) -> None:
        self._service = service
        self._pictures = pictures
        self._examples: tuple[int, Sequence[str]] = (-1, ())

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
        return welcome(facts, await self._tries(facts, records)) + collection(drawn)

    async def _tries(self, facts: Facts, records: Sequence[Stored]) -> Sequence[str]:
        """Questions that the index answers: short texts of it, or else some of `EXAMPLES`."""
        version, found = self._examples
        if version == facts.version:
            return found
        texts = {one.text.strip() for one in records}
        short = sorted(
            text for text in texts if 3 <= len(text) <= 40 and text.isprintable() and text[0].isalnum()
        )
        found = random.Random(facts.version).sample(short, min(5, len(short)))
        if not found:
            asked = [(await self._best(Asked(text=text)), text) for text in EXAMPLES]
            found = [text for match, text in sorted(asked, reverse=True) if match >= LIKELY][:5]
        self._examples = (facts.version, found)
        return found

    async def _best(self, asked: Asked) -> float:
        """The best match that words have; NaN where none is known."""
        options = asked.options
        query = Query(texts=(asked.text,), among=options.among)
        ask = Ask(query, k=1, where=options.where, models=options.models, fusion=options.fusion)
        try:
            hits = await self._service.search(ask)
        except BowerbirdError:
            return math.nan
        return float(hits.match[0]) if hits.match is not None and len(hits) else math.nan

    async def answer(self, shown: Shown, sides: Sides) -> Answered:
        """Ask anew."""
        shown.cards, shown.faint = Cards(), Cards()
        shown.count = shown.placed = 0
        shown.further, shown.most = False, math.nan
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
            said = _told(error)
            fault = said if shown.asked.options.where and getattr(error, "param", "") == "where" else ""
            return Answered(head, _told(_FILTER) if fault else said, fault=fault)
        if shown.asked.blended and shown.asked.share < WORDS_COUNT:
            shown.most = await self._best(shown.asked)
        return await self._listed(shown, hits, head)

    async def more(self, shown: Shown) -> Answered:
        """Further results, below those that are there."""
        head = chips(shown.asked, shown.names)
        if not shown.asked.anything:
            return Answered(head, await self.begin())
        shown.further = True
        ask = shown.asked.ask(self._pictures, offset=shown.count)
        try:
            hits = await self._service.search(ask)
        except Exception as error:  # noqa: BLE001  likewise
            return Answered(head, _framed(shown) + _told(error))
        return await self._listed(shown, hits, head)

    def refused(self, shown: Shown, error: BowerbirdError, *, more: bool = False) -> Answered:
        """What was not asked, since its visitor may not at the moment; what is there stays.

        Args:
            shown: what they see.
            error: why.
            more: whether further results were wanted, which would come below.
        """
        told, before = _told(error), _framed(shown) if shown.count else ""
        board = before + told if more else told + before
        return Answered(chips(shown.asked, shown.names), board, more, left=told)

    async def _listed(self, shown: Shown, hits: Hits, head: str) -> Answered:
        asked = shown.asked
        several = len(asked.options.models) > 1
        first = shown.count == 0
        found = hits if hits or hits.below is None else hits.below
        weak = first and not hits
        if found.match is not None and not math.isnan(shown.most):
            # A mix is no more surely what was asked for than its words alone are.
            found = replace(found, match=np.minimum(found.match, np.float32(shown.most)))
        kept = _leave_out(found, (*asked.unlike,))
        faded = not hits or unsure(kept, asked)
        if first:
            # Where none is likely, all of them are faint.
            shown.folded = (
                not faded and kept.match is not None and float(max(kept.match, default=0)) >= LIKELY
            )
        split = 0 if shown.faint else near(kept) if shown.folded else len(kept)
        copies = await self._copies(kept)
        for where, part, faint in ((shown.cards, kept[:split], faded), (shown.faint, kept[split:], True)):
            folded = among(copies, part.ids)
            where.add(cards(part, first=shown.placed, faded=faint, models=several, copies=folded))
            shown.placed += len(part) - len(folded)
        shown.count += len(found)
        if first:
            told = kept if hits else hits
            shown.head = status(told, asked, asked.options.min_match, shown.most)
        more = not weak and len(found) == asked.options.k and shown.count < MOST
        return Answered(head, _framed(shown), more)

    async def _copies(self, hits: Hits) -> dict[str, str]:
        """Results that show nearly what others show which are of the same words; none where that cannot be told."""
        try:
            pictures = await self._service.thumbnails(list(hits.ids))
            groups = [(hit.id, hit.attributes.get("text")) for hit in hits]
            return await asyncio.to_thread(near_copies, pictures, groups)
        except Exception:  # noqa: BLE001  they are shown one by one
            _LOG.warning("Near copies could not be told.", exc_info=True)
            return {}

    async def _compared(self, shown: Shown, sides: Sides, head: str) -> Answered:
        lists: list[Hits | str] = []
        for model, part in (sides.left, sides.right):
            options = replace(
                shown.asked.options, models=(model,) if model else (), among=part, min_match=0.0
            )
            ask = replace(shown.asked, options=options).ask(self._pictures, k=COMPARED)
            try:
                lists.append(await self._service.search(ask))
            except Exception as error:  # noqa: BLE001  likewise
                lists.append(_told(error))
        left, right = lists
        if isinstance(left, str) or isinstance(right, str):
            # Each beside its own controls.
            told = [one if isinstance(one, str) else side("", one, ()) for one in lists]
            return Answered(head, left=told[0], right=told[1])
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
        elif do == "keep":
            asked = asked.keep(_word(what, "piece"), id_)
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


def _framed(shown: Shown) -> str:
    return results(shown.head, str(shown.cards), str(shown.faint), opened=shown.further)


def _word(what: dict[str, Any], name: str) -> str:
    value = what.get(name)
    return value[:100_000] if isinstance(value, str) else ""


def _told(error: Exception) -> str:
    """An error, for people; what the API does not tell of the library's errors is not told here either."""
    if isinstance(error, TimeoutError):
        return message("This took too long.")
    if isinstance(error, (NotServedError, TooManyError)):
        return message(str(error))
    found = error_of(error)
    if found.hidden is not None:
        _LOG.error("A search of the page failed.", exc_info=error)
        return message(found.message, "The log of the service has the details.")
    return (
        message(error.message, error.hint or "") if isinstance(error, BowerbirdError) else message(str(error))
    )
