"""Charts as inline SVG, and pictures as data URLs, so that a page needs no other file."""

import base64
import math
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

WIDTH, HEIGHT, EDGE = 360, 160, 34


def line_chart(title: str, points: Sequence[tuple[float, float]], unit: str = "step") -> str:
    """A curve of (x, y); y on a logarithmic scale where all of it is positive."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if len(points) < 2:
        return ""
    logarithmic = all(y > 0 for _, y in points)
    xs, ys = [x for x, _ in points], [math.log(y) if logarithmic else y for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> str:
        across = EDGE + (WIDTH - EDGE - 6) * (x - left) / ((right - left) or 1)
        return f"{across:.1f},{HEIGHT - 18 - (HEIGHT - 40) * (y - low) / ((high - low) or 1):.1f}"

    path = " ".join(place(x, y) for x, y in zip(xs, ys, strict=True))
    bottom, top = (f"{math.exp(y) if logarithmic else y:.3g}" for y in (low, high))
    return _svg(
        title,
        f'<polyline points="{path}"/><text x="2" y="{HEIGHT - 18}">{bottom}</text><text x="2" y="28">{top}</text>'
        f'<text x="{EDGE}" y="{HEIGHT - 4}">{left:,.0f}</text>'
        f'<text x="{WIDTH - 4}" y="{HEIGHT - 4}" text-anchor="end">{right:,.0f} {unit}</text>',
    )


def bar_chart(title: str, counts: Sequence[int], label: str) -> str:
    """Bars of these heights, as wide as there is room."""
    if not counts or max(counts) == 0:
        return ""
    wide = (WIDTH - EDGE - 6) / len(counts)
    tall = (HEIGHT - 40) / max(counts)
    bars = "".join(
        f'<rect x="{EDGE + i * wide:.2f}" y="{HEIGHT - 18 - count * tall:.2f}" width="{max(wide, 0.2):.2f}" '
        f'height="{count * tall:.2f}"/>'
        for i, count in enumerate(counts)
    )
    return _svg(
        title, f'{bars}<text x="2" y="28">{max(counts):,}</text><text x="{EDGE}" y="{HEIGHT - 4}">{label}</text>'
    )


def _svg(title: str, inside: str) -> str:
    heading = f'<text x="{EDGE}" y="14" class="title">{escape(title)}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{heading}{inside}</svg>'


def picture(image: Image.Image, caption: str) -> str:
    """A figure of the page."""
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    words = escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'
