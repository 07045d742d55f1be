"""JSON that others wrote, and files made to hang a reader or to fill memory.

layout.json and config.json are fuzzed: a valid object or a clear error. What could hang or
fill memory is read in a process that is watched.
"""

from __future__ import annotations

import json
import ntpath
import os
import posixpath
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from flash_moe.files.json_file import MAX_JSON_BYTES
from flash_moe.files.names import file_name
from flash_moe.pack.sources.original_flash_moe import read_layout_json
from flash_moe.store.layout import MAX_RECORD_BYTES, PROJECTIONS, RecordLayout, layout_of
from flash_moe.store.manifest import MANIFEST_FILE, Manifest
from flash_moe.store.manifest_entries import LayerEntry, Source
from flash_moe.store.safetensors_header import read_index
from tests.support.fuzzing import (
    BAD_NAMES,
    FUZZ,
    damaged_bytes,
    damaged_json,
    encoded,
    must_refuse,
    parsed,
)
from tests.support.processes import environment
from tests.support.timeout import TIMEOUT_S

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
    must_refuse(lambda: read_config(tmp_path), ModelNotFoundError, match="no valid model_type")


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


# For each line KIND=PATH: reads the file, and writes what came of it and the memory it took.
READER = """
import json, sys, tracemalloc
from pathlib import Path
from flash_moe.config import model_config, read_config
from flash_moe.errors import FlashMoEError
from flash_moe.pack.sources.original_flash_moe import read_layout_json
from flash_moe.store.manifest import read_manifest
from flash_moe.store.safetensors_header import read_header, read_index

readers = {"header": read_header, "index": read_index, "layout": read_layout_json}
readers["manifest"] = lambda file: read_manifest(file.parent)
readers["config"] = lambda file: model_config(read_config(file.parent))
for line in sys.stdin:
    kind, _, path = line.rstrip("\\n").partition("=")
    tracemalloc.start()
    try:
        readers[kind](Path(path))
        result = "read"
    except FlashMoEError as error:
        result = f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(json.dumps([result, peak]), flush=True)
"""
KINDS = {
    "header": "model.safetensors",
    "index": "model.safetensors.index.json",
    "layout": "layout.json",
    "manifest": MANIFEST_FILE,
    "config": "config.json",
}
MEGABYTE = 10**6
RECORD = layout_of({f"{p}.weight": ("F32", (8, 8)) for p in PROJECTIONS})
# From the kind of reader and a file: what came of it, and the most bytes Python held.
Watched = Callable[[str, Path], tuple[str, int]]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Reads a file in another process, which must answer."""
    command = [sys.executable, "-c", READER]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        into, out = process.stdin, process.stdout
        assert into is not None
        assert out is not None

        def read(kind: str, file: Path) -> tuple[str, int]:
            into.write(f"{kind}={file}\n")
            into.flush()
            assert select.select([out], [], [], TIMEOUT_S)[0], "it hangs"
            result, peak = json.loads(out.readline())
            return result, peak

        yield read
        process.kill()


def names(root: Path) -> dict[str, Path]:
    """Kind of reader to a file for it, each in a directory of its own."""
    for kind in KINDS:
        (root / kind).mkdir(parents=True)
    return {kind: root / kind / name for kind, name in KINDS.items()}


def sparse(file: Path, start: bytes, size: int) -> None:
    """A file with a start and zeros that take no space on the disk."""
    with open(file, "wb") as stream:
        stream.write(start)
        stream.truncate(size)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link to a device": lambda file: file.symlink_to("/dev/zero"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "link to nothing": lambda file: file.symlink_to("absent"),
    "directory": Path.mkdir,
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_file_is_not_opened(
    watched: Watched, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    for kind, file in names(tmp_path).items():
        make(file)
        result, _ = watched(kind, file)
        assert result != "read", kind
        assert file.name in result


@pytest.mark.parametrize("place", ["record", "resident"])
@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_a_manifest_names_is_a_file(
    watched: Watched, tmp_path: Path, place: str, make: Callable[[Path], None]
) -> None:
    file = tmp_path / MANIFEST_FILE
    entry = LayerEntry(0, "l.0", "record.bin", 1, 0, ("0" * 32,))
    sparse(tmp_path / "record.bin", b"", RECORD.record_bytes)
    table = Manifest("", Source("mlx", "x"), (RECORD,), (entry,), ()).to_json()
    table["resident"] = [{"file": "resident.bin", "size": 0, "checksum": "0" * 32}]
    (tmp_path / "resident.bin").touch()
    file.write_text(json.dumps(table))
    (tmp_path / f"{place}.bin").unlink()
    make(tmp_path / f"{place}.bin")
    result, _ = watched("manifest", file)
    assert result.startswith("ManifestError: ")
    assert f"{place}.bin" in result


def test_files_that_are_too_large_are_not_read(watched: Watched, tmp_path: Path) -> None:
    for kind, file in names(tmp_path).items():
        start = struct.pack("<Q", 99_999_999) if kind == "header" else b""
        sparse(file, start, max(MAX_JSON_BYTES + 1, 100_000_100))
        result, peak = watched(kind, file)
        assert result != "read", kind
        assert peak < MEGABYTE, (kind, peak)


def test_a_length_that_lies_takes_no_memory(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    for length in (3, 99_999_999, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1):
        file.write_bytes(struct.pack("<Q", length) + b"{}")
        result, peak = watched("header", file)
        assert result.startswith("CorruptFileError: ")
        assert peak < MEGABYTE


def test_axes_without_end(watched: Watched, tmp_path: Path) -> None:
    """Their product takes minutes, and its digits cannot be printed."""
    files = names(tmp_path)
    axes = [2**62] * 1_000_000
    header = json.dumps({"t": {"dtype": "U8", "shape": axes, "data_offsets": [0, 1]}}).encode()
    files["header"].write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    component = {"name": "up_proj.weight", "dtype": "U8", "shape": axes, "offset": 0, "size": 1}
    files["layout"].write_text(json.dumps({"expert_size": 4, "components": [component]}))
    for kind in ("header", "layout"):
        assert "Error: " in watched(kind, files[kind])[0]


def manifest_text(checksums: str, n_experts: int) -> str:
    entry = LayerEntry(0, "l.0", "a.bin", 1, 0, ("0" * 32,))
    table = Manifest("", Source("mlx", "x"), (RECORD,), (entry,), ()).to_json()
    table["layers"][0].update(n_experts=n_experts, checksums="HERE")
    return json.dumps(table).replace('"HERE"', checksums)


def test_memory_is_bounded_by_the_size_of_the_file(watched: Watched, tmp_path: Path) -> None:
    """Short lists are what takes most memory for its bytes."""
    lists = "[" + "[]," * 300_000 + "[]]"
    checksums = "[" + ",".join([f'"{"0" * 32}"'] * 50_000) + "]"
    texts = {
        "manifest": [manifest_text(lists, 10**12), manifest_text(checksums, 10**12)],
        "index": [f'{{"weight_map": {{"a": {lists}}}}}', f'{{"weight_map": {lists}}}'],
        "layout": [f'{{"components": {lists}}}'],
        "config": [f'{{"model_type": "m", "num_experts": {lists}}}'],
    }
    files = []
    for kind, several in texts.items():
        for number, content in enumerate(several):
            folder = tmp_path / f"{kind}{number}"
            folder.mkdir()
            name = {"manifest": MANIFEST_FILE, "config": "config.json"}.get(kind, "x.json")
            (folder / name).write_text(content)
            files.append((kind, folder / name))
    for number, content in enumerate([f'{{"a": {lists}}}', f'{{"__metadata__": {lists}}}']):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(struct.pack("<Q", len(content)) + content.encode())
        files.append(("header", file))
    for kind, file in files:
        result, peak = watched(kind, file)
        assert result != "read", kind
        assert peak < 30 * file.stat().st_size + MEGABYTE, (kind, peak)


def test_many_tensors_are_read(watched: Watched, tmp_path: Path) -> None:
    n = 10_000
    shards = {f"layers.{i}.weight": f"model-{i % 100:05d}.safetensors" for i in range(n)}
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": shards}))
    rows = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(n)}
    header = json.dumps(rows).encode()
    sparse(tmp_path / "m.safetensors", struct.pack("<Q", len(header)) + header, 8 + len(header) + n)
    for kind, name in (("index", "index.json"), ("header", "m.safetensors")):
        result, peak = watched(kind, tmp_path / name)
        assert result == "read"
        assert peak < 30 * (tmp_path / name).stat().st_size
