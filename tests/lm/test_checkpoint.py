"""Which base a SEED LM was made for, and checkpoints that are broken or hostile: one line, at once, nothing run."""

import json
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.core.errors import CheckpointError, SeedTokWarning
from seedtok.lm.base import fingerprint, load_base
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer

WIDE = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}


@pytest.fixture
def lm(bases, seed, tmp_path) -> Path:
    SeedLM.build(bases["llama"], seed).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def changed(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ------------------------------------------------------------ the image tokenizer


def test_a_tokenizer_that_was_changed_is_written_with_the_model(lm, tiny_tokenizer, tiny_diffusion, tmp_path):
    def add(weight: torch.Tensor) -> None:
        with torch.no_grad():
            weight.add_(0.01)

    for number, change in enumerate((
        lambda seed: add(seed.embedder.vision.blocks[1].mlp.up.weight),
        lambda seed: add(seed.decode_head[2].bias),
        lambda seed: seed.draw_by(tiny_diffusion.parent / "diffusion"),
        None,
    )):  # fmt: skip
        model = SeedLM.from_pretrained(lm, dtype=torch.float32 if change else torch.bfloat16)
        assert model.seed.unchanged_source == str(tiny_tokenizer)
        if change is not None:
            change(model.seed)
        for save in (model.save_pretrained, model.save_plain):
            folder = tmp_path / f"{save.__name__}{number}"
            save(folder)
            assert (folder / "tokenizer").is_dir() == (change is not None)
            again = SeedLM.from_pretrained(folder).seed
            assert again.encoder_fingerprint == model.seed.encoder_fingerprint
            assert torch.equal(again.to(model.seed.dtype).decode_head[2].bias, model.seed.decode_head[2].bias)


@torch.no_grad()
def test_another_encoder_with_the_same_codebook_is_warned_of(lm, seed, tiny_tokenizer, tmp_path):
    SeedLM.from_pretrained(lm).save_plain(tmp_path / "plain")
    tuned = SeedTokenizer.from_pretrained(tiny_tokenizer)
    tuned.encode_head[0].weight.mul_(1.01)
    assert (tuned.codebook_id, tuned.encoder_fingerprint) != (seed.codebook_id, seed.encoder_fingerprint)
    for folder in (lm, tmp_path / "plain"):
        SeedLM.from_pretrained(folder, dtype=torch.bfloat16)  # the same one in any dtype
        with pytest.warns(SeedTokWarning, match="codes of another encoder than this image tokenizer's"):
            model = SeedLM.from_pretrained(folder, seed=tuned)
        model.save_pretrained(tmp_path / "again", standalone=True)
        assert SeedLM.from_pretrained(tmp_path / "again").seed.encoder_fingerprint == tuned.encoder_fingerprint
        shutil.rmtree(tmp_path / "again")
    SeedLM.from_pretrained(lm, seed=tuned, trainable=True)  # it is to learn the new codes
    config = json.loads((lm / "config.json").read_text())
    del config["encoder"]
    (lm / "config.json").write_text(json.dumps(config))
    SeedLM.from_pretrained(lm, seed=tuned)  # older files do not say whose codes they read


def test_a_copy_in_another_dtype_is_its_own_encoder(lm, tmp_path):
    SeedLM.from_pretrained(lm, dtype=torch.bfloat16).save_pretrained(tmp_path / "copy", standalone=True)
    SeedLM.from_pretrained(tmp_path / "copy")
    SeedLM.from_pretrained(tmp_path / "copy", dtype=torch.bfloat16)


# ------------------------------------------------------------ the fingerprint of a base


def test_a_base_of_more_than_two_to_the_24_embedding_values_is_built_saved_and_loaded(bases, seed, tmp_path):
    """Offsets up to there are exact in float32, and no further."""
    base = tmp_path / "base"
    LlamaForCausalLM(LlamaConfig(vocab_size=131_073, tie_word_embeddings=True, **WIDE)).save_pretrained(base)
    for file in bases["llama"].glob("*token*"):
        shutil.copy(file, base)
    model = SeedLM.build(base, seed)
    assert model.joint.lm.get_input_embeddings().weight.numel() > 2**24
    model.save_pretrained(tmp_path / "lm")
    assert SeedLM.from_pretrained(tmp_path / "lm", seed=seed).source == model.source


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_a_base_is_known_again_in_any_precision(bases, seed, tmp_path, stored):
    base = tmp_path / "base"
    shutil.copytree(bases["llama"], base)
    AutoModelForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    lm, _ = load_base(str(base), torch.float32)
    half, _ = load_base(str(base), torch.bfloat16)
    assert fingerprint(lm) == fingerprint(half)
    SeedLM.build(base, seed).save_pretrained(tmp_path / "lm")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        SeedLM.from_pretrained(tmp_path / "lm", seed=seed, dtype=dtype)


def test_another_base_is_refused_by_its_sizes_or_by_its_embeddings(bases, seed, lm, tmp_path):
    other = tmp_path / "other"
    for change in ({"num_hidden_layers": 1}, {}):
        shutil.copytree(bases["llama"], other, dirs_exist_ok=True)
        changed(other / "config.json", **change)
        if not change:
            tensors = load_file(other / "model.safetensors")
            tensors["model.embed_tokens.weight"] *= 1.01
            save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="made for another base"):
            SeedLM.from_pretrained(lm, base=other, seed=seed)


def test_a_checkpoint_with_a_sample_in_place_of_a_fingerprint_loads(bases, seed, lm):
    """As the shipped ones, which were written before there were fingerprints."""
    weight = AutoModelForCausalLM.from_pretrained(bases["llama"]).get_input_embeddings().weight.detach().flatten()
    offsets = torch.linspace(0, len(weight) - 1, 64).long()
    record = json.loads((lm / "config.json").read_text())
    del record["base_fingerprint"], record["adapter"]
    record["base_sample"] = [round(x, 7) for x in weight[offsets].tolist()]
    (lm / "config.json").write_text(json.dumps(record))
    SeedLM.from_pretrained(lm, seed=seed)
    with pytest.raises(CheckpointError, match="made for another base"):
        SeedLM.from_pretrained(lm, base=bases["opt"], seed=seed)


# ------------------------------------------------------------ code that comes with a base


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_the_code_of_a_base_is_not_run(bases, seed, tmp_path, monkeypatch, file):
    base, ran = tmp_path / "base", tmp_path / "ran"
    shutil.copytree(bases["llama"], base)
    (base / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    if file == "config.json":
        names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        changed(base / file, model_type="own", auto_map=names)
    else:
        changed(base / file, tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    try:
        SeedLM.build(base, seed)  # a tokenizer may do without its own code
    except CheckpointError as error:
        assert "needs Python code of its own (auto_map), which is not run" in str(error)  # noqa: PT017
    else:
        assert file == "tokenizer_config.json"
    assert not ran.exists()


# ------------------------------------------------------------ broken checkpoints


def refused(load, match: str) -> None:
    """Loading says so in one line, within a second or two, and takes no memory to speak of."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("file", ["visual.safetensors", "adapter/adapter_model.safetensors"])
def test_nan_and_infinity_in_a_language_model_are_named(lm, seed, file, bad):
    tensors = load_file(lm / file)
    name = max(tensors)
    tensors[name].view(-1)[-1] = bad
    save_file(tensors, lm / file)
    refused(lambda: SeedLM.from_pretrained(lm, seed=seed), f"tensor '{name}' holds NaN or infinity")


def test_nan_in_a_tokenizer_is_named(tiny_tokenizer, tmp_path):
    shutil.copytree(tiny_tokenizer, tmp_path / "t")
    tensors = load_file(tmp_path / "t" / "model.safetensors")
    tensors["codebook.weight"][5, 3] = float("nan")
    save_file(tensors, tmp_path / "t" / "model.safetensors")
    refused(lambda: SeedTokenizer.from_pretrained(tmp_path / "t"), r"tensor 'codebook\.weight' holds NaN")


def test_a_language_model_without_its_adapter_is_refused(lm, seed):
    shutil.rmtree(lm / "adapter")
    refused(lambda: SeedLM.from_pretrained(lm, seed=seed), "adapter_model.safetensors is missing")
    changed(lm / "config.json", adapter=None)
    record = json.loads((lm / "config.json").read_text())
    del record["adapter"]  # as in checkpoints that do not say whether they have one
    (lm / "config.json").write_text(json.dumps(record))
    refused(lambda: SeedLM.from_pretrained(lm, seed=seed), "adapter_model.safetensors is missing")


def test_an_adapter_that_lacks_a_tensor_is_refused(lm, seed):
    path = lm / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[min(tensors)]
    save_file(tensors, path)
    refused(lambda: SeedLM.from_pretrained(lm, seed=seed), "lacks tensor")


SIZES = (1e9, 10**9, 10**18, -1, 0, "2", None, [2])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("field", ["layers", "width", "heads", "queries"])
def test_absurd_sizes_of_a_tokenizer_are_refused_at_once(tiny_tokenizer, tmp_path, field, size):
    shutil.copytree(tiny_tokenizer, tmp_path / "t")
    record = json.loads((tmp_path / "t" / "config.json").read_text())
    record["embedder"]["qformer"][field] = size
    (tmp_path / "t" / "config.json").write_text(json.dumps(record))
    refused(lambda: SeedTokenizer.from_pretrained(tmp_path / "t"), r"t(/config\.json)?\b.*")


@pytest.mark.parametrize("size", SIZES)
def test_absurd_sizes_of_the_other_checkpoints_are_refused_at_once(lm, seed, bases, tiny_tokenizer, tmp_path, size):
    embedder = tmp_path / "embedder"
    SeedTokenizer.from_pretrained(tiny_tokenizer).embedder.save_pretrained(embedder)
    PrefixLM.on_qformer(bases["opt"], embedder).save_pretrained(tmp_path / "blip2")
    for path, load in ((embedder, ImageTextEmbedder.from_pretrained), (tmp_path / "blip2", PrefixLM.from_pretrained)):
        record = json.loads((path / "config.json").read_text())
        record.get("embedder", record)["vision"]["layers"] = size
        (path / "config.json").write_text(json.dumps(record))
        refused(lambda load=load, path=path: load(path), "layers|sizes|tensor")
    kept = json.loads((lm / "config.json").read_text())
    for field in ("text", "codes", "embedding"):
        changed(lm / "config.json", vocabulary=kept["vocabulary"] | {field: size})
        refused(lambda: SeedLM.from_pretrained(lm, seed=seed), "codebook|vocabulary|sizes")
    base = tmp_path / "base"
    shutil.copytree(bases["llama"], base)
    changed(base / "config.json", num_hidden_layers=size)
    refused(lambda: SeedLM.build(base, seed), "layers|cannot load")


def test_a_base_that_lacks_tensors_is_refused(bases, seed, tmp_path):
    shutil.copytree(bases["llama"], tmp_path / "base")
    changed(tmp_path / "base" / "config.json", num_hidden_layers=3)
    refused(lambda: SeedLM.build(tmp_path / "base", seed), "it lacks tensor model.layers.2")


def test_a_pickle_that_holds_more_than_tensors_is_not_loaded(bases, seed, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    shutil.copytree(bases["llama"], tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save({"a": Hostile()}, tmp_path / "base" / "pytorch_model.bin")
    refused(lambda: SeedLM.build(tmp_path / "base", seed), "its pickled weights hold more than tensors")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("inside", [True, False])
def test_only_links_within_a_copied_folder_are_followed(bases, seed, tmp_path, inside):
    shutil.copytree(bases["llama"], base := tmp_path / "base")
    (tmp_path / "secret").write_text("secret")
    (base / "notes.txt").symlink_to("config.json" if inside else tmp_path / "secret")
    lm = SeedLM.build(base, seed)
    if inside:
        lm.save_pretrained(tmp_path / "lm", standalone=True)
        assert (tmp_path / "lm" / "base" / "notes.txt").read_text() == (base / "config.json").read_text()
    else:
        refused(lambda: lm.save_pretrained(tmp_path / "lm", standalone=True), "notes.txt is a link out of its folder")
