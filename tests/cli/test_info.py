"""What `seedtok info` says of codes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seedtok.data.codes import tokenize_shards
from seedtok.data.origins import Maker
from seedtok.mini.world.shards import write_scene_shards


def encode(images) -> np.ndarray:
    return np.zeros((len(images), 32), np.int64)


def test_codes_say_how_many_they_are_and_what_made_them(cli, tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 5, size=64, shard_size=3)
    codes = tmp_path / "codes"
    tokenize_shards(tmp_path / "shards", codes, encode, Maker("book", "first", "float32"))
    (codes / "00001.skipped.jsonl").write_text("{}\n{}\n")
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
