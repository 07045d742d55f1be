"""Subclasses of mlx-lm's model classes with streamed experts.

``streamed_class`` subclasses the class that mlx-lm has for an architecture; no model code is
copied. The subclass opens the bank when it is built, drops the expert weights of a checkpoint, and
fences the bank at the end of each forward pass.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.cudart import on_cuda
from flash_moe.compat.dtypes import computed_dtype, on_cpu
from flash_moe.compat.expert_modules import match, replace_module, switch_modules
from flash_moe.compat.mlx_lm import cached_positions, replace_gated_delta_ops
from flash_moe.compat.threads import clear_streams_at_thread_end, refuse_fork
from flash_moe.config import ModelConfig
from flash_moe.errors import ClosedError
from flash_moe.memory.plan import MIN_CHUNK
from flash_moe.memory.pressure import PressureWatch
from flash_moe.memory.system import release_free_memory
from flash_moe.model.cache_fill import CacheFill
from flash_moe.model.checkpoints import Checkpoints
from flash_moe.model.cpu_cores import use_all_cores
from flash_moe.model.divided import DividedExperts, Division
from flash_moe.model.layer_pass import LayerPass
from flash_moe.model.moe_block import fuse, kernels_of
from flash_moe.model.next_router import Router
from flash_moe.model.padding import Padding
from flash_moe.model.prompt_lengths import PromptLengths
from flash_moe.model.recorded import record_delta_nets, record_held_layers
from flash_moe.model.shared_expert import EarlyOutput, start_early
from flash_moe.model.streaming import Streaming
from flash_moe.model.switch import StreamedExperts
from flash_moe.ops.dispatch import keep_views, use_kernels
from flash_moe.ops.gated_delta import with_kernel
from flash_moe.ranks.group import Ranks
from flash_moe.store.layout import COMPONENT_NAMES
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.contents import CacheContents
from flash_moe.stream.stats import StreamStats

_log = logging.getLogger(__name__)


class StreamedModel(nn.Module):
    """Base of the classes made by :func:`streamed_class`; for type checks and documentation.

    A forward pass runs under a lock, and no lazy array reads the bank when it returns. So several
    threads may use one model, and several generations may be interleaved.

    Attributes:
        config: Fields of config.json that streaming needs.
        lengths: Memory plan, and lengths of the passes over prompts.
    """

    config: ModelConfig
    lengths: PromptLengths
    _bank: ExpertBank
    _streaming: Streaming
    _cache_fill: CacheFill
    _checkpoints: Checkpoints
    _watch: PressureWatch
    _division: Division | None
    _lock: Any
    _closed: bool
    _unfinished: bool

    @property
    def stats(self) -> StreamStats:
        """Snapshot of the counters since the model was loaded."""
        stats = self._bank.stats()
        return replace(stats, ranks=self._division.stats) if self._division else stats

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that run the model together; ``None`` on one machine."""
        return self._division.ranks if self._division else None

    @property
    def streaming(self) -> Streaming:
        """Experts on disk and options of the model."""
        return self._streaming

    def cache_contents(self) -> CacheContents:
        """Return the experts in the cache, and those being read; for any thread."""
        return self._bank.contents()

    @property
    def top_k(self) -> int:
        """Experts per token and layer."""
        return int(self._top_k)

    def takes_marks(self, cache: Sequence[Any]) -> bool:
        """True if ``fill`` can copy this cache within a pass."""
        with self._lock:
            return self._checkpoints.possible(self, self._forward, cache)

    def fill(
        self, tokens: mx.array, cache: Sequence[Any], marks: Sequence[int] = ()
    ) -> list[Callable[[], list[Any]]]:
        """Process ``tokens`` ``[1, n]`` for the prompt cache alone (``cache_fill.py``), lazily.

        Args:
            marks: Ascending numbers of tokens, for caches that ``takes_marks`` accepts.

        Returns:
            For each mark a function that returns a lazy copy of the cache after so many tokens.
            Keys and values are copied then: call it before ``cache`` is trimmed.
        """
        with self._lock, self._cache_fill, self._checkpoints.taken(cache, marks) as copies:
            self(tokens, cache=cache)
        return copies

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Hold the model for one pass; afterwards no lazy array reads the bank."""
        refuse_fork()
        clear_streams_at_thread_end()
        with self._lock:
            if self._closed:
                raise ClosedError("model", "the model was closed", "Load it again.")
            if self._unfinished:  # Ctrl-C may also have ended the recovery of the last pass
                self._bank.recover()
            self._unfinished = True
            try:
                yield
                self._shrink_if_short()
                self._unfinished = False
            except BaseException:
                self._bank.recover()
                raise
            finally:
                self._padding.clear()
                self._early_output.clear()

    def layer_pass(
        self, ids: Sequence[int], cache: Sequence[Any], lengths: Sequence[int], marks: Sequence[int]
    ) -> Generator[LayerPass, None, None] | None:
        """Process a prompt layer by layer, so that each expert is read once.

        Other passes may run between the steps.

        Args:
            cache: Filled as by a pass over each tile. If the iterator ends early, by an error or
                because it is closed, the cache is as before.
            lengths: Result of ``tiles_of``; their sum is the number of ``ids``.
            marks: See :meth:`LayerPass.plan`.

        Returns:
            An iterator that runs one layer per step, or ``None`` if the classes of the model's
            layers are not known to allow this.

        Raises:
            ReadError, ChecksumError: While iterating; an expert could not be read.
            PeerError: While iterating; one could not be read on another rank, or the ranks differ.
        """
        with self._running():
            made = LayerPass.plan(self, self._forward, ids, cache, lengths, marks)

        @contextmanager
        def running() -> Iterator[None]:
            division = self._division
            with self._running(), division.in_step([ids]) if division else nullcontext():
                yield
                self._bank.fence()

        return None if made is None else made.run(cache, running)

    def _must_split(self, passed: Mapping[str, Any], tokens_name: str) -> bool:
        """True for a pass that exceeds ``memory_gb`` and can be split.

        mlx-lm's own functions split prompts without regard to that limit. Only a pass that fills a
        cache and has no other arguments can be split: none of its outputs depends on later ones.
        """
        tokens, cache = passed.get(tokens_name), passed.get("cache")
        others = {name for name, value in passed.items() if value is not None}
        if (
            self.lengths.plan.prompt_bytes is None
            or others != {tokens_name, "cache"}
            or not isinstance(tokens, mx.array)
            or tokens.ndim != 2
            or not isinstance(cache, list | tuple)
            or tokens.shape[1] <= MIN_CHUNK
        ):
            return False
        n_rows, n_tokens = tokens.shape
        return len(self.lengths.chunks_of(n_tokens, cache, n_rows)) > 1

    def _shrink_if_short(self) -> None:
        """Shrink the bank if memory is short. A failure is logged and changes no output."""
        missing = self._watch.bytes_to_free(self._bank.n_bytes)
        if not missing:
            return
        try:
            self._bank.shrink(missing)
        except (MemoryError, RuntimeError) as error:  # MLX cannot allocate a smaller slab
            self._bank.recover()
            _log.warning("memory is short, and the expert cache could not shrink: %s", error)

    def close(self) -> None:
        """End the reader threads, close the files, free the bank. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._bank.close()


M = TypeVar("M", bound=StreamedModel)


def streamed_class(base: type, streaming: Streaming, front: type[M]) -> type[M]:
    """Subclass an mlx-lm model class so that its experts are streamed.

    Args:
        base: ``Model`` of an ``mlx_lm.models`` module.
        streaming: The experts and options of the models of this class.
        front: Subclass of ``StreamedModel`` with the public methods.
    """

    names = list(inspect.signature(base.__call__).parameters)[1:]

    class Streamed(front, base):  # type: ignore[misc, valid-type]
        def __init__(self, args: Any) -> None:
            base.__init__(self, args)  # type: ignore[misc]
            self.config = streaming.model
            self._streaming = streaming
            self._top_k = streaming.top_k
            self._lock = threading.RLock()
            self._closed = self._unfinished = False
            modules = switch_modules(self)
            paths = match(modules, streaming.experts.layers, streaming.model.model_type)
            # A frozenset: nn.Module would add a list to its parameter tree.
            self._streamed_tensors = frozenset(
                f"{path}.{name}" for path in paths for name in COMPONENT_NAMES
            )
            option = streaming.options.kernels
            use = use_kernels(option)
            if use and on_cuda():
                replace_gated_delta_ops(with_kernel)
            plan = streaming.plan_memory()
            self._watch = PressureWatch()
            bank = streaming.open_bank(plan.bank_bytes, keep_views=keep_views(option))
            self._bank, self.lengths = bank, PromptLengths(streaming, plan, bank)
            if streaming.options.preload:
                for index, layer in enumerate(bank.layers):
                    deque(bank.waves(index, range(layer.n_experts)), 0)
            # Ends the threads of a model that is dropped without close().
            weakref.finalize(self, self._bank.close)
            self._padding = Padding(base.__module__.rpartition(".")[2])
            self._early_output = EarlyOutput()
            ranks = streaming.ranks
            self._division = Division(ranks, bank) if ranks else None
            before: StreamedExperts | None = None
            router: Router | None = None
            hidden = streaming.model.text.get("hidden_size")
            for index, path in enumerate(paths):
                activation = modules[path].activation
                kernels = None
                if use:
                    kernels = kernels_of(bank, index, activation, option, timed=ranks is None)
                parts = (self._bank, index, activation, kernels, self._padding)
                division = self._division
                module = DividedExperts(division, *parts) if division else StreamedExperts(*parts)
                above = replace_module(self, path, module)
                module.shared = start_early(above[0], self._early_output)
                if kernels is not None:
                    fuse(above[0])
                if streaming.options.lookahead:
                    earlier, router = router, Router(above, module.chosen_by)
                    router.check(hidden or self._bank.layers[index].layout.hidden_size)
                    if before is not None and earlier is not None:
                        before.prefetch_with(functools.partial(router.predict_from, earlier))
                before = module
            self._cache_fill, self._checkpoints = CacheFill(bank, index), Checkpoints()
            module.begin = self._cache_fill.end_if_filled
            if use:
                record_delta_nets(self, fused=on_cuda())
                record_held_layers(self)

        @functools.wraps(base.__call__)  # mlx-lm reads the parameters from the signature
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with self._running():
                passed = {**dict(zip(names, args, strict=False)), **kwargs}
                if self._must_split(passed, names[0]):
                    return self._passes(passed)
                return self._pass(args, kwargs, passed)

        def _forward(self, tokens: mx.array, cache: Sequence[Any]) -> Any:
            return base.__call__(self, tokens, cache=cache)

        def _pass(self, args: Any, kwargs: Any, passed: Mapping[str, Any]) -> Any:
            tokens, cache = passed.get(names[0]), passed.get("cache")
            self._padding.find(tokens, cache)
            n_tokens = tokens.size if isinstance(tokens, mx.array) else 0
            division, out = self._division, None
            with (
                self.lengths.meter.measure(n_tokens, lambda: cached_positions(cache or ())),
                division.in_step(tokens) if division else nullcontext(),
            ):
                with self._cache_fill.ending(cache or ()):
                    out = base.__call__(self, *args, **kwargs)
                self._bank.fence(None, *(division.pending(out, tokens, cache) if division else ()))
            return out

        def _passes(self, passed: Mapping[str, Any]) -> mx.array | None:
            tokens, outs = passed[names[0]], []
            while tokens.shape[1]:
                # Each pass may allow longer ones: see memory/measured_workspace.py.
                end = self.lengths.chunks_of(tokens.shape[1], passed["cache"], len(tokens))[0]
                kwargs = {**passed, names[0]: tokens[:, :end]}
                tokens = tokens[:, end:]
                outs.append(self._pass((), kwargs, kwargs))
                mx.eval([each.state for each in passed["cache"]])
                mx.clear_cache()
                release_free_memory()
            return None if outs[0] is None else mx.concatenate(outs, axis=1)

        def load_weights(self, *args: Any, **kwargs: Any) -> Any:
            """Load weights into the modules, which are final and quantized now."""
            super().load_weights(*args, **kwargs)
            if on_cpu():
                use_all_cores(self)
            return self

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            """Apply mlx-lm's sanitize, drop the experts, and cast to the dtype of this device."""
            if streaming.files:
                loaded = {file: _load(file) for file in set(streaming.files.values())}
                weights = {name: loaded[file][name] for name, file in streaming.files.items()}
            if hasattr(base, "sanitize"):
                weights = base.sanitize(self, weights)
            kept = {n: w for n, w in weights.items() if n not in self._streamed_tensors}
            return {name: w.astype(computed_dtype(w.dtype)) for name, w in kept.items()}

    Streamed.__name__ = Streamed.__qualname__ = f"Streamed{base.__module__.split('.')[-1].title()}"
    return Streamed


def _load(file: Path) -> dict[str, mx.array]:
    weights: Any = mx.load(str(file))
    return dict(weights)
