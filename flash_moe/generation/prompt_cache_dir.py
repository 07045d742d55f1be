"""Prompt caches on disk, in mlx-lm's format: the second tier behind those in memory.

Files are renamed into place and never changed, so several processes can share a directory.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import xxhash
from mlx.utils import tree_flatten

from flash_moe.compat.mlx_lm import (
    cached_positions,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
)
from flash_moe.env import read_environment
from flash_moe.errors import ConfigError
from flash_moe.files.atomic import atomic_file
from flash_moe.generation.cache_files import (
    CacheFile,
    cache_files,
    checksum,
    default_dir,
    file_name,
    ids_of,
    of_store,
    text_of,
    token_array,
    token_hashes,
)
from flash_moe.options.prompt_cache import PromptCacheOptions
from flash_moe.store.manifest import MANIFEST_FILE
from flash_moe.version import __version__

# A cache is written if each token that it adds to a stored one costs at most this. Qwen3.5-397B has
# a state of 192 MB, so 48 tokens; to prefill them it reads an estimated 100 GB.
_MAX_BYTES_PER_TOKEN = 4_000_000
# Tokens of a prompt between checkpoints on disk. A killed prefill loses them and those of its pass.
CHECKPOINT_TOKENS = 16_384
# Files whose token ids are compared for a common prefix, if caches of the model can be trimmed.
_MAX_COMPARED = 32
_LEFTOVER_S = 3600  # age of temporary files that no living process writes
_log = logging.getLogger(__name__)


def checkpoints(n_tokens: int) -> range:
    """Return numbers of tokens at which the cache of a prompt is kept on disk."""
    return range(CHECKPOINT_TOKENS, n_tokens, CHECKPOINT_TOKENS)


def worth_keeping(cache: Sequence[Any], added: int) -> bool:
    """True if the state of a cache is worth its bytes for ``added`` tokens to prefill."""
    n_bytes = sum(int(c.nbytes) for c in cache)
    return 0 < n_bytes <= added * _MAX_BYTES_PER_TOKEN


def properties_of(model: Any) -> dict[str, Any]:
    """Return everything besides the tokens that the state of a loaded model depends on."""
    parameters: Any = tree_flatten(model.parameters())
    forms = {str(m.forms) for m in model.modules() if hasattr(m, "may_use_kernels")}
    # The manifest, which is hashed, has the part of a rank.
    divided = {} if model.ranks is None else {"divide": model.streaming.options.divide}
    return {
        **divided,
        "model": _model_hash(model.path),
        "top_k": model.top_k,
        "kernels": sorted(forms),
        "kernel_dir": str(read_environment().kernel_dir or ""),
        "dtypes": sorted({str(a.dtype) for _, a in parameters}),
        "device": str(mx.default_device().type),
        "versions": [__version__, version("mlx"), version("mlx-lm")],
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


def open_prompt_caches(
    model: Any, options: PromptCacheOptions, report: Callable[[str], None]
) -> PromptCacheDir | None:
    """Open the prompt caches of a model on disk; ``None`` if there are none.

    Args:
        model: Result of :func:`flash_moe.load`'s ``model``.
        report: Gets one line if the directory cannot be used.

    Raises:
        ConfigError: The model was not loaded by :func:`flash_moe.load`.
    """
    limit = round(options.prompt_cache_disk_gb * 1e9)
    if not limit:
        return None
    if getattr(model, "path", None) is None:
        raise ConfigError("prompt cache", "prompt_cache_dir: expected a model of flash_moe.load()")
    directory = Path(options.prompt_cache_dir or default_dir()).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(None, "not writable")
    except OSError as error:
        report(
            f"prompt caches are not kept on disk: {directory}: {error.strerror}. Pass another "
            "--prompt-cache-dir, or --prompt-cache-disk-gb 0."
        )
        return None
    return PromptCacheDir(directory, limit, model, report)


class PromptCacheDir:
    """Prompt caches of one model in a directory.

    Its methods belong to the thread that owns the model's arrays. A thread of its own writes bytes.

    Attributes:
        hits: Caches loaded.
        hit_tokens: Prompt tokens that were not prefilled because of them.
        directory: The directory, shared with other models and processes.

    Args:
        limit: Maximum bytes of all caches in the directory.
        report: Gets one line for a file that is ignored, and for the first of failed writes.
    """

    def __init__(
        self, directory: Path, limit: int, model: Any, report: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self.hits = self.hit_tokens = 0
        self._limit = limit
        self._report = report
        properties = json.dumps(properties_of(model), sort_keys=True)
        self._metadata = {"properties": properties, "store": str(model.path)}
        self._model = xxhash.xxh3_64_hexdigest(properties.encode())
        self._trims = always_trimmable(make_prompt_cache(model))
        self._ignored: set[str] = set()
        self._pending: dict[tuple[int, str], int] = {}  # length and hash of tokens: bytes
        self._lock = threading.Lock()  # guards the two above
        self._failed = False
        self._writer = ThreadPoolExecutor(1, "prompt-caches")
        for path in directory.glob(".*.safetensors.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()
        files = cache_files(directory)
        n_ours = sum(file.model == self._model for file in files)
        others = f"; {len(files) - n_ours} of other models, settings or versions do not fit"
        _log.info(
            "%d prompt caches in %s%s", n_ours, directory, others if n_ours < len(files) else ""
        )
        if not n_ours and (stale := of_store(files, self._metadata["store"])):
            self._report(
                f"{len(stale)} prompt caches of this store no longer fit: it was packed again, or "
                f"options or versions changed. flash-moe caches --delete {stale[0].model[:8]} "
                "deletes them"
            )

    @property
    def n_bytes(self) -> int:
        """Size of all caches in the directory."""
        return sum(file.n_bytes for file in cache_files(self.directory))

    @property
    def pending_bytes(self) -> int:
        """Memory of caches that are not written yet."""
        return sum(self._pending.copy().values())

    def fetch(self, ids: Sequence[int], beyond: int) -> tuple[int, list[Any] | None]:
        """Load the cache with the longest prefix of ``ids``.

        Args:
            beyond: Tokens that another cache has; only longer prefixes are of use.

        Returns:
            The length of the prefix and the cache; 0 and ``None`` if no file fits.
        """
        array = token_array(ids)
        for n_same, file in self._matches(array):
            if n_same <= beyond:
                with contextlib.suppress(OSError):
                    os.utime(file.path)  # a cache in memory was used instead
                break
            if (cache := self._load(file, array, n_same)) is not None:
                self.hits += 1
                self.hit_tokens += n_same - beyond
                return n_same, cache
        return 0, None

    def save(self, ids: Sequence[int], cache: Sequence[Any]) -> None:
        """Copy a cache and write it in the background, unless it is stored or not worth it."""
        n_bytes, n = sum(c.nbytes for c in cache), len(ids)
        tokens = token_hashes(token_array(ids))
        with self._lock:
            stored = {(f.n_tokens, f.tokens) for f in self._files()} | self._pending.keys()
        n_stored = max((length for length, key in stored if tokens(length) == key), default=0)
        added = n - n_stored
        if not worth_keeping(cache, added) or n_bytes > self._limit:
            return
        data = io.BytesIO()
        try:
            save_prompt_cache(data, list(cache), {**self._metadata, "ids": text_of(ids)})
        except (MemoryError, RuntimeError, ValueError) as error:
            self._report(f"a prompt cache is not written: {error!s:.200}")
            return
        key = (n, tokens(n) or "")
        with self._lock:
            self._pending[key] = n_bytes
        self._writer.submit(self._write, key, data).add_done_callback(Future.result)

    def close(self) -> None:
        """Wait until all caches are written."""
        self._writer.shutdown()

    def _files(self) -> list[CacheFile]:
        """Return the files of this model, the latest used first."""
        files = cache_files(self.directory)
        return [f for f in files if f.model == self._model and f.path.name not in self._ignored]

    def _matches(self, ids: Any) -> list[tuple[int, CacheFile]]:
        """Return files that share a prefix with ``ids``, and its length; the longest first."""
        tokens, files = token_hashes(ids), self._files()
        matches = [(f.n_tokens, f) for f in files if tokens(f.n_tokens) == f.tokens]
        others = [f for f in files if tokens(f.n_tokens) != f.tokens]
        for file in others[:_MAX_COMPARED] if self._trims else ():
            try:
                other = ids_of(file.metadata()["ids"])
            except Exception as error:
                self._ignore(file, error)
                continue
            n = min(len(other), len(ids))
            different = np.flatnonzero(other[:n] != ids[:n])
            matches.append((int(different[0]) if len(different) else n, file))
        return sorted(matches, key=lambda match: match[0], reverse=True)

    def _load(self, file: CacheFile, ids: Any, n_same: int) -> list[Any] | None:
        """Load a file and trim it to ``n_same`` tokens; report and ignore a damaged one."""
        try:
            # Page faults of a copy in memory took half of the 10 ms for a file of 5 MB.
            with file.path.open("rb", buffering=0) as opened:
                if checksum(opened) != file.checksum:
                    raise ValueError("its checksum is wrong")
                opened.seek(0)
                cache, metadata = load_prompt_cache(opened, return_metadata=True)
                begin = ids_of(metadata["ids"])
                same = np.array_equal(begin[:n_same], ids[:n_same]) and len(begin) == file.n_tokens
                if not same or metadata["properties"] != self._metadata["properties"]:
                    raise ValueError("it belongs to other tokens or another model")
                mx.eval([c.state for c in cache])
            surplus = file.n_tokens - n_same
            if surplus and not all(c.is_trimmable() and c.trim(surplus) == surplus for c in cache):
                return None
            if cached_positions(cache) not in (0, n_same):
                raise ValueError(f"expected {n_same} positions, got {cached_positions(cache)}")
            os.utime(file.path)
        except Exception as error:  # mlx-lm's classes raise anything on damaged files
            self._ignore(file, error)
            return None
        return list(cache)

    def _ignore(self, file: CacheFile, error: Exception) -> None:
        if file.path.exists():  # not deleted by another process
            self._report(f"a prompt cache is ignored: {file.path}: {error!s:.200}")
            with self._lock:
                self._ignored.add(file.path.name)

    def _write(self, key: tuple[int, str], data: io.BytesIO) -> None:
        """Write a cache, then delete the least recently used ones beyond the limit."""
        length, tokens = key
        try:
            with data.getbuffer() as view:
                name = file_name(self._model, length, tokens, view)
                with atomic_file(self.directory / name, private=True) as file:
                    file.write(view)
            total = 0
            for old in cache_files(self.directory):
                total += old.n_bytes
                if total > self._limit:
                    old.path.unlink(missing_ok=True)
            with self._lock:
                self._ignored.discard(name)
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._report(f"a prompt cache is not written: {self.directory}: {error.strerror}")
            self._failed = True
        finally:
            with self._lock:
                del self._pending[key]


def always_trimmable(cache: Sequence[Any]) -> bool:
    """True without recurrent layers and without windows, which cannot be trimmed when full."""
    return all(
        always_trimmable(c.caches)
        if hasattr(c, "caches")
        else c.is_trimmable() and not getattr(c, "max_size", None)
        for c in cache
    )
