"""What an import and a first use load, in fresh processes: nothing that is not needed, and nothing said of it."""

import gc
import json
import os
import re
import resource
import subprocess
import sys
import weakref
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import seedtok
from seedtok.core.errors import ImageError
from seedtok.core.extras import EXTRAS
from seedtok.core.image_batches import batches_of
from seedtok.tokenizer.seed import SeedTokenizer

HEAVY = ("transformers", "diffusers", "peft", "accelerate", "huggingface_hub", "sympy", "torch._dynamo", "scipy")
SCENE = "from seedtok.mini.world.scenes import render, unique_scenes; scene = render(unique_scenes('test', 1)[0])\n"
PRINT_HEAVY = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=250)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "from seedtok import SeedTokenizer, SeedLM",
        f"from seedtok import SeedTokenizer\n{SCENE}SeedTokenizer.from_pretrained().encode(scene)",
    ],
    ids=["import", "encode"],
)
def test_importing_and_encoding_load_nothing_heavy(code: str):
    done = fresh(f"{code}\n{PRINT_HEAVY}")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_command_line_imports_no_torch_for_its_help():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = fresh(
        "import sys; sys.argv = ['seedtok', '--help']\nfrom seedtok.cli.app import main\ntry: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr == "False\n"
    assert "encode" in done.stdout
    assert after.ru_utime - before.ru_utime < 2  # it takes 0.2; importing torch takes 1.2


def test_every_public_name_is_there_and_documented():
    for name in seedtok.__all__:
        value = getattr(seedtok, name)
        assert name == "__version__" or (value.__name__ == name and value.__doc__), name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        seedtok.Nothing  # noqa: B018
    assert set(seedtok.__all__) <= set(dir(seedtok))


@pytest.mark.slow
def test_the_librarys_own_loading_is_quiet_and_leaves_the_users_settings():
    done = fresh(
        "import transformers.utils.logging as t, diffusers.utils.logging as d, warnings\n"
        "from huggingface_hub.utils import are_progress_bars_disabled\n"
        "settings = lambda: (t.get_verbosity(), d.get_verbosity(), t.is_progress_bar_enabled(),\n"
        "    d.is_progress_bar_enabled(), are_progress_bars_disabled(), len(warnings.filters))\n"
        "before = settings()\n"
        "from seedtok import SeedLM\n"
        "m = SeedLM.from_pretrained()\n"
        f"{SCENE}"
        "m.caption(scene, num_beams=2, max_new_tokens=4)\n"
        "m.seed.embed_texts('a fox')\n"
        "m.seed.decode(m.seed.encode(scene), 1)\n"
        "after = settings()\n"
        "assert after[:5] == before[:5], (before, after)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---------------------------------------------------------------- extras

BASE = [  # what a plain `pip install` can do
    "imagine 'a fox on the left on a blue background' --steps 2 --out p/fox.png", "encode p",
    "decode --codes '{codes}' --steps 2 --out drawn", "reconstruct p --steps 2 --out compared",
    "caption p/fox.png", "ask p/fox.png 'What is on the left?'",
    "draw 'a fox on the left on a blue background' --out x.png",
]  # fmt: skip
OPTIONAL = [name for name in EXTRAS if name not in ("accelerate", "pydantic", "tokenizers")]  # others need these
RUN_WITHOUT = (
    "import json, shlex, sys\n"
    "commands, without = json.load(sys.stdin)\n"
    "sys.modules.update(dict.fromkeys(without))\n"
    "from typer.testing import CliRunner\n"
    "from seedtok.cli.app import app\n"
    "results = [CliRunner().invoke(app, shlex.split(command)) for command in commands]\n"
    "print(json.dumps([[r.exit_code, r.stderr] for r in results]))\n"
)


def run_without(packages: list[str], commands: list[str], folder: Path) -> list[tuple[int, str]]:
    """Exit codes and stderr of commands in one process in which some packages cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT], input=json.dumps([commands, packages]), cwd=folder,
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(code, errors) for code, errors in json.loads(done.stdout)]


@pytest.mark.slow
def test_the_shipped_models_need_no_extra(tmp_path: Path):
    codes = " ".join(map(str, range(32)))
    for command, (code, errors) in zip(
        BASE, run_without(OPTIONAL, [c.format(codes=codes) for c in BASE], tmp_path), strict=True
    ):
        assert code == 0, f"{command}: {errors}"


@pytest.mark.parametrize("package", OPTIONAL)
def test_what_to_install_is_said_in_a_line(package: str, monkeypatch: pytest.MonkeyPatch, cli):
    def command(**_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{package}.inner'", name=f"{package}.inner")

    monkeypatch.setattr("seedtok.cli.support.recipes", command)
    monkeypatch.setattr("seedtok.cli.app.recipes", command)
    code, output, errors = cli("train", "--list")
    assert (code, output) == (2, "")
    assert errors == f"error: this needs {package}, which is not installed: pip install 'seedtok[{EXTRAS[package]}]'\n"


def test_extras_install_what_they_are_named_for():
    declared = {
        canonicalize_name(requirement.name): match[1]
        for requirement in map(Requirement, requires("seedtok") or [])
        if (
            match := re.search(
                r'extra == "(train|evaluate|llama|lmms|mini|quantize|ray|serve)"', str(requirement.marker)
            )
        )
    }
    assert declared == {canonicalize_name(package): extra for package, extra in EXTRAS.items()}


# ---------------------------------------------------------------- memory


def test_encoding_keeps_no_more_pictures_than_a_batch(tiny_tokenizer: Path):
    model, alive, most = SeedTokenizer.from_pretrained(tiny_tokenizer), [], 0

    class Picture(np.ndarray):
        pass

    def pictures():
        nonlocal most
        for shade in range(16):
            picture = np.full((9, 9, 3), shade * 6, "uint8").view(Picture)
            alive.append(weakref.ref(picture))
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            yield picture

    gc.freeze()  # what there was before is not searched
    try:
        codes = model.encode(pictures(), batch_size=4)
    finally:
        gc.unfreeze()
    assert codes.shape == (16, 32)
    assert most <= 9


def test_batches_change_no_codes(tiny_tokenizer: Path):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    pictures = np.random.default_rng(0).integers(0, 256, (7, 40, 40, 3), "uint8")
    assert (model.encode(pictures, batch_size=2) == model.encode(pictures)).float().mean() > 0.99
    assert model.encode(list(pictures)).shape == model.encode(iter(pictures)).shape == (7, 32)


@pytest.mark.parametrize("nothing", [[], (), iter(()), np.zeros((0, 8, 8, 3), "uint8")])
def test_of_no_pictures_there_are_no_batches(nothing):
    assert list(batches_of(nothing, 4)) == []


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ImageError, match="batch size of 0"):
        list(batches_of([], 0))
