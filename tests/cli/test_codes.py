"""Codes of pictures alone, and what `seedtok info` and `decode` make of them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seedtok.data.codes import tokenize_shards
from seedtok.data.origins import Maker
from seedtok.mini.world.shards import write_scene_shards


def encode(images) -> np.ndarray:
    return np.zeros((len(images), 32), np.int64)


def test_codes_say_how_many_they_are_and_what_made_them(cli, tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 5, size=64, shard_size=3)
    codes = tmp_path / "codes"
    tokenize_shards(tmp_path / "shards", codes, encode, Maker("book", "first", "float32"))
    (codes / "00001.skipped.jsonl").write_text('{"key": "a", "reason": "broken"}\n{"key": "b", "reason": "broken"}\n')
    expected = {"images": 5, "files": 2, "skipped": 2, "codebook": ["book"], "encoder": ["first"], "dtype": ["float32"]}
    code, out, error = cli("info", codes, "--json")
    assert (code, error) == (0, "")
    assert json.loads(out) == {"codes": str(codes), **expected}
    table = pq.read_table(codes / "00000.parquet")
    metadata = {**table.schema.metadata, b"seedtok.encoder": b"second"}
    pq.write_table(table.replace_schema_metadata(metadata), codes / "00000.parquet")
    code, out, _ = cli("info", codes)
    assert "encoder: first, second" in out
    assert cli("info", codes / "00001.parquet")[1].startswith("images: 2\nfiles: 1\nskipped: 2\n")


def test_what_is_no_code_is_said(cli, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    code, _, error = cli("info", tmp_path)
    assert code == 2
    assert "a.parquet" in error


def test_pictures_alone_are_packed_encoded_and_drawn_by_commands(cli, tmp_path, tiny_tokenizer):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 30), (80 * number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    pack = ("data", "pack", tmp_path / "pictures", "--out", tmp_path / "shards")
    code, _, error = cli(*pack)
    assert code == 2
    assert "no 0.txt beside it; --no-captions packs those without a caption" in error
    assert cli(*pack, "--no-captions")[:2] == (0, f"3 written to 1 shards in {tmp_path / 'shards'}; 0 skipped\n")
    codes = tmp_path / "codes"
    assert cli("tokenize", tmp_path / "shards", "--out", codes, "--model", tiny_tokenizer, "--no-captions")[0] == 0
    decode = ("decode", codes, "--model", tiny_tokenizer, "--steps", 1)
    assert cli(*decode, "--count", 2, "--out", tmp_path / "two")[0] == 0
    assert len(list((tmp_path / "two").glob("*.png"))) == 2
    assert cli(*decode, "--out", tmp_path / "all")[0] == 0
    assert len(list((tmp_path / "all").glob("*.png"))) == 3
    code, _, error = cli(*decode[:1], tmp_path / "shards", *decode[2:], "--out", tmp_path / "none")
    assert (code, "expected .parquet files" in error) == (2, True)
    (table,) = codes.glob("*.parquet")
    pq.write_table(pq.read_table(table).drop_columns(["codes"]), table)
    code, _, error = cli(*decode, "--out", tmp_path / "none")
    assert (code, "no codes as `seedtok tokenize` writes them" in error) == (2, True)
