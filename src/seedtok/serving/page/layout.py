"""The page's tabs: which components there are, and which events of `static/events.js` go from which to which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from seedtok.serving.page import parts

HEAD = "# seedtok"
ABOUT = "Images as codes that a language model reads and writes."
SEE = "An image becomes a few codes; the image decoder draws from these codes alone."
CAPTION = "The language model reads the codes of an image and writes a caption."
ASK = "A question about an image gets a short answer."
DRAW = "The language model writes the codes of an image; the image decoder draws them."
CHAT = "Ask about an image, or begin with “draw”. A message without an image is about the latest one."
EXPLORE = (
    "Splice the codes of two images, or replace a code, and see what is drawn. Codes are causal: each depends on the "
    "image and on the codes before it. Equal codes have equal colors; framed ones are those of A."
)
PROMPT = "a fox to the left of a rocket on a blue background"
UNCHOSEN = "New code: choose one of those below the drawing"


def build(code_count: int) -> gr.Blocks:
    """The page for images of so many codes; all of its events run in the browser."""
    with gr.Blocks(title="seedtok", analytics_enabled=False) as blocks:
        gr.Markdown(HEAD)
        model = gr.Markdown(ABOUT, elem_id="model")
        gr.HTML('<div id="notice" role="alert"></div>', js_on_load=None, apply_default_css=False)
        with gr.Tabs():
            first: list[Any] = [_see(), _caption(), _ask()]  # gradio makes the methods of events when it runs
            drawn: Any = _draw()
            _chat()
            first.append(_explore(code_count))
        for picker in first:  # an image that is chosen in one tab is that of the others
            others = [other for other in first if other is not picker]
            picker.input(None, picker, others, js="(url) => [url, url, url]")
        _on(drawn.select, "use", [drawn], first)
        _on(blocks.load, "start", [], [model])
    return blocks


def _on(listener, name: str, inputs: Sequence[Component], outputs: Sequence[Component]) -> Dependency:
    """Has an event of the browser run a function of `static/events.js`."""
    return listener(
        None, list(inputs), list(outputs), js=parts.event(name, outputs), queue=False, api_visibility="private"
    )


def _see() -> gr.HTML:
    with gr.Tab("See"):
        gr.Markdown(SEE)
        with gr.Row():
            with gr.Column(min_width=200):
                image = parts.picker("Image")
                run = gr.Button("Encode and draw", variant="primary", elem_id="see-run")
            with gr.Column(min_width=200):
                codes = parts.tiles("see-codes", "Codes")
            with gr.Column(min_width=200, elem_id="see-drawn"):
                drawn = parts.picture("Drawn from the codes")
    _on(_on(run.click, "encode", [image], [codes]).then, "decode", [codes], [drawn])
    return image


def _caption() -> gr.HTML:
    with gr.Tab("Caption"):
        gr.Markdown(CAPTION)
        with gr.Row():
            with gr.Column(min_width=240):
                image = parts.picker("Image to caption")
            with gr.Column(min_width=240, scale=2):
                run = gr.Button("Caption", variant="primary", elem_id="caption-run")
                text = gr.Textbox(label="Caption", lines=2, elem_id="caption-text")
    _on(run.click, "caption", [image], [text])
    return image


def _ask() -> gr.HTML:
    with gr.Tab("Ask"):
        gr.Markdown(ASK)
        with gr.Row():
            with gr.Column(min_width=240):
                image = parts.picker("Image to ask about")
            with gr.Column(min_width=240, scale=2):
                question = gr.Textbox("What is on the left?", label="Question", elem_id="ask-question")
                run = gr.Button("Ask", variant="primary", elem_id="ask-run")
                text = gr.Textbox(label="Answer", lines=2, elem_id="ask-text")
    for listener in (run.click, question.submit):
        _on(listener, "ask", [image, question], [text])
    return image


def _draw() -> gr.HTML:
    with gr.Tab("Draw"):
        gr.Markdown(DRAW)
        prompt = gr.Textbox(PROMPT, label="Prompt", elem_id="draw-prompt")
        with gr.Row():
            count = gr.Slider(1, 8, 1, step=1, label="Images", elem_id="draw-count")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="draw-seed")
        run = gr.Button("Draw", variant="primary", elem_id="draw-run")
        images = parts.pictures("draw-images", usable=True)
    for listener in (run.click, prompt.submit):
        _on(listener, "draw", [prompt, count, seed], [images])
    return images


def _chat() -> None:
    with gr.Tab("Chat"):
        gr.Markdown(CHAT)
        log = gr.Chatbot(elem_id="chat-log", show_label=False, height=420, buttons=["copy"], render_markdown=False)
        with gr.Row(elem_id="chat-entry"):
            image = parts.picker("Image to send", "Image")
            text = gr.Textbox(
                show_label=False, placeholder="draw a bear on a red background", elem_id="chat-text", scale=4
            )
            run = gr.Button("Send", variant="primary", elem_id="chat-run")
            stop = gr.Button("Stop", elem_id="chat-stop")
        ticker: Any = parts.ticker()
    for listener in (run.click, text.submit):
        _on(_on(listener, "send", [log, text, image], [log, text, image]).then, "reply", [log], [log])
    _on(ticker.input, "grow", [], [log])
    _on(stop.click, "stop", [], [])


def _explore(code_count: int) -> gr.HTML:
    with gr.Tab("Explore") as tab:
        gr.Markdown(EXPLORE)
        with gr.Row():
            with gr.Column(min_width=150):
                image_a = parts.picker("Image A")
                codes_a = parts.tiles("codes-a")
            with gr.Column(min_width=150):
                image_b = parts.picker("Image B")
                codes_b = parts.tiles("codes-b")
            with gr.Column(min_width=240, elem_id="explore-drawn"):
                drawn = parts.picture("Drawn from the spliced codes")
                mixed = parts.tiles("codes-mixed", usable=True)
        with gr.Row():
            with gr.Column(min_width=240):
                label = "Codes of A, the others of B (white without B)"
                count = gr.Slider(0, code_count, code_count, step=1, label=label, elem_id="splice")
                prefixes = gr.Button("Draw prefixes of A", elem_id="prefixes")
            with gr.Column(min_width=240):
                code = gr.Number(0, label=UNCHOSEN, precision=0, minimum=0, elem_id="replace-code")
                replace = gr.Button("Replace", elem_id="replace-run")
                nearest = parts.tiles("nearest", "Nearest in the codebook", usable=True)
        strip = parts.pictures("prefix-images")
    splice = ([image_a, image_b, count], [codes_a, codes_b, mixed])
    for listener in (tab.select, image_a.input, image_b.input, count.release):
        _on(_on(listener, "explore", *splice).then, "redraw", [mixed], [drawn])
    _on(mixed.select, "choose", [mixed], [code, nearest])
    swap = ([mixed, code, codes_a], [mixed])
    _on(_on(replace.click, "replace", *swap).then, "redraw", [mixed], [drawn])
    taken = _on(nearest.select, "take", [nearest], [code])
    _on(_on(taken.then, "replace", *swap).then, "redraw", [mixed], [drawn])
    _on(prefixes.click, "prefixes", [image_a, image_b], [strip])
    return image_a
