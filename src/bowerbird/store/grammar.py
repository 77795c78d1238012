"""The grammar of filters: a text becomes sqlglot's tree of it, or a `QueryError` that says what cannot be read."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from bowerbird.errors import QueryError

if TYPE_CHECKING:
    from sqlglot import Dialect

Node: TypeAlias = Any
"""A node of sqlglot's tree. The name of their class changes between its versions."""

EXAMPLE = "A filter is written as in: price < 100 and brand in ('a', 'b') and not text match 'red hat'."

MATCH = "bowerbird match"
"""What the function MATCH is called in the tree; nobody can write a name with a space for a function."""

MOST_LEVELS = 40
"""Levels of parentheses that can be read within the usual limit of Python's stack."""

_SHOWN = 80


@cache
def _language() -> Dialect:
    """Standard SQL with names within backticks too, and MATCH.

    The parser stays sqlglot's own: where that is compiled, it cannot be inherited from.
    """
    from sqlglot import Dialect, TokenType, tokens

    class Filters(Dialect):
        class Tokenizer(tokens.Tokenizer):
            IDENTIFIERS = ['"', "`"]  # noqa: RUF012  as sqlglot has it
            # SQLite's GLOB stands where MATCH does, and every version of sqlglot knows it.
            KEYWORDS = {  # noqa: RUF012
                **{word: kind for word, kind in tokens.Tokenizer.KEYWORDS.items() if word != "GLOB"},
                "MATCH": TokenType.GLOB,
            }

    return Filters()


def tree_of(text: str) -> Node:
    """The tree of one condition.

    Raises:
        QueryError: it cannot be read, or is more than one.
    """
    from sqlglot import exp
    from sqlglot.errors import ParseError, TokenError

    try:
        tokens = _language().tokenize(text)
        _refuse_tokens(text, tokens)
        _refuse_depth(text, tokens)
        tokens = _with_match(tokens)
        (tree,) = _language().parser().parse_into(exp.Condition, tokens, text)
    except TokenError:
        raise QueryError(
            f"The filter {cut(text)} has a quote that is not closed.",
            hint="Texts stand in single quotes, and a quote within is written twice: 'it''s'.",
        ) from None
    except ParseError as error:
        found = error.errors[0] if error.errors else {}
        word = found.get("highlight", "")
        place = f"at {word!r}, character {found['col'] - len(word) + 1}" if word else "to its end"
        raise QueryError(f"The filter {cut(text)} cannot be read {place}.", hint=EXAMPLE) from None
    if tree is None:
        raise QueryError(f"The filter {cut(text)} says nothing.", hint=EXAMPLE)
    return tree


def _refuse_tokens(text: str, tokens: list[Any]) -> None:
    """Refuse what leaves no trace in the tree, or one that looks like something that can be used."""
    from sqlglot import TokenType

    kinds = {token.token_type for token in tokens}
    found = ""
    if TokenType.SEMICOLON in kinds:
        found = "a semicolon"
    elif not tokens or any(token.comments for token in tokens):
        found = "a comment"
    elif kinds & {TokenType.ALIAS, TokenType.DCOLON}:
        found = "AS or ::, and types cannot be changed"
    elif TokenType.CASE in kinds:
        found = 'CASE; a column of that name is written "case"'
    elif any(token.token_type is TokenType.VAR and token.text.upper() == "IF" for token in tokens):
        # Taken for a statement, with a warning in the log.
        found = 'IF; a column of that name is written "if"'
    if found:
        raise QueryError(
            f"The filter {cut(text)} holds {found}.", hint=f"Join conditions with AND or OR. {EXAMPLE}"
        )


def _refuse_depth(text: str, tokens: list[Any]) -> None:
    """Refuse what would take more of the stack than there is; a compiled parser would not notice."""
    from sqlglot import TokenType

    opening = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
    closing = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
    ends = {
        TokenType.VAR,
        TokenType.IDENTIFIER,
        TokenType.STRING,
        TokenType.NUMBER,
        TokenType.COMMA,
    } | closing
    depth = row = 0
    for token in tokens:
        kind = token.token_type
        depth += (kind in opening) - (kind in closing)
        row = 0 if kind in ends else row + 1
        if max(depth, row) > MOST_LEVELS:
            raise too_deep(text)


def too_deep(text: str) -> QueryError:
    """What is said of a filter with too many levels."""
    return QueryError(
        f"The filter {cut(text)} has too many parentheses or NOTs within each other.",
        hint=f"About {MOST_LEVELS} levels can be read; long rows of AND or OR need no parentheses.",
    )


def _with_match(tokens: list[Any]) -> list[Any]:
    """The tokens with `MATCH`, the function of that name, under another: MySQL's would need an AGAINST."""
    from sqlglot import Token, TokenType

    found = list(tokens)
    for place, (token, after) in enumerate(pairwise(tokens)):
        if token.token_type is TokenType.GLOB and after.token_type is TokenType.L_PAREN:
            found[place] = Token(TokenType.GLOB, MATCH, token.line, token.col, token.start, token.end)
    return found


def cut(text: str) -> str:
    """A text of the user's for a message: on one line, and not too long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def refuse(node: Node, what: str = "") -> NoReturn:
    """Say that something cannot be used in a filter.

    Args:
        node: what was written.
        what: it is called; empty: found from the node.

    Raises:
        QueryError: always.
    """
    from sqlglot import exp

    if isinstance(node, exp.Literal | exp.Null):
        raise QueryError(f"The value {node.sql()} alone is no condition, and no column.", hint=EXAMPLE)
    if not what and isinstance(node, exp.Query | exp.Subquery | exp.Exists):
        what = "a query within it"
    elif not what and isinstance(node, exp.Cast):
        what = type(node).__name__.upper()
    elif not what and isinstance(node, exp.Func):
        what = "a function other than match"
    elif not what and isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod | exp.Neg):
        what = "arithmetic"
    shown = cut(node.sql())
    raise QueryError(
        f"A filter cannot use {what}: {shown}." if what else f"A filter cannot use {shown}.", hint=EXAMPLE
    )
