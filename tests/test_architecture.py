"""The floors of the house: imports go down, files stay short, and nothing is loaded loosely."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import seedtok

ROOT = Path(seedtok.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BELOW = ("lm", "tokenizer", "data", "core")
FLOORS: dict[str, tuple[str, ...]] = {  # what each room may import, beside itself
    "mini": ("stages", "evaluation", "baselines", "weights", "training", *BELOW),
    "serving": ("evaluation", "baselines", "weights", *BELOW),
    "recipes": ("stages", "evaluation", "baselines", "weights", "training", *BELOW),
    "stages": ("baselines", "training", *BELOW),
    "evaluation": ("baselines", *BELOW),
    "weights": ("baselines", *BELOW),
    "baselines": BELOW,
    "lm": ("tokenizer", "core"),
    "training": ("data", "core"),
    "tokenizer": ("core",),
    "data": ("core",),
    "core": (),
}
COMPOSERS = ("seed", "seed_config", "embedder", "image_decoder")  # what imports more of the tokenizer than layers
LONG = {  # files of over 300 lines, and why
    "tokenizer/seed.py": "the public class of Figure 2 in one place, half of it docstrings",
    "lm/seed_lm.py": "the public class of Figure 4 in one place, half of it docstrings",
}
WIDE = {  # functions of over eight parameters, and why
    "mini.networks.positioned_unet.__init__": "diffusers reads a network's configuration off its constructor",
    "lm.auto.processing.__call__": "the arguments that transformers gives its processors",
}


def name_of(path: Path) -> str:
    """The dotted name below seedtok: "training.loop"; "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return not name or path.with_suffix(".py").is_file() or path.is_dir()


def imports(path: Path) -> Iterator[str]:
    """Our modules that a file imports, anywhere in it, by their dotted names below seedtok."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(["seedtok", *filter(None, above), *filter(None, [node.module])])
            found = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for whole in found:
            if whole.split(".")[0] != "seedtok":
                continue
            name = whole.removeprefix("seedtok").removeprefix(".")
            yield name if exists(name) else name.rpartition(".")[0]


def is_entrance(name: str) -> bool:
    """The command line, and the package's own face: they import anything."""
    return name in ("", "__main__") or name.split(".")[0] == "cli"


def wrong(importer: str, imported: str) -> str | None:
    """What is wrong with an arrow between two of our modules; None when it is right."""
    here, there = importer.split(".")[0], imported.split(".")[0]
    if is_entrance(importer):
        return None
    if is_entrance(imported):
        return "nothing below imports the command line, or the package as a whole"
    if here not in FLOORS:
        return f"{here} is on no floor: say in this test where it belongs"
    if here != there:
        return None if there in FLOORS[here] else f"{here} may import {FLOORS[here]}"
    if here == "tokenizer":
        _, _, sibling = imported.partition(".")
        if sibling != "layers" and importer.partition(".")[2] not in COMPOSERS:
            return f"in the tokenizer only {' and '.join(COMPOSERS)} import siblings"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    name = name_of(path)
    faults = [f"{name} -> {other}: {fault}" for other in imports(path) if (fault := wrong(name, other))]
    assert faults == []


@pytest.mark.parametrize(
    ("importer", "imported", "right"),
    [
        ("cli.app", "training.loop", True),
        ("cli.data", "cli.support", True),
        ("cli.demo", "mini.world.scenes", True),
        ("training.loop", "cli.support", False),
        ("data.batches", "", False),
        ("training.loop", "stages.contrastive", False),
        ("stages.contrastive", "training.loop", True),
        ("stages.contrastive", "mini.naming", False),
        ("mini.naming", "stages.contrastive", True),
        ("mini.recipes", "recipes.paper", False),
        ("recipes.paper", "mini.recipes", False),
        ("evaluation.retrieval", "training.loop", False),
        ("data.shards", "tokenizer.layers", False),
        ("tokenizer.codebook", "data.shards", False),
        ("tokenizer.vision", "tokenizer.layers", True),
        ("tokenizer.vision", "tokenizer.codebook", False),
        ("tokenizer.seed", "tokenizer.codebook", True),
        ("lm.seed_lm", "data.batches", False),
        ("core.images", "core.errors", True),
        ("core.files", "data.shards", False),
        ("attic.old", "data.shards", False),
    ],
)
def test_the_rule_itself(importer, imported, right):
    assert (wrong(importer, imported) is None) == right


def test_the_walk_finds_what_is_there():
    found = set(imports(ROOT / "training" / "loop.py"))
    assert {"core.locks", "training.checkpoints", "training.config"} <= found


def test_no_circles():
    """No file imports itself by way of others, not even for its types alone."""
    arrows = {name_of(path): set(imports(path)) - {""} for path in FILES}
    settled: set[str] = set()
    while True:
        free = {name for name, others in arrows.items() if name not in settled and others <= settled | {name}}
        if not free:
            break
        settled |= free
    assert sorted(arrows.keys() - settled) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if str(path.relative_to(ROOT)) in LONG:
        assert lines > 300, "no longer an exception"
    else:
        assert lines <= 300, "split it, or write in LONG why not"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_loaded_loosely(path):
    """No pickles but others', whose code is not run, and no tensor that may be missing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert name_of(path) == "weights.sources", f"line {node.lineno}"
                assert given.get("weights_only") == "True", f"line {node.lineno}"
            for keyword in node.keywords:
                loose = keyword.arg in ("strict", "weights_only") and ast.unparse(keyword.value) == "False"
                assert not (loose and ast.unparse(node.func) != "zip"), f"line {node.lineno}: {keyword.arg}=False"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_short(path):
    """At most 60 lines; at most eight parameters beside self, commands aside, whose parameters are their options."""
    long, wide = [], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > 60:
                long.append(node.name)
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in given if argument.arg not in ("self", "cls")])
            if count > 8 and name_of(path).split(".")[0] != "cli" and f"{name_of(path)}.{node.name}" not in WIDE:
                wide.append(f"{node.name} ({count})")
    assert long == []
    assert wide == []
