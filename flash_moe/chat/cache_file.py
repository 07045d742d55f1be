"""The prompt cache of a session on disk, in mlx-lm's own format.

``cache.json`` has the token ids of the arrays, a checksum and the fingerprint. The arrays are
written to a new file first, then ``cache.json`` names it, then the old file is deleted: a process
killed at any moment leaves a complete cache or none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import xxhash
from mlx.utils import tree_flatten

from flash_moe.chat.messages import read_json
from flash_moe.compat.mlx_lm import cached_positions, load_prompt_cache, save_prompt_cache
from flash_moe.errors import FlashMoEError
from flash_moe.files.atomic import sync_and_rename, write_json
from flash_moe.generation.prompt import common_length, encode_prompt
from flash_moe.generation.turn_cache import CachedPrompt, TurnCache
from flash_moe.store.manifest import MANIFEST_FILE

INDEX = "cache.json"
_PIECE = 1 << 22  # bytes hashed at once


class CacheMismatchError(FlashMoEError):
    """Saved cache that cannot be used; ``problem`` has the reason."""


@dataclass(frozen=True)
class Place:
    """One of the caches of a conversation.

    Attributes:
        name: ``"live"`` or ``"checkpoint"``, as in :class:`flash_moe.tools.TurnCache`.
    """

    name: str
    held: CachedPrompt


def fingerprint(path: Path, top_k: int) -> dict[str, Any]:
    """Return the properties that a cache depends on: model files, top-k, device, mlx-lm."""
    return {
        "model": _model_hash(path),
        "top_k": top_k,
        "device": str(mx.default_device().type).rsplit(".", 1)[-1],
        "mlx-lm": version("mlx-lm"),
    }


def _model_hash(path: Path) -> str:
    """Hash config.json and the manifest, which has the checksums; else sizes and times of files."""
    digest = xxhash.xxh3_64()
    if (path / MANIFEST_FILE).is_file():
        digest.update((path / MANIFEST_FILE).read_bytes())
    else:
        for file in sorted(path.glob("*.safetensors")):
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    digest.update((path / "config.json").read_bytes())
    return digest.hexdigest()


def next_turn_cache(
    cache: TurnCache, tokenizer: Any, messages: Sequence[Any], template_args: Mapping[str, Any]
) -> Place | None:
    """Return the cache that shares the longest prefix with a next turn, made with a sample turn."""
    try:
        question = {"role": "user", "content": "?"}
        ids = encode_prompt(tokenizer, [*messages, question], template_args)
    except FlashMoEError:  # the template rejects the conversation: there is no next turn
        return None
    usable: list[tuple[int, Place]] = []
    if cache.live is not None:
        same = common_length(cache.live.ids, ids)
        if same == len(cache.live.ids) or all(c.is_trimmable() for c in cache.live.cache):
            usable.append((same, Place("live", cache.live)))
    mark = cache.checkpoint
    if mark is not None and ids[: len(mark.ids)] == mark.ids:
        usable.append((len(mark.ids), Place("checkpoint", mark)))
    length, place = max(usable, key=lambda entry: entry[0], default=(0, None))
    return place if length else None


def cache_bytes(held: CachedPrompt) -> int:
    """Return the size of a cache's arrays in bytes."""
    state: Any = tree_flatten([c.state for c in held.cache])
    return sum(int(a.nbytes) for _, a in state if isinstance(a, mx.array))


def write_cache(folder: Path, place: Place, expected: Mapping[str, Any]) -> None:
    """Save a cache and delete the previous one.

    Raises:
        OSError, RuntimeError: It cannot be written.
    """
    new = folder / f"new-{os.getpid()}.safetensors"
    try:
        save_prompt_cache(str(new), place.held.cache)
        checksum = _checksum(new)
        file = folder / f"cache-{checksum}.safetensors"
        with open(new, "rb+") as stream:
            os.fchmod(stream.fileno(), 0o600)
            sync_and_rename(stream.fileno(), new, file)
    finally:
        new.unlink(missing_ok=True)
    write_json(
        folder / INDEX,
        {
            "file": file.name,
            "xxh3": checksum,
            "place": place.name,
            "of": dict(expected),
            "ids": list(place.held.ids),
        },
        private=True,
    )
    for old in folder.glob("*.safetensors"):
        if old != file:
            with contextlib.suppress(OSError):
                old.unlink()


def drop_cache(folder: Path) -> int:
    """Delete the saved cache; return the bytes freed."""
    n_bytes = 0
    for file in [folder / INDEX, *folder.glob("*.safetensors")]:
        with contextlib.suppress(OSError):
            size = file.stat().st_size
            file.unlink()
            n_bytes += size
    return n_bytes


def read_cache(folder: Path, expected: Mapping[str, Any]) -> Place | None:
    """Load the saved cache; ``None`` if it does not exist.

    Raises:
        CacheMismatchError: The fingerprint differs, or the file is damaged.
    """
    if not (folder / INDEX).is_file():
        return None
    try:
        index = read_json(folder / INDEX)
        _check_same(index["of"], expected)
        file = folder / f"cache-{index['xxh3']}.safetensors"
        ids = [int(i) for i in index["ids"]]
        if not file.is_file():
            raise CacheMismatchError("chat", "its file is missing")
        if _checksum(file) != index["xxh3"]:
            raise CacheMismatchError("chat", "its file is damaged")
        cache = load_prompt_cache(str(file))
        mx.eval([c.state for c in cache])  # now: the file may be deleted later
    except CacheMismatchError:
        raise
    except Exception as error:  # mlx-lm's classes raise anything on damaged files
        raise CacheMismatchError("chat", f"it cannot be read: {error!s:.200}") from error
    if not ids or cached_positions(cache) not in (0, len(ids)):
        got = cached_positions(cache)
        raise CacheMismatchError("chat", f"expected {len(ids)} tokens, got {got}")
    return Place(
        "checkpoint" if index["place"] == "checkpoint" else "live", CachedPrompt(ids, cache)
    )


def _check_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if actual.get(name) != value:
            what = "another model" if name == "model" else f"{name} {actual.get(name)!s:.40}"
            now = "" if name == "model" else f", now {value}"
            raise CacheMismatchError("chat", f"made with {what}{now}")


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with open(file, "rb") as stream:
        while data := stream.read(_PIECE):
            digest.update(data)
    return digest.hexdigest()
