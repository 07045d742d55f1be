"""``load()``: open a store or checkpoint as a model that generates."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flash_moe.compat.mlx_lm import load_model, model_classes, open_tokenizer
from flash_moe.compat.threads import clear_streams_at_thread_end, refuse_fork
from flash_moe.env import load_options
from flash_moe.errors import (
    FlashMoEError,
    UnsupportedModelError,
)
from flash_moe.generation.generate import generate, stream
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.prompt import Prompt
from flash_moe.generation.result import Chunk, Generation
from flash_moe.hub.resolve import resolve
from flash_moe.model.divided import divide
from flash_moe.model.open import open_streaming
from flash_moe.model.streamed import StreamedModel, streamed_class
from flash_moe.model.streaming import Streaming
from flash_moe.ops import kernel
from flash_moe.ops.dispatch import use_kernels
from flash_moe.options.declare import accepts
from flash_moe.options.loading import LoadOptions
from flash_moe.ranks.group import Ranks
from flash_moe.ranks.host import share_host
from flash_moe.store.manifest import read_manifest
from flash_moe.store.part import Part
from flash_moe.stream.stats import StreamStats
from flash_moe.version import __version__

T = TypeVar("T")


class _Closing:
    """Mixin that closes the object at the end of a ``with`` block."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()  # type: ignore[attr-defined]


class GeneratingModel(_Closing, StreamedModel):
    """A streamed model with its tokenizer. ``load()`` returns one.

    It is a subclass of mlx-lm's own model class, so it works wherever mlx-lm takes a model:
    ``stream_generate``, ``batch_generate``, ``make_prompt_cache``, the server.
    """

    tokenizer: Any
    path: Path

    @accepts(GenerationOptions, method=True)
    def generate(self, prompt: Prompt, options: GenerationOptions) -> Generation:
        """Generate a whole answer.

        Args:
            prompt: Text (used as it is), chat messages, or token ids.

        Raises:
            PromptError: The prompt is empty or too long.
            ConfigError: An option is invalid.
            GrammarError: The requested schema cannot be enforced with this model's tokenizer.
            ReadError, ChecksumError: The experts cannot be read; the model stays usable.
        """
        return generate(self, self.tokenizer, prompt, options)

    @accepts(GenerationOptions, method=True)
    def stream(self, prompt: Prompt, options: GenerationOptions) -> Iterator[Chunk]:
        """Generate and yield chunks. Errors are those of :meth:`generate`.

        The call checks the arguments, before the first chunk is requested.

        Args:
            prompt: Text (used as it is), chat messages, or token ids.
        """
        return stream(self, self.tokenizer, prompt, options)


class _Pair(NamedTuple):
    model: GeneratingModel
    tokenizer: Any


class FlashMoE(_Closing, _Pair):
    """Pair of model and tokenizer: unpack it as with mlx-lm, or use its methods."""

    def __repr__(self) -> str:
        # The pair's own would print the whole module tree.
        config = self.model.config
        return (
            f"FlashMoE({config.model_type}, {config.n_experts} experts per layer, "
            f"{self.model.top_k} per token; {self.model.stats})"
        )

    @accepts(GenerationOptions, method=True)
    def generate(self, prompt: Prompt, options: GenerationOptions) -> Generation:
        """Same as ``model.generate``."""
        return generate(self.model, self.tokenizer, prompt, options)

    @accepts(GenerationOptions, method=True)
    def stream(self, prompt: Prompt, options: GenerationOptions) -> Iterator[Chunk]:
        """Same as ``model.stream``."""
        return stream(self.model, self.tokenizer, prompt, options)

    @property
    def stats(self) -> StreamStats:
        return self.model.stats

    def close(self) -> None:
        self.model.close()


@accepts(LoadOptions, make=load_options)
def load(path_or_repo: str | Path, options: LoadOptions) -> FlashMoE:
    """Load a packed store, or an mlx checkpoint without conversion (slower reads).

    Options that are not given come from the environment (``FLASH_MOE_CACHE_GB`` and so on).

    Args:
        path_or_repo: A directory, the name of a repository that was pulled or is in the hub's
            local cache, or ``"demo"``. Nothing is downloaded.

    Returns:
        A pair ``(model, tokenizer)`` that also has ``generate``, ``stream``, ``stats``, ``close``
        and works as a context manager.

    Raises:
        ModelNotFoundError: The directory, cached repository, or a file of the model is missing.
        NotMoEError: The model has no experts.
        UnsupportedModelError: Its experts cannot be streamed.
        ManifestError, CorruptFileError: The files are damaged or inconsistent.
        BudgetError: ``cache_gb`` or ``memory_gb`` is too small; the message names the minimum.
        ConfigError: Another option is invalid.
        KernelError: ``kernels="require"`` and the kernels cannot be used.
        TraceError: A trace cannot be written.
        ClosedError: This process was forked from one that has loaded a model.
        PeerError: With ``group``: the model cannot be loaded on another machine, or the machines
            differ.
    """
    refuse_fork()
    clear_streams_at_thread_end()
    ranks = _ranks(options)
    if ranks is None:
        path = resolve(path_or_repo, options.revision)
        return _build(path, open_streaming(path, options), options)
    path, streaming, facts = ranks.together(lambda: _open_part(path_or_repo, options, ranks))
    ranks.compare(facts)
    share_host(ranks)
    return ranks.together(lambda: _build(path, streaming, options))


def _ranks(options: LoadOptions) -> Ranks | None:
    """Return the ranks that divide the model; ``None`` on one machine."""
    group = options.group
    if group is None or isinstance(group, Ranks):
        return group
    return Ranks(group, options.peer_timeout) if group.size() > 1 else None


def _open_part(
    name: str | Path, options: LoadOptions, ranks: Ranks
) -> tuple[Path, Streaming, dict[str, object]]:
    """Open the part of this rank; return also the facts that all ranks have to agree on.

    Args:
        name: A part, or its name without the suffix that :func:`resolve` adds.
    """
    part = Part(ranks.rank + 1, ranks.size)
    path = resolve(name, options.revision, part)
    streaming = replace(open_streaming(path, options, part), ranks=ranks)
    versions = {f"version of {name}": version(name) for name in ("mlx", "mlx-lm")}
    return (
        path,
        streaming,
        {
            "version of flash-moe": __version__,
            **versions,
            "model": read_manifest(path).whole,
            "experts per token": streaming.top_k,
            "divide": options.divide,
            "use of memory_gb": options.memory_gb is not None,
            "kernels": kernel.backend() if use_kernels(options.kernels) else None,
        },
    )


def _build(path: Path, streaming: Streaming, options: LoadOptions) -> FlashMoE:
    override = streaming.model.override(options.top_k)
    try:
        model, config = load_model(
            path,
            lazy=streaming.ranks is not None,  # a rank reads its share of the weights
            # get_model_classes supplies our class; model_file is for mlx-lm's own load.
            model_config={**copy.deepcopy(override), "model_file": None},
            get_model_classes=lambda config: _classes(config, streaming),
        )
        if streaming.ranks is not None:
            divide(model, streaming.ranks, options.divide)
    except (FlashMoEError, MemoryError):
        raise
    except Exception as error:  # mlx-lm's classes raise anything for a bad config
        raise UnsupportedModelError(
            "load",
            f"{path}: mlx-lm cannot build this model: {type(error).__name__}: {error}",
            "Does config.json belong to these weights?",
        ) from error
    model.path = path
    model.tokenizer = open_tokenizer(
        "load", path, config.get("eos_token_id"), options.tokenizer_config
    )
    return FlashMoE(model, model.tokenizer)


def _classes(config: dict[str, Any], streaming: Streaming) -> tuple[type, type]:
    base, args = model_classes("load", config)
    return streamed_class(base, streaming, GeneratingModel), args


def store_classes(root: Path) -> tuple[type, type]:
    """Return ``Model`` and ``ModelArgs`` of a store, for the ``model_file`` that mlx-lm imports.

    The options come from the environment (``FLASH_MOE_CACHE_GB`` and so on).
    """
    options = load_options()
    streaming = open_streaming(root, options)
    model_class, args_class = _classes(streaming.model.raw, streaming)
    override = streaming.model.override(options.top_k)
    if not override:
        return model_class, args_class

    class Args(args_class):  # type: ignore[misc, valid-type]
        @classmethod
        def from_dict(cls, params: dict[str, Any]) -> Any:
            return args_class.from_dict({**params, **copy.deepcopy(override)})  # type: ignore[attr-defined]

    return model_class, Args
