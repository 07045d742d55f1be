"""Index, layout.json and config.json, fuzzed: a valid object or a clear error; and file names."""

from __future__ import annotations

import json
import ntpath
import os
import posixpath
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.config import ModelConfig, model_config, read_config
from flash_moe.errors import (
    CorruptFileError,
    ModelNotFoundError,
    NotMoEError,
    UnsupportedModelError,
)
from flash_moe.files.names import file_name
from flash_moe.pack.sources.original_flash_moe import read_layout_json
from flash_moe.store.layout import MAX_RECORD_BYTES, PROJECTIONS, RecordLayout, layout_of
from flash_moe.store.safetensors_header import read_index
from tests.support.fuzzing import (
    BAD_NAMES,
    FUZZ,
    FUZZ_VALID,
    damaged_bytes,
    damaged_json,
    encoded,
    must_refuse,
    parsed,
)

INDEX = {
    "metadata": {"total_size": 12},
    "weight_map": {"a.weight": "model-1.safetensors", "b": "model-2.safetensors"},
}
LAYOUT = layout_of({f"{p}.weight": ("BF16", (8, 8)) for p in PROJECTIONS})
LAYOUT_JSON = {
    "expert_size": LAYOUT.record_bytes,
    "num_layers": 3,
    "num_experts": 4,
    "components": LAYOUT.to_json()["components"],
}
FLAT = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "vocab_size": 99}
NESTED = {
    "model_type": "qwen3_5_moe",
    "text_config": {**FLAT, "max_position_embeddings": 4096},
    "vocab_size": 3,
}
CONFIG_ERRORS = (ModelNotFoundError, NotMoEError, UnsupportedModelError)


@FUZZ
@given(content=damaged_bytes(encoded(INDEX)) | damaged_json(INDEX).map(encoded))
def test_index(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(content)
    shards = parsed(lambda: read_index(file), CorruptFileError)
    for tensor, shard in (shards or {}).items():
        assert tensor.isprintable()
        assert os.path.normpath(tmp_path / shard) == str(tmp_path / shard)
        assert (tmp_path / shard).parent == tmp_path


@FUZZ_VALID
@given(
    shards=st.dictionaries(
        st.text(st.characters(exclude_categories=["C", "Z"]), max_size=9),
        st.from_regex(r"[a-z0-9_-][a-z0-9_.-]{0,30}", fullmatch=True),
    ),
    metadata=st.none() | st.dictionaries(st.text(max_size=4), st.integers(0, 2**50)),
)
def test_every_index_by_the_format_is_read(
    tmp_path: Path, shards: dict[str, str], metadata: dict[str, int] | None
) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(encoded({"metadata": metadata, "weight_map": shards}))
    assert read_index(file) == shards


@pytest.mark.parametrize("name", [*BAD_NAMES, "a/b", 3, None, ["a"]], ids=lambda n: ascii(n)[:30])
def test_shards_beside_the_index_only(tmp_path: Path, name: Any) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(encoded({"weight_map": {"a": "model.safetensors", "b": name}}))
    must_refuse(
        lambda: read_index(file), CorruptFileError, match=r"index\.json: not a weight index"
    )


@pytest.mark.parametrize("tensor", ["a\n", "\x1b[2J", "\ud800", "a\0"])
def test_names_of_tensors_are_lines(tmp_path: Path, tensor: str) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(encoded({"weight_map": {tensor: "model.safetensors"}}))
    must_refuse(lambda: read_index(file), CorruptFileError, match="no name of a tensor")


@FUZZ
@given(content=damaged_bytes(encoded(LAYOUT_JSON)) | damaged_json(LAYOUT_JSON).map(encoded))
def test_layout(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "layout.json"
    file.write_bytes(content)
    found = parsed(lambda: read_layout_json(file), CorruptFileError, UnsupportedModelError)
    if found is None:
        return
    layout, n_layers, n_experts = found
    assert type(n_layers) is type(n_experts) is int
    assert min(n_layers, n_experts) > 0
    assert type(layout.record_bytes) is int
    assert layout.payload_bytes <= layout.record_bytes <= MAX_RECORD_BYTES
    assert RecordLayout.from_json(json.loads(encoded(layout.to_json()))) == layout


def test_the_sound_layout_is_read(tmp_path: Path) -> None:
    file = tmp_path / "layout.json"
    file.write_bytes(encoded(LAYOUT_JSON))
    assert read_layout_json(file) == (LAYOUT, 3, 4)


@pytest.mark.parametrize("key", ["num_layers", "num_experts", "expert_size"])
@pytest.mark.parametrize("value", [0, -1, True, 3.0, "3", None, 10**30, float("nan")])
def test_numbers_of_the_layout(tmp_path: Path, key: str, value: Any) -> None:
    file = tmp_path / "layout.json"
    file.write_bytes(encoded({**LAYOUT_JSON, key: value}))
    must_refuse(lambda: read_layout_json(file), CorruptFileError, UnsupportedModelError)


def assert_sound_config(config: ModelConfig) -> None:
    assert 1 <= config.top_k <= config.n_experts < 2**31
    for number in (config.top_k, config.n_experts, config.max_context, config.vocab_size):
        assert number is None or (type(number) is int and number > 0)
    assert config.text[config.top_k_key] == config.top_k
    assert config.model_type.isascii()
    assert "/" not in config.model_type


@FUZZ
@given(
    content=st.sampled_from([FLAT, NESTED]).flatmap(
        lambda sound: damaged_bytes(encoded(sound)) | damaged_json(sound).map(encoded)
    )
)
def test_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    config = parsed(lambda: model_config(read_config(tmp_path)), *CONFIG_ERRORS)
    if config is not None:
        assert_sound_config(config)
        assert config.raw == read_config(tmp_path) or b"NaN" in content


def test_sound_configs_are_read(tmp_path: Path) -> None:
    for sound, vocabulary, context in ((FLAT, 99, None), (NESTED, 99, 4096)):
        (tmp_path / "config.json").write_bytes(encoded(sound))
        config = model_config(read_config(tmp_path))
        assert_sound_config(config)
        assert (config.n_experts, config.top_k) == (8, 2)
        assert (config.vocab_size, config.max_context) == (vocabulary, context)


@pytest.mark.parametrize("in_text", [False, True])
@pytest.mark.parametrize("key", ["num_experts", "num_experts_per_tok"])
@pytest.mark.parametrize("value", [True, 2.0, "2", -1, 2**31, 10**4000, float("nan"), 1e308])
def test_numbers_of_the_config(tmp_path: Path, key: str, value: Any, in_text: bool) -> None:
    """Such a model has experts, so nobody is told to run it elsewhere."""
    table = {**FLAT, key: value}
    nested = {"model_type": "qwen3_5_moe", "text_config": table}
    (tmp_path / "config.json").write_bytes(encoded(nested if in_text else table))
    must_refuse(
        lambda: model_config(read_config(tmp_path)),
        UnsupportedModelError,
        match=rf"{key}: expected",
    )


def test_more_experts_a_token_than_there_are() -> None:
    must_refuse(
        lambda: model_config({**FLAT, "num_experts_per_tok": 9}),
        UnsupportedModelError,
        match="num_experts_per_tok: expected 1 to 8, got 9",
    )


@pytest.mark.parametrize("name", ["", "..", "../x", "a b", "os\n", "\ud800", "x" * 101, 3, None])
def test_model_types(tmp_path: Path, name: Any) -> None:
    (tmp_path / "config.json").write_bytes(encoded({**FLAT, "model_type": name}))
    must_refuse(lambda: read_config(tmp_path), ModelNotFoundError, match="names no model_type")


NOT_JSON = {
    "empty": b"",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": json.dumps(FLAT).encode("utf-16"),
    "not UTF-8": b'{"model_type": "\xff"}',
    "deep lists": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 1_000_000,
    "a list": b"[]",
    "text": b'"a"',
    "nothing": b"null",
    "a million digits": b'{"a": ' + b"7" * 1_000_000 + b"}",
}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    for name in ("config.json", "index.json", "layout.json"):
        (tmp_path / name).write_bytes(content)
    must_refuse(lambda: read_config(tmp_path), ModelNotFoundError, match=r"config\.json")
    must_refuse(lambda: read_index(tmp_path / "index.json"), CorruptFileError, match=r"index\.json")
    must_refuse(
        lambda: read_layout_json(tmp_path / "layout.json"), CorruptFileError, match=r"layout\.json"
    )


NAMES = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "C:", "\\", "~", "x.bin", "\0", " ", "con"]),
        max_size=5,
    ).map("/".join),
    st.sampled_from(BAD_NAMES),
)


@FUZZ
@given(name=NAMES)
def test_a_name_that_is_taken_stays_inside_on_every_system(name: str) -> None:
    try:
        assert file_name(name) == name
    except ValueError:
        return
    assert posixpath.normpath(posixpath.join("/root", name)) == f"/root/{name}"
    windows = PureWindowsPath("C:\\root") / name
    assert ntpath.normpath(str(windows)).startswith("C:\\root\\")
    assert ".." not in windows.parts
    os.fsencode(name)
