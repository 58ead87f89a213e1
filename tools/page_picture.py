"""Takes the picture of the page's code explorer, docs/page.png, in a Chromium without a window.

    seedtok serve --port 8000 &
    python tools/page_picture.py OUT.png [--address http://127.0.0.1:8000] [--width 1280] [--tab Explore]

Splices the codes of two scenes. Needs playwright, of the extra `test`, and Chromium. `--tab See` and the like takes the
picture of another tab, with nothing done in it but choosing an image.
"""

import argparse
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload, sync_playwright

from seedtok.mini.world.drawing import render
from seedtok.mini.world.looks import random_look
from seedtok.mini.world.scene import Scene, Thing

SCENES = (
    Scene("blue", (Thing("fox", "left"), Thing("cake", "right"))),
    Scene("green", (Thing("bear", "middle"),)),
)
HAND = "noto"
SPLICED = "24"  # codes of the first image, the others of the second
WAIT = 120_000  # milliseconds


def picture(number: int) -> FilePayload:
    """One of the scenes, as a browser's file field takes it."""
    scene, file = SCENES[number], io.BytesIO()
    look = random_look(scene, (HAND,), np.random.default_rng(number))
    Image.fromarray(render(replace(scene, look=look), 128)).save(file, "PNG")
    return {"name": f"{number}.png", "mimeType": "image/png", "buffer": file.getvalue()}


def splice(page: Any) -> None:
    """Does in the explorer what the picture shows."""
    for number, name in enumerate(("Image A", "Image B")):
        page.set_input_files(f"input[aria-label='{name}']", [picture(number)])
        page.wait_for_selector(f"#codes-{'ab'[number]} .tile:nth-child(32)")
    slider = page.locator("#splice input[type=range]")
    slider.fill(SPLICED)
    slider.dispatch_event("pointerup")
    page.locator("#codes-mixed .tile").nth(5).click()
    page.wait_for_selector("#nearest .tile:nth-child(8)")
    page.click("#prefixes")
    page.wait_for_selector("#prefix-images figure:nth-child(9) img")
    page.wait_for_selector("#explore-drawn .canvas img")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--tab", default="Explore")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--headless", "--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": args.width, "height": 900})
        page.set_default_timeout(WAIT)
        page.goto(args.address)
        page.wait_for_selector("[role=tab]")
        page.get_by_role("tab", name=args.tab, exact=True).click()
        if args.tab == "Explore":
            splice(page)
        else:
            page.set_input_files("input[aria-label='Image']", [picture(0)])
        page.wait_for_timeout(2000)  # what fades in
        shown = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        shown.quantize(256).save(args.out, optimize=True)  # a third of the size
        browser.close()


if __name__ == "__main__":
    main()
