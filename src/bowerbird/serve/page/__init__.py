"""The page for people: search, two models side by side, a map, and how the index is, made with Gradio.

`mount` is cheap and imports no Gradio: until `Page.start` has done that, visitors are told to wait a moment.
"""

from __future__ import annotations

from bowerbird.serve.page.site import Page, mount

__all__ = ["Page", "mount"]
