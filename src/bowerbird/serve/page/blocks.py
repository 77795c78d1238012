"""Gradio's application. Only this module and `layout` import Gradio, which takes seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bowerbird.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bowerbird.serve.page.site import Page
    from bowerbird.serve.service import Facts

__all__ = ["application"]


def application(page: Page, facts: Facts | None) -> tuple[Any, Callable[[], Any]]:
    """Gradio's application and its lifespan.

    Args:
        page: that it is of.
        facts: of the index; None: there is none.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingExtraError("gradio", "serve") from error
    import fastapi

    from bowerbird.serve.page.layout import Layout

    holder = fastapi.FastAPI()

    async def made() -> None:
        _mount(gr, holder, Layout(page, facts).blocks)

    # Gradio gives a thread without a loop new ones, to make locks with, and leaves them open.
    asyncio.run(made())
    return holder.router.routes[-1].app, lambda: holder.router.lifespan_context(holder)  # type: ignore[attr-defined]


def _mount(gr: Any, holder: FastAPI, blocks: Any) -> None:
    """Without anything of Gradio's that shares, counts, serves files or leads elsewhere."""
    gr.mount_gradio_app(
        holder,
        blocks,
        "/",
        theme=_theme(gr),
        allowed_paths=[],
        blocked_paths=["/"],
        max_file_size=1,
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )


def _theme(gr: Any) -> Any:
    """Fonts of the visitor's system, and the colours of all our pages."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
    mono = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
    blue = gr.themes.Color(
        *("#f3f6fd", "#e8edfa", "#cdd8f5", "#a9bdf0", "#93b1ff", "#5d80dd"),
        *("#2c4fae", "#27469b", "#1d2742", "#182038", "#11172a"),
    )
    theme = gr.themes.Base(
        primary_hue=blue, secondary_hue=blue, neutral_hue="slate", font=sans, font_mono=mono
    )
    light = {
        "page": "#fbfbfc",
        "mat": "#ffffff",
        "line": "#dfe2e8",
        "ink": "#181b22",
        "soft": "#5a6270",
        "accent": "#2c4fae",
    }
    dark = {
        "page": "#111318",
        "mat": "#1b1e25",
        "line": "#2b303a",
        "ink": "#e8eaf0",
        "soft": "#9da5b4",
        "accent": "#93b1ff",
    }
    roles = {
        "body_background_fill": "page",
        "background_fill_primary": "page",
        "background_fill_secondary": "page",
        "block_background_fill": "page",
        "body_text_color": "ink",
        "body_text_color_subdued": "soft",
        "block_label_text_color": "soft",
        "block_title_text_color": "soft",
        "block_info_text_color": "soft",
        "border_color_primary": "line",
        "input_background_fill": "mat",
        "input_border_color": "line",
        "input_border_color_focus": "accent",
        "slider_color": "accent",
        "button_primary_background_fill": "accent",
        "button_primary_text_color": "page",
        "button_primary_background_fill_hover": "accent",
    }
    found = {name: light[role] for name, role in roles.items()}
    found |= {f"{name}_dark": dark[role] for name, role in roles.items()}
    return theme.set(
        **found,
        color_accent=light["accent"],
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
    )
