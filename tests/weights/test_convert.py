"""Files that others wrote become folders of ours, whole, or are refused in a line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    OPTConfig,
    OPTForCausalLM,
)
from typer.testing import CliRunner

from seedtok.baselines.prefix_lm import PROJECTION_FILE, PrefixLM
from seedtok.cli.app import app
from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.mini.text import bert_tokenizer, lm_tokenizer
from seedtok.stages.contrastive import ContrastiveSettings
from seedtok.stages.reading import ReadingSettings
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.image_decoder import MIRRORS, ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.weights.convert import convert, export
from seedtok.weights.official import UNCLIP, Heads, to_official
from seedtok.weights.sources import read_pickle

HEADS = Heads(vision=2, qformer=2, decoder=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """A tokenizer of small size in the three files of the published one."""
    folder = tmp_path_factory.mktemp("published")
    config = SeedConfig.from_dict({
        "embedder": {
            "vision": {"image_size": 28, "width": 16, "layers": 2, "heads": 2, "mlp_width": 32},
            "qformer": {"width": 24, "layers": 2, "heads": 2, "mlp_width": 48, "encoder_width": 16, "vocab_size": None},
            "projection": None, "max_text_tokens": 32,
        },
        "code_decoder": None, "text_decoder": {"width": 24, "layers": 2, "heads": 2},
        "reverse_qformer": {"width": 24, "layers": 2, "heads": 2, "mlp_width": 48, "encoder_width": 24},
    })  # fmt: skip
    torch.manual_seed(0)
    tensors = to_official(config, SeedTokenizer(config).state_dict())
    vit = {k.removeprefix("visual_encoder."): v for k, v in tensors.items() if k.startswith("visual_encoder.")}
    vit |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    former = {k: v for k, v in tensors.items() if k.startswith(("Qformer.", "query_tokens", "ln_vision"))}
    rest = {k: v for k, v in tensors.items() if not k.startswith(("visual_encoder.", "Qformer."))}
    paths = [folder / name for name in ("seed_tokenizer.pth", "causal_qformer.pth", "eva_vit_g.pth")]
    torch.save({"model": rest}, paths[0])
    torch.save({"model": former}, paths[1])
    torch.save(vit, paths[2], _use_new_zipfile_serialization=False)
    return paths


def test_published_files_become_a_tokenizer_and_go_back(files, tmp_path):
    report = convert(files, tmp_path / "seed", HEADS, "somewhere/else")
    assert "as in the paper" in report.kind
    assert set(report.left_out) == {
        "Qformer.bert.embeddings.position_ids", "Reverse_Qformer.bert.embeddings.position_ids",
        "visual_encoder.norm.weight", "visual_encoder.norm.bias",
    }  # fmt: skip
    model = SeedTokenizer.from_pretrained(tmp_path / "seed")
    assert model.config.image_decoder == "somewhere/else"
    codes = model.encode(torch.rand(2, 3, 28, 28))
    assert codes.shape == (2, 32)
    with pytest.raises(CheckpointError, match="projections"):
        model.embed_images(torch.rand(1, 3, 28, 28))
    with pytest.raises(CheckpointError, match="code decoder"):
        model.embed_images(torch.rand(1, 3, 28, 28), from_codes=True)
    with pytest.raises(CheckpointError, match="text branch"):
        model.embed_texts("a fox")
    count, left_out = export(model, tmp_path / "back" / "seed.pth")
    assert left_out == []
    assert count == len(read_pickle(tmp_path / "back" / "seed.pth"))
    convert([tmp_path / "back" / "seed.pth"], tmp_path / "again", HEADS)
    again = SeedTokenizer.from_pretrained(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_blip2() -> Blip2Config:
    return Blip2Config(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "image_size": 28, "patch_size": 14, **SIZES},
        qformer_config={
            "hidden_size": 24, "intermediate_size": 48, "encoder_hidden_size": 32, "vocab_size": 50,
            "max_position_embeddings": 20, "use_qformer_text_input": True, **SIZES,
        },
        text_config=OPTConfig(
            hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, vocab_size=50, **SIZES
        ).to_dict(),
        num_query_tokens=8, image_text_hidden_size=12,
    )  # fmt: skip


@pytest.fixture
def blip2_config() -> Blip2Config:
    return tiny_blip2()


@torch.no_grad()
def test_blip2_for_retrieval_embeds_as_it_did(blip2_config, tmp_path):
    torch.manual_seed(0)
    theirs = Blip2ForImageTextRetrieval(blip2_config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "blip2")
    report = convert([tmp_path / "blip2"], tmp_path / "ours")
    assert set(report.left_out) == {"itm_head.weight", "itm_head.bias"}
    ours = ImageTextEmbedder.from_pretrained(tmp_path / "ours")
    pixels, ids = torch.randn(3, 3, 28, 28), torch.randint(0, 50, (2, 6))
    features = theirs.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours.patch_features(pixels), features, rtol=1e-4, atol=1e-4)
    queries = theirs.qformer(query_embeds=theirs.query_tokens.expand(3, -1, -1), encoder_hidden_states=features)[0]
    embedded = torch.nn.functional.normalize(theirs.vision_projection(queries), dim=-1)
    torch.testing.assert_close(ours.project_queries(ours.qformer(features)), embedded, rtol=1e-4, atol=1e-4)
    said = theirs.qformer(query_embeds=theirs.embeddings(input_ids=ids), query_length=0)[0]
    torch.testing.assert_close(ours.qformer.encode_text(ids, torch.ones_like(ids)), said, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_blip2_for_a_language_model_keeps_its_way_to_the_language_model(blip2_config, tmp_path, cli):
    blip2_config.qformer_config.use_qformer_text_input = False
    torch.manual_seed(1)
    theirs = Blip2ForConditionalGeneration(blip2_config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "blip2", max_shard_size="20KB")
    code, out, _ = cli("convert", tmp_path / "blip2", "--out", tmp_path / "ours")
    assert code == 0
    words = " ".join(out.split())
    assert "the language model, which is a checkpoint of its own" in words
    assert f"written to {PROJECTION_FILE}: language_projection" in words
    assert "no text branch" in words
    ours = ImageTextEmbedder.from_pretrained(tmp_path / "ours")
    assert ours.config.qformer.vocab_size is None
    assert ours.config.projection is None
    pixels = torch.randn(1, 3, 28, 28)
    queries = ours.qformer(ours.patch_features(pixels))
    assert queries.shape == (1, 8, 24)

    for name, width in (("lm", 16), ("other", 24)):
        sizes = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 16, "vocab_size": 2000, **SIZES}
        OPTForCausalLM(OPTConfig(**sizes)).save_pretrained(tmp_path / name)
        lm_tokenizer(64).save_pretrained(str(tmp_path / name))
    baseline = PrefixLM.on_qformer(tmp_path / "lm", tmp_path / "ours")
    torch.testing.assert_close(baseline.prefix(pixels), theirs.language_projection(queries))
    with pytest.raises(CheckpointError, match=r"language model .*other.*\(24, 24\)"):
        PrefixLM.on_qformer(tmp_path / "other", tmp_path / "ours")
    model = ReadingSettings(base=tmp_path / "lm", qformer=tmp_path / "ours").build().model
    assert model.language_projection.weight.requires_grad


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory) -> Path:
    """A folder of BLIP-2 for retrieval without its text tokenizer; its text branch knows 500 words."""
    config = tiny_blip2()
    config.qformer_config.vocab_size = 500
    folder = tmp_path_factory.mktemp("blip2") / "itm"
    Blip2ForImageTextRetrieval(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt", "--text-tokenizer"])
def test_the_text_tokenizer_is_taken_in_whatever_form_it_is(retrieval, tmp_path, cli, form):
    words, folder, given = bert_tokenizer(), tmp_path / "blip2", []
    shutil.copytree(retrieval, folder)
    if form == "tokenizer.json":
        words.save_pretrained(str(folder))
    elif form == "vocab.txt":
        tokens = sorted(words.get_vocab(), key=words.get_vocab().__getitem__)
        (folder / "vocab.txt").write_text("\n".join(tokens), "utf-8")
    else:
        words.save_pretrained(str(tmp_path / "words"))
        given = ["--text-tokenizer", tmp_path / "words"]
    code, out, err = cli("convert", folder, "--out", tmp_path / "ours", *given)
    assert code == 0, err
    assert f"text tokenizer: {len(words)} words" in " ".join(out.split())
    ours = ImageTextEmbedder.from_pretrained(tmp_path / "ours")
    assert ours.text_tokenizer is not None
    assert ours.text_tokenizer("a fox on a cake").input_ids == words("a fox on a cake").input_ids
    assert ours.embed_texts(["a fox"]).shape == (1, 12)


def test_a_text_tokenizer_that_is_not_there_is_said(retrieval, tmp_path, cli):
    code, out, _ = cli("convert", retrieval, "--out", tmp_path / "ours")
    assert code == 0
    assert "--text-tokenizer FOLDER_OR_ID" in " ".join(out.split())
    with pytest.raises(ConfigError, match="--text-tokenizer"):
        ContrastiveSettings(start=tmp_path / "ours").build()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nowhere", "empty", "another model's", "too many words"])
def test_a_text_tokenizer_that_does_not_fit_is_refused_in_a_line(retrieval, tmp_path, cli, kind):
    words = tmp_path / "words"
    if kind == "empty":
        words.mkdir()
    elif kind == "another model's":
        lm_tokenizer(64).save_pretrained(str(words))
    elif kind == "too many words":
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(600))]
        BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}).save_pretrained(str(words))
    code, _, err = cli("convert", retrieval, "--out", tmp_path / "ours", "--text-tokenizer", words)
    assert code == 2
    assert err.count("\n") == 1
    assert str(words) in err
    assert not (tmp_path / "ours").exists()


def test_a_token_that_was_added_behind_the_table_changes_nothing(retrieval, tmp_path):
    """As in newer revisions of BLIP-2 for retrieval, whose "<image>" is for other models."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(495))]
    words = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    words.add_tokens(["<image>"])
    words.save_pretrained(str(tmp_path / "words"))
    report = convert([retrieval], tmp_path / "ours", text_tokenizer=str(tmp_path / "words"))
    assert any("text tokenizer: 501 words" in note for note in report.notes)


def test_what_the_published_layout_has_no_place_for_is_said(tiny_tokenizer, tmp_path, cli):
    code, out, _ = cli("convert", tiny_tokenizer, "--out", tmp_path / "seed.pth")
    assert code == 0
    words = " ".join(out.split())
    for part in ("code_decoder", "embedder.text_projection", "embedder.temperature"):
        assert f": {part}" in words
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    _, left_out = export(model, tmp_path / "again.pth")
    assert sum(int(count) for count in re.findall(r"left out, (\d+):", words)) == len(left_out)
    assert set(left_out) < set(model.state_dict())


def test_an_image_decoder_that_moved_is_looked_for_where_it_went(tmp_path, monkeypatch, tiny_diffusion):
    old = "stabilityai/stable-diffusion-2-1-unclip"
    assert UNCLIP["image_decoder"] == MIRRORS[old] == "sd2-community/stable-diffusion-2-1-unclip"
    gone, here = str(tmp_path / "gone"), str(tiny_diffusion)
    monkeypatch.setitem(MIRRORS, gone, here)
    assert ImageDecoder.from_pretrained(gone).pipeline is not None
    monkeypatch.setitem(MIRRORS, gone, str(tmp_path / "gone too"))
    with pytest.raises(CheckpointError, match=r"gone .*nor from its mirror: .*gone too .*--image-decoder"):
        ImageDecoder.from_pretrained(gone)


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


def damaged(kind: str, files: list[Path], folder: Path) -> list[Path]:
    path = folder / "bad.pth"
    whole = torch.load(files[0], weights_only=True)
    if kind == "missing":
        return [*files, folder / "nowhere.pth"]
    if kind == "truncated":
        path.write_bytes(files[0].read_bytes()[:-2000])
    elif kind == "truncated old":
        path.write_bytes(files[2].read_bytes()[:-2000])
        return [files[0], files[1], path]
    elif kind == "trap":
        torch.save({"model": Trap()}, path)
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "lacks one":
        whole["model"].pop("encode_task_layer.2.bias")
        torch.save(whole, path)
    elif kind == "misshapen":
        whole["model"]["decode_task_layer.2.bias"] = torch.zeros(3)
        torch.save(whole, path)
    elif kind == "unknown":
        whole["model"]["surprise"] = torch.zeros(3)
        torch.save(whole, path)
    elif kind == "differs":
        torch.save({"cls_token": torch.zeros(1, 1, 16), "patch_embed.proj.weight": torch.zeros(16, 3, 14, 14)}, path)
        return [*files, path]
    return [path, *files[1:]]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file"),
        ("truncated", "truncated or not a checkpoint"),
        ("truncated old", "truncated or not a checkpoint"),
        ("trap", "would have to run code"),
        ("text", "truncated or not a checkpoint"),
        ("list", "no named tensors"),
        ("lacks one", "encode_task_layer.2.bias"),
        ("misshapen", "decode_head.2.bias"),
        ("unknown", "surprise"),
        ("differs", "differ in tensor 'visual_encoder."),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(files, tmp_path, capfd, kind, words):
    sources = damaged(kind, files, tmp_path)
    arguments = ["convert", *map(str, sources), "--out", str(tmp_path / "out"), "--heads", "2,2,2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.replace("\n", " ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert "code was run" not in capfd.readouterr().out


def test_the_file_with_the_codebook_counts_over_the_others(files, tmp_path):
    whole = torch.load(files[0], weights_only=True)
    whole["model"]["query_tokens"] = whole["model"]["query_tokens"] + 1
    half = {name: tensor.half() for name, tensor in torch.load(files[2], weights_only=True).items()}
    torch.save(whole, tmp_path / "own.pth")
    torch.save(half, tmp_path / "half.pth")
    convert([tmp_path / "own.pth", *files[1:], tmp_path / "half.pth"], tmp_path / "seed", HEADS)
    model = SeedTokenizer.from_pretrained(tmp_path / "seed")
    assert torch.equal(model.embedder.qformer.query_tokens, whole["model"]["query_tokens"])


def test_folders_of_other_models_are_told_apart(tmp_path):
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "config.json").write_text(json.dumps({"model_type": "opt"}))
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="'opt'"):
        convert([tmp_path / "opt"], tmp_path / "out")
    with pytest.raises(CheckpointError, match="image-decoder"):
        convert([tmp_path / "sd"], tmp_path / "out")
