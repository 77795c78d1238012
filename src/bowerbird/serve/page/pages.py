"""The documents around the page itself: signing in, waiting, and Gradio's own, mended."""

from __future__ import annotations

import re

from bowerbird.search.page import document, escaped, style_with

__all__ = ["note", "rewritten", "sign_in", "waiting", "working"]

_HEAD = """<title>Bowerbird</title>
<meta name="description" content="Search pictures and texts by meaning">
<meta name="color-scheme" content="light dark">
<meta name="theme-color" content="#fbfbfc" media="(prefers-color-scheme: light)">
<meta name="theme-color" content="#111318" media="(prefers-color-scheme: dark)">
<link rel="icon" href="./favicon.ico" type="image/svg+xml">
<link rel="stylesheet" href="./page/page.css">
<script src="./page/page.js"></script>
</head>"""

_UNWANTED = re.compile(
    # What tells other sites' previews of Gradio, and asks other sites for anything.
    r"<meta\s+(?:property|name)=\"(?:og|twitter):[^>]*>|<link rel=\"(?:preconnect|manifest)\"[^>]*>",
    re.DOTALL,
)
_RESIZER = re.compile(r"<script>\s*\(\(\) => \{\s*const root = .*?</script>", re.DOTALL)
_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)")

_NAMES = {
    "map": "The map is being drawn",
    "gap": "The gap is being measured",
    "health": "The index is being looked at",
}


def rewritten(text: str, nonce: str) -> str:
    """Gradio's document with our head: nothing in it leads to another site, and its scripts carry the nonce."""
    text = _RESIZER.sub("", _UNWANTED.sub("", text))
    text = _SCRIPT.sub(f'<script nonce="{nonce}"', text)
    return text.replace("</head>", _HEAD, 1)


def sign_in(fault: str, then: str = "") -> str:
    """The form for the key.

    Args:
        fault: of what was given.
        then: what is shown next, as `then=` of the form's address; empty: the page.
    """
    address = f"sign-in?then={then}" if then else "sign-in"
    said = f'<p class="fault" role="alert">{escaped(fault)}</p>' if fault else ""
    body = (
        '<main class="wrap gate"><form method="post" action="' + address + '">'
        '<label for="key">API key</label><input id="key" name="key" type="password" autocomplete="current-password" '
        f'required autofocus maxlength="1000">{said}<button type="submit">Sign in</button></form>'
        "<p>Who runs this service can give you one.</p></main>"
    )
    return _plain("Sign in", body, "form-action 'self'")


def waiting() -> str:
    """Until the page is there."""
    return _waiting("Bowerbird is waking up", "The page will be here in a moment.")


def working(kind: str) -> str:
    """Until a drawing is there."""
    said = "This takes some seconds, and longer for a large collection."
    return _waiting(_NAMES.get(kind, "This is being drawn"), said)


def note(title: str, said: str, hint: str) -> str:
    """A page that says one thing."""
    more = f"<p>{escaped(hint)}</p>" if hint else ""
    return _plain(title, f'<main class="wrap gate"><p>{escaped(said)}</p>{more}</main>')


def _waiting(title: str, said: str) -> str:
    body = (
        '<main class="wrap gate" role="status"><p class="going" aria-hidden="true"><i></i><i></i><i></i></p>'
        f"<p>{escaped(said)}</p></main>"
    )
    return _plain(title, body).replace("<head>", '<head>\n<meta http-equiv="refresh" content="1">', 1)


def _plain(title: str, body: str, policy: str = "form-action 'none'") -> str:
    style = style_with(("bowerbird.serve.page", "gate.css"))
    text = document(title, body, style=style)
    return (
        text.replace("form-action 'none'", policy, 1)
        .replace(
            '<link rel="icon" href="data:,">',
            '<link rel="icon" href="../favicon.ico" type="image/svg+xml">',
            1,
        )
        .replace("img-src data:", "img-src 'self' data:", 1)
    )
