"""A server under load: many clients with mixed work against the library's own answers, and drawing together.

    python benchmarks/serving.py --clients 100 --minutes 5

Starts `seedtok serve` as a process. Prints one JSON object: requests by kind and status, wrong answers, the server's
memory, and how much more a server draws for 16 clients than for one after another, by the clock and by the server's
CPU time, which other processes on the machine change less.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from openai import APIStatusError, AsyncOpenAI
from PIL import Image

from seedtok import SeedLM
from seedtok.core.device import computes_bfloat16_fast

PROMPTS = [
    f"{first} on {colour} background"
    for first in ("a fox to the left of a cake", "a bear in the middle", "an egg on the left", "a cake at the top")
    for colour in ("a blue", "a red", "a green", "an orange")
]
QUESTIONS = ["What color is the background?", "What is on the left?"]
STEPS = 10  # between two looks at the server's memory, in seconds
TOLERANCE = 3.0
WRONG = "WRONG"
TOGETHER = 16  # clients that draw at once


def data_url(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def right(is_right: bool) -> str:
    return "right" if is_right else WRONG


def pixels(text: str | Image.Image) -> np.ndarray:
    image = Image.open(BytesIO(base64.b64decode(text.rpartition(",")[2]))) if isinstance(text, str) else text
    return np.asarray(image.convert("RGB"), int)


class Expected:
    """What the library gives, one by one."""

    def __init__(self, model: SeedLM, dtype: torch.dtype | None):
        self.drawn = [
            model.draw(prompt, generator=[torch.Generator().manual_seed(0)], dtype=dtype)[0] for prompt in PROMPTS
        ]
        self.urls = [data_url(image) for image in self.drawn]
        self.captions = [model.caption(image)[0] for image in self.drawn]
        self.answers = [[model.answer(image, question)[0] for question in QUESTIONS] for image in self.drawn]
        self.codes = [model.seed.encode(image)[0].tolist() for image in self.drawn]
        self.decoded = [
            model.seed.decode(codes, generator=[torch.Generator().manual_seed(0)], dtype=dtype)[0]
            for codes in self.codes
        ]

    @staticmethod
    def compare(text: str, images: list[Image.Image], number: int) -> str:
        """How a picture compares with that of this number, by the mean absolute difference of pixels in 0..255.

        "right" is equal but for rounding; "differs" is still nearer to it than to
        any other picture: rounding, which depends on what else is in a batch, can grow over the denoising steps.
        """
        found = pixels(text)
        distances = [np.abs(found - pixels(image)).mean() for image in images]
        if distances[number] < TOLERANCE:
            return "right"
        return "differs" if int(np.argmin(distances)) == number else WRONG


class Client:
    """One client: work of all kinds in a random order, each checked."""

    def __init__(self, address: str, expected: Expected, seed: int, results: Counter):
        self.openai = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)
        self.expected, self.dice, self.results = expected, random.Random(seed), results

    def _about(self, number: int, text: str) -> list[Any]:
        image = {"type": "image_url", "image_url": {"url": self.expected.urls[number]}}
        return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]

    async def caption(self, number: int) -> str:
        found = await self.openai.chat.completions.create(model="mini", messages=self._about(number, ""))
        return right(found.choices[0].message.content == self.expected.captions[number])

    async def streamed(self, number: int) -> str:
        stream = await self.openai.chat.completions.create(
            model="mini", messages=self._about(number, "A photo of"), stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return right(text == self.expected.captions[number])

    async def answer(self, number: int) -> str:
        which = self.dice.randrange(len(QUESTIONS))
        messages = self._about(number, QUESTIONS[which])
        found = await self.openai.chat.completions.create(model="mini", messages=messages)
        return right(found.choices[0].message.content == self.expected.answers[number][which])

    async def draw(self, number: int) -> str:
        found = await self.openai.images.generate(model="mini", prompt=PROMPTS[number], extra_body={"seed": 0})
        [image] = found.data or []
        return self.expected.compare(image.b64_json or "", self.expected.drawn, number)

    async def encode(self, number: int) -> str:
        body = {"images": [self.expected.urls[number]]}
        found = await self.openai.post("/seed/encode", body=body, cast_to=dict)
        return right(found["data"][0]["codes"] == self.expected.codes[number])

    async def decode(self, number: int) -> str:
        body = {"codes": [self.expected.codes[number]], "seed": 0}
        found = await self.openai.post("/seed/decode", body=body, cast_to=dict)
        return self.expected.compare(found["data"][0]["b64_json"], self.expected.decoded, number)

    async def leave(self, number: int) -> str:
        """Asks for something and goes."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.draw(number), self.dice.random())
        return "done"

    async def broken(self, number: int) -> str:
        """Sends what is no picture."""
        body = {"images": [self.expected.urls[number][: 100 + number]]}
        try:
            await self.openai.post("/seed/encode", body=body, cast_to=dict)
        except APIStatusError as error:
            return right(error.status_code == 400)
        return WRONG

    async def run(self, until: float) -> None:
        kinds: list[Callable[[int], Awaitable[str]]] = [
            self.caption, self.caption, self.streamed, self.answer, self.answer, self.encode, self.draw, self.decode,
            self.leave, self.broken,
        ]  # fmt: skip
        while time.monotonic() < until:
            kind = self.dice.choice(kinds)
            try:
                self.results[f"{kind.__name__}: {await kind(self.dice.randrange(len(PROMPTS)))}"] += 1
            except APIStatusError as error:
                self.results[f"status {error.status_code}"] += 1
                await asyncio.sleep(self.dice.random())
            except Exception as error:
                self.results[f"FAILED: {type(error).__name__}"] += 1
        await self.openai.close()


def metric(address: str, name: str) -> float:
    """A value of the server's /metrics."""
    for line in httpx2.get(f"{address}/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise RuntimeError(f"the server does not tell its {name}")


async def soak(address: str, expected: Expected, clients: int, seconds: float) -> dict[str, Any]:
    """Many clients for some time: how often each kind of work was right, and the server's memory meanwhile."""
    results: Counter = Counter()
    until = time.monotonic() + seconds
    crowd = [Client(address, expected, number, results).run(until) for number in range(clients)]
    working = asyncio.gather(*crowd)
    sizes = []
    while not working.done():
        await asyncio.wait({working}, timeout=STEPS)
        sizes.append(round(await asyncio.to_thread(metric, address, "process_resident_memory_bytes") / 1e6))
    await working
    faults = {name: count for name, count in results.items() if WRONG in name or "FAILED" in name}
    others = {name: count for name, count in results.items() if name.startswith("status") and name != "status 429"}
    return {
        "requests": results.total(), "faults": faults | others, "results": dict(sorted(results.items())),
        "memory_mb": {"begin": sizes[0], "end": sizes[-1], "most": max(sizes), "all": sizes},
    }  # fmt: skip


async def drawing(address: str, clients: int, count: int) -> dict[str, float]:
    """Pictures a second, and of the server's CPU time, where each of so many clients asks for the next when it has one.

    `batch` is how many were drawn together on average.
    """
    openai = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    left = iter(range(count))

    async def draw() -> None:
        for number in left:
            await draw_one(openai, number)

    def read() -> list[float]:
        names = ("process_cpu_seconds_total", 'seedtok_batch_size_count{task="draw"}')
        return [time.monotonic(), *(metric(address, name) for name in names)]

    await draw_one(openai)  # so that both counters are there
    begun = read()
    await asyncio.gather(*(draw() for _ in range(clients)))
    seconds, cpu, batches = (now - before for now, before in zip(read(), begun, strict=True))
    await openai.close()
    found = {"a_second": count / seconds, "a_cpu_second": count / cpu, "batch": count / batches}
    return {name: round(value, 2) for name, value in found.items()}


async def draw_one(openai: AsyncOpenAI, number: int = 0) -> None:
    await openai.images.generate(model="mini", prompt=PROMPTS[number % len(PROMPTS)], extra_body={"seed": 0})


@contextmanager
def server(options: list[str]) -> Iterator[str]:
    """A server's address; it is stopped at the end."""
    command = [sys.executable, "-m", "seedtok", "serve", "--no-page", "--port", "0", *options]
    with tempfile.NamedTemporaryFile("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            while '"address"' not in (text := Path(log.name).read_text()):
                if process.poll() is not None:
                    raise SystemExit(text)
                time.sleep(0.1)
            yield next(json.loads(line)["address"] for line in text.splitlines() if '"address"' in line)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=5, help="of mixed work; 0 for none")
    parser.add_argument("--draws", type=int, default=32, help="pictures that 16 clients draw; 0 for none")
    parser.add_argument("--drawing-dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    args, options = parser.parse_known_args()  # others are those of `seedtok serve`
    model = SeedLM.from_pretrained("mini")
    dtype = getattr(torch, args.drawing_dtype, None)
    if args.drawing_dtype == "auto":
        dtype = torch.bfloat16 if computes_bfloat16_fast(model.device) else torch.float32
    expected = Expected(model, dtype) if args.minutes else None
    del model
    report: dict[str, Any] = {"clients": args.clients, "minutes": args.minutes, "drawing_dtype": str(dtype)}
    with server(["--drawing-dtype", args.drawing_dtype, *options]) as address:
        if args.draws:
            alone, together = [], []
            for _ in range(2):
                alone.append(asyncio.run(drawing(address, 1, max(1, args.draws // 4))))
                together.append(asyncio.run(drawing(address, TOGETHER, args.draws)))
            report["drawing"] = {"alone": alone, f"{TOGETHER} clients": together}
            report["times_as_many"] = {
                unit: round(max(row[unit] for row in together) / max(row[unit] for row in alone), 2)
                for unit in ("a_second", "a_cpu_second")
            }
        if expected is not None:
            report |= asyncio.run(soak(address, expected, args.clients, 60 * args.minutes))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
