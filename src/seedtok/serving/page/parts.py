"""What the page is made of beside gradio's own components; `static/parts.js` has what they do in the browser."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from gradio.components import Component

from seedtok.serving.page.paths import FOLDER

# values are data URLs that the page itself has made, codes and captions; captions lose what could be markup
PICKER = """
<div class="frame">${name}</div>
<label class="picker ${value ? 'filled' : ''}">
  ${value ? `<img src="${value}" alt="the chosen image">` : `<span>${hint}</span>`}
  <input type="file" accept="image/*" aria-label="${name}">
</label>
"""
PICTURE = (
    """<div class="frame">${name}</div><div class="canvas">${value ? `<img src="${value}" alt="${name}">` : ''}</div>"""
)
PICTURES = """
<div class="gallery">${value.images.map((drawn, place) => `<figure>
  <img src="${drawn.url}" alt="a drawn image">
  <figcaption>${drawn.text.replace(/[&<>"]/g, '')}
  ${usable ? `<button type="button" data-place="${place}">Use this image</button>` : ''}</figcaption>
</figure>`).join('')}</div>
"""
TILES = """
<div class="frame">${name}</div>
<div class="codes">${value.codes.map((code, place) => `<button type="button" data-place="${place}"
  class="tile ${value.marked.includes(place) ? 'marked' : ''} ${value.chosen === place ? 'chosen' : ''}"
  style="--hue: ${(code * 137.508) % 360}" title="${value.titles[place] ?? `code ${place + 1}`}"
  ${usable ? '' : 'disabled'}>${code}</button>`).join('')}</div>
"""
NO_PICTURES = {"images": [], "chosen": None}
NO_TILES = {"codes": [], "marked": [], "titles": [], "chosen": None}


def script(file: str, call: str) -> str:
    """JavaScript that imports a file of the page's own and calls a function of it."""
    return f"(await import(new URL('{FOLDER[1:]}/{file}', document.baseURI))).{call}"


def event(name: str, outputs: Sequence[Component]) -> str:
    """The JavaScript of an event: the function `name` of `events.js`, from values of inputs to those of outputs."""
    return f"async (...given) => {script('events.js', f'run({name!r}, {len(outputs)}, given)')}"


def _on_load(name: str) -> str:
    return f"(async () => {script('parts.js', f'{name}(element, props, trigger)')})();"


def picker(name: str, hint: str = "Choose, drop or paste an image") -> gr.HTML:
    """An image of the reader's: a data URL, or an empty text. Event: `input`."""
    return gr.HTML(
        "", html_template=PICKER, js_on_load=_on_load("startPicker"), apply_default_css=False, name=name, hint=hint
    )


def picture(name: str) -> gr.HTML:
    """An image that is shown: a data URL, or an empty text."""
    return gr.HTML("", html_template=PICTURE, js_on_load=None, apply_default_css=False, name=name)


def pictures(elem_id: str, usable: bool = False) -> gr.HTML:
    """Images with captions: {images: a list of {url, text}, chosen}. Event: `select`, after `chosen` is set."""
    return gr.HTML(
        NO_PICTURES, html_template=PICTURES, js_on_load=_on_load("startChoice"), apply_default_css=False,
        usable=usable, elem_id=elem_id,
    )  # fmt: skip


def ticker() -> gr.HTML:
    """A component that is not seen. Event: `input`, which the page's scripts begin."""
    return gr.HTML("", visible="hidden", js_on_load=_on_load("startTicker"), apply_default_css=False)


def tiles(elem_id: str, name: str = "", usable: bool = False) -> gr.HTML:
    """Codes as tiles: {codes, marked, titles, chosen}, where places in `marked` and `chosen` are pointed out.

    Event: `select`, after `chosen` is set.
    """
    return gr.HTML(
        NO_TILES, html_template=TILES, js_on_load=_on_load("startChoice"), apply_default_css=False, usable=usable,
        name=name, elem_id=elem_id,
    )  # fmt: skip
