"""The prompt cache of a session on disk, in mlx-lm's own format.

Beside the arrays stands ``cache.json``: the token ids that they hold, a checksum, and what they are
of. The arrays are written to a new file first, then ``cache.json`` names it, then the old file
goes: a process killed at any moment leaves a cache that is whole, or none.
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


class MisfitError(FlashMoEError):
    """A kept cache that cannot be used; ``problem`` says why."""


@dataclass(frozen=True)
class Place:
    """Which of the caches of a conversation it is.

    Attributes:
        name: ``"live"`` or ``"checkpoint"``, as in :class:`flash_moe.tools.TurnCache`.
    """

    name: str
    held: CachedPrompt


def fingerprint(path: Path, top_k: int) -> dict[str, Any]:
    """What a cache depends on: the files of the model, options that change results, mlx-lm."""
    return {
        "model": _model_hash(path),
        "top_k": top_k,
        "device": str(mx.default_device().type).rsplit(".", 1)[-1],
        "mlx-lm": version("mlx-lm"),
    }


def _model_hash(path: Path) -> str:
    """Of the manifest, which has the checksums of a store; else of config and sizes of files."""
    found = xxhash.xxh3_64()
    if (path / MANIFEST_FILE).is_file():
        found.update((path / MANIFEST_FILE).read_bytes())
    else:
        for file in sorted(path.glob("*.safetensors")):
            status = file.stat()
            found.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    found.update((path / "config.json").read_bytes())
    return found.hexdigest()


def worth_keeping(
    cache: TurnCache, tokenizer: Any, messages: Sequence[Any], template_args: Mapping[str, Any]
) -> Place | None:
    """The cache that the next turn will begin with, found by asking for a turn that it may be."""
    try:
        question = {"role": "user", "content": "?"}
        ids = encode_prompt(tokenizer, [*messages, question], template_args)
    except FlashMoEError:  # a conversation that the template refuses has no next turn
        return None
    found: list[tuple[int, Place]] = []
    if cache.live is not None:
        same = common_length(cache.live.ids, ids)
        if same == len(cache.live.ids) or all(c.is_trimmable() for c in cache.live.cache):
            found.append((same, Place("live", cache.live)))
    mark = cache.checkpoint
    if mark is not None and ids[: len(mark.ids)] == mark.ids:
        found.append((len(mark.ids), Place("checkpoint", mark)))
    length, place = max(found, key=lambda entry: entry[0], default=(0, None))
    return place if length else None


def cache_bytes(held: CachedPrompt) -> int:
    """Bytes of the arrays that a file would hold."""
    state: Any = tree_flatten([c.state for c in held.cache])
    return sum(int(a.nbytes) for _, a in state if isinstance(a, mx.array))


def write_cache(folder: Path, place: Place, of: Mapping[str, Any]) -> None:
    """Keep a cache in the place of the one before.

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
            "of": dict(of),
            "ids": list(place.held.ids),
        },
        private=True,
    )
    for old in folder.glob("*.safetensors"):
        if old != file:
            with contextlib.suppress(OSError):
                old.unlink()


def drop_cache(folder: Path) -> int:
    """Delete the kept cache. Returns the bytes that it took."""
    n_bytes = 0
    for file in [folder / INDEX, *folder.glob("*.safetensors")]:
        with contextlib.suppress(OSError):
            taken = file.stat().st_size
            file.unlink()
            n_bytes += taken
    return n_bytes


def read_cache(folder: Path, of: Mapping[str, Any]) -> Place | None:
    """The kept cache; ``None`` if there is none.

    Raises:
        MisfitError: It is of something else, or damaged.
    """
    if not (folder / INDEX).is_file():
        return None
    try:
        index = read_json(folder / INDEX)
        _check_same(index["of"], of)
        file = folder / f"cache-{index['xxh3']}.safetensors"
        ids = [int(i) for i in index["ids"]]
        if not file.is_file():
            raise MisfitError("chat", "its file is gone")
        if _checksum(file) != index["xxh3"]:
            raise MisfitError("chat", "its file is damaged")
        cache = load_prompt_cache(str(file))
        mx.eval([c.state for c in cache])  # now: the file may be deleted later
    except MisfitError:
        raise
    except Exception as error:  # whatever a file makes of mlx-lm's classes
        raise MisfitError("chat", f"it cannot be read: {error!s:.200}") from error
    if not ids or cached_positions(cache) not in (0, len(ids)):
        raise MisfitError("chat", f"it holds {cached_positions(cache)} tokens, expected {len(ids)}")
    return Place(
        "checkpoint" if index["place"] == "checkpoint" else "live", CachedPrompt(ids, cache)
    )


def _check_same(made: Mapping[str, Any], of: Mapping[str, Any]) -> None:
    for name, value in of.items():
        if made.get(name) != value:
            what = "another model" if name == "model" else f"{name} {made.get(name)!s:.40}"
            now = "" if name == "model" else f", this is {value}"
            raise MisfitError("chat", f"it is of {what}{now}")


def _checksum(file: Path) -> str:
    found = xxhash.xxh3_64()
    with open(file, "rb") as stream:
        while data := stream.read(_PIECE):
            found.update(data)
    return found.hexdigest()
