"""HTML by function calls, escaped by construction: only what `tag` and `page` return is taken as markup.

A report holds texts written by models and datasets. Every text that is not `Html` is escaped wherever it is put,
and the page allows neither scripts nor anything from elsewhere.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_VOID = frozenset({"img", "meta", "br"})
_COLOURS = 256

STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --soft: #5b6675; --page: #fff; --card: #f4f6f9;
  --line: #d8dee7; --bar: #3a7bd5; --whisker: #14315c; }
@media (prefers-color-scheme: dark) { :root { --text: #e5e9f0; --soft: #9aa5b5; --page: #14181f; --card: #1d232d;
  --line: #333c4a; --bar: #5b9bf0; --whisker: #dce9ff; } }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, small { color: var(--soft); }
code { overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem; }
.tile { background: var(--card); border-radius: .6rem; padding: .7rem 1rem; min-width: 8.5rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td small { display: block; white-space: nowrap; }
.track { position: relative; width: 18rem; height: .9rem; margin-top: .3rem; background: var(--card); }
.track i { position: absolute; inset: 0 auto 0 0; background: var(--bar); border-radius: .2rem; }
.track u { position: absolute; top: 40%; bottom: 40%; background: var(--whisker); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure svg { width: 100%; display: block; }
figure { margin: 0; background: var(--card); border-radius: .6rem; padding: .8rem; }
figure.large { grid-column: 1 / -1; }
figure img { width: 100%; border-radius: .3rem; display: block; }
figcaption { margin-top: .5rem; }
blockquote { margin: .5rem 0; padding-left: .8rem; border-left: 3px solid var(--line); white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .92rem; }
"""


class Html(str):
    """Markup that may be inserted as it is."""


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """One element; children that are not `Html`, and every attribute, are escaped.

    Args:
        element: Its name.
        children: Texts, numbers, or elements.
        attributes: By name, a line below for a hyphen; `kind` stands for `class`. None leaves one out.

    >>> tag("p", "a < b", tag("b", "!"), kind="note")
    '<p class="note">a &lt; b<b>!</b></p>'
    """
    shown = {
        ("class" if key == "kind" else key.replace("_", "-")): value
        for key, value in attributes.items()
        if value is not None
    }
    opening = "".join(f' {key}="{_escape(value)}"' for key, value in shown.items())
    if element in _VOID:
        return Html(f"<{element}{opening}>")
    return Html(f"<{element}{opening}>{join(children)}</{element}>")


def join(parts: Iterable[object]) -> Html:
    """Parts in a row, escaped where they are not `Html`."""
    return Html("".join(part if isinstance(part, Html) else _escape(part) for part in parts))


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls sideways where it does not fit."""
    head = tag("tr", *(tag("th", cell) for cell in header))
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag("div", tag("table", head, *body), kind="wide")


def image(pixels: UInt8[np.ndarray, "H W 3"], *, alt: str) -> Html:
    """A picture inside the page, as a PNG of 256 colours."""
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    # The palette is given so that PIL dithers, which hides the bands of few colours.
    picture.quantize(palette=picture.quantize(_COLOURS), dither=Image.Dither.FLOYDSTEINBERG).save(
        stream, "PNG"
    )
    return tag(
        "img", src="data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii"), alt=alt
    )


def page(title: str, *parts: object) -> str:
    """A whole document that needs no other file and runs no script."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    return f'<!doctype html>\n<html lang="en">{head}\n{tag("body", *parts)}</html>\n'


def _escape(text: object) -> str:
    """The text with markup made harmless; half characters that no file can hold become question marks."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))
