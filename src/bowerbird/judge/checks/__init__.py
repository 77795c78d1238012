"""Checks of an index on the user's own data: each a function from a `Case` to findings."""
