"""Errors and options: the tree in the docstring, messages, pickling, and strict parsing."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from flash_moe import errors
from flash_moe.config import (
    MAX_IO_THREADS,
    ModelConfig,
    RuntimeConfig,
    model_config,
    read_config,
    runtime_config,
)
from flash_moe.env import CACHE_POLICIES, Environment, read_environment
from flash_moe.errors import (
    ConfigError,
    FlashMoEError,
    ModelNotFoundError,
    NotMoEError,
    RecordError,
    UnsupportedModelError,
)
from flash_moe.stream.policy import POLICIES

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, FlashMoEError) and value.__module__ == errors.__name__
]


def drawn_tree() -> dict[str, str]:
    """Class to parent, as drawn in the docstring of the module."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([\s│├└─]*)([A-Z]\w+)(?:\s|$)", line)
        if match is None:
            continue
        depth = len(match[1])
        above = [entry for entry in above if entry[0] < depth]
        parents[match[2]] = above[-1][1] if above else ""
        above.append((depth, match[2]))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    real = {c.__name__: c.__bases__[0].__name__ for c in CLASSES}
    real["FlashMoEError"] = ""
    assert drawn_tree() == real


def test_builtin_bases() -> None:
    for name, base in (
        ("ConfigError", ValueError),
        ("PromptError", ValueError),
        ("ClosedError", RuntimeError),
        ("KernelError", RuntimeError),
        ("IncompatibleMlxLmError", ImportError),
    ):
        assert issubclass(getattr(errors, name), base)


def made(cls: type[FlashMoEError], hint: str = "Do this.") -> FlashMoEError:
    if issubclass(cls, RecordError):
        return cls("part", "it broke", hint, layer=3, expert=7)
    return cls("part", "it broke", hint)


@pytest.mark.parametrize("cls", CLASSES)
def test_messages(cls: type[FlashMoEError]) -> None:
    where = "layer 3, expert 7: " if issubclass(cls, RecordError) else ""
    assert str(made(cls)) == f"[part] {where}it broke. Do this."
    assert str(made(cls, hint="")) == f"[part] {where}it broke."
    assert str(FlashMoEError("part", "it broke.")) == "[part] it broke."


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_a_copy_keeps_everything(cls: type[FlashMoEError], again: Any) -> None:
    error = made(cls)
    other = again(error)
    assert type(other) is cls
    assert str(other) == str(error)
    assert vars(other) == vars(error)
    assert other.component == "part"
    assert other.hint == "Do this."
    if isinstance(other, RecordError):
        assert (other.layer, other.expert) == (3, 7)


def test_the_environment() -> None:
    assert read_environment({}) == Environment()
    assert read_environment({"FLASH_MOE_CACHE_GB": "", "FLASH_MOE_TOP_K": "  "}) == Environment()
    full = {
        "FLASH_MOE_CACHE_GB": " 2.5 ",
        "FLASH_MOE_TOP_K": "4",
        "FLASH_MOE_IO_THREADS": "16",
        "FLASH_MOE_VERIFY_READS": " 1",
        "FLASH_MOE_KERNELS": "Require",
        "FLASH_MOE_KERNEL_DIR": " ~/kernels",
        "FLASH_MOE_IO": "Direct",
        "FLASH_MOE_IO_SPLIT": "4",
        "FLASH_MOE_CACHE_POLICY": "LRFU",
        "FLASH_MOE_MEMORY_GB": "40",
    }
    assert read_environment(full) == Environment(
        2.5,
        4,
        16,
        True,
        "require",
        Path("~/kernels"),
        io="direct",
        io_split=4,
        cache_policy="lrfu",
        memory_gb=40.0,
    )
    assert read_environment({"FLASH_MOE_VERIFY_READS": "False"}).verify_reads is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FLASH_MOE_CACHE_GB", "lots"),
        ("FLASH_MOE_CACHE_GB", "8GB"),
        ("FLASH_MOE_MEMORY_GB", "half"),
        ("FLASH_MOE_TOP_K", "4.0"),
        ("FLASH_MOE_TOP_K", "four"),
        ("FLASH_MOE_IO_THREADS", "0x8"),
        ("FLASH_MOE_VERIFY_READS", "yes"),
        ("FLASH_MOE_VERIFY_READS", "2"),
        ("FLASH_MOE_KERNELS", "on"),
        ("FLASH_MOE_IO", "mmap"),
        ("FLASH_MOE_IO_SPLIT", "all"),
        ("FLASH_MOE_CACHE_POLICY", "fifo"),
    ],
)
def test_the_environment_is_parsed_strictly(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[env\] {name}: expected .*, got '{text}'"):
        read_environment({name: text})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["cache_gb", "memory_gb"])
def test_the_budget_is_a_positive_number(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a positive number"):
        RuntimeConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=name):
        runtime_config(read_environment({f"FLASH_MOE_{name.upper()}": str(value)}))


def test_cache_gb_and_memory_gb_are_one_choice() -> None:
    both = Environment(cache_gb=1.0, memory_gb=2.0)
    with pytest.raises(ConfigError, match=r"cache_gb and memory_gb: expected one.*1\.0 and 2\.0"):
        runtime_config(Environment(), cache_gb=1.0, memory_gb=2.0)
    with pytest.raises(ConfigError, match="cache_gb and memory_gb"):
        runtime_config(both)

    def merged(environment: Environment, **arguments: float) -> tuple[Any, Any]:
        config = runtime_config(environment, **arguments)  # type: ignore[arg-type]
        return config.cache_gb, config.memory_gb

    assert merged(Environment(memory_gb=2.0), cache_gb=1.0) == (1.0, None)
    assert merged(Environment(cache_gb=1.0), memory_gb=2.0) == (None, 2.0)
    assert merged(both, memory_gb=3.0) == (None, 3.0)
    assert merged(Environment(memory_gb=2.0)) == (None, 2.0)
    assert merged(Environment(cache_gb=1.0)) == (1.0, None)


@pytest.mark.parametrize("value", [0, -3, MAX_IO_THREADS + 1])
def test_the_number_of_threads_is_sane(value: int) -> None:
    with pytest.raises(ConfigError, match=f"io_threads: expected 1 to {MAX_IO_THREADS}"):
        RuntimeConfig(io_threads=value)


@pytest.mark.parametrize("option", [{"io": "mmap"}, {"io": ""}, {"io_split": 0}, {"io_split": 65}])
def test_how_to_read_is_sane(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=f"{name}: expected"):
        RuntimeConfig(**option)


@pytest.mark.parametrize("value", ["LRU", "", "fifo", 1])
def test_the_cache_policy_is_one_there_is(value: Any) -> None:
    with pytest.raises(ConfigError, match="cache_policy: expected one of lru, lrfu, got"):
        RuntimeConfig(cache_policy=value)
    assert tuple(POLICIES) == CACHE_POLICIES


def test_arguments_for_traces() -> None:
    config = runtime_config(Environment(cache_policy="lrfu"), trace="~/a", trace_events=Path("b"))
    assert config == RuntimeConfig(
        cache_policy="lrfu", trace=Path("~/a").expanduser(), trace_events=Path("b")
    )
    with pytest.raises(ConfigError, match="expected two files, got b twice"):
        runtime_config(Environment(), trace="b", trace_events="b")


@pytest.mark.parametrize("value", ["on", "", "AUTO", True])
def test_the_kernels_option_is_one_of_three(value: Any) -> None:
    with pytest.raises(ConfigError, match="kernels: expected one of auto, off, require, got"):
        RuntimeConfig(kernels=value)


def test_arguments_win_over_the_environment() -> None:
    environment = Environment(
        1.0, top_k=2, io_threads=3, verify_reads=True, kernels="off", io="direct", io_split=2
    )
    reads: dict[str, Any] = {"io": "direct", "io_split": 2}
    assert runtime_config(environment) == RuntimeConfig(1.0, 2, 3, True, "off", **reads)
    reads = {"io": "cached", "io_split": 1}
    merged = runtime_config(
        environment,
        cache_gb=9.0,
        top_k=8,
        io_threads=7,
        verify_reads=False,
        kernels="require",
        **reads,
    )
    assert merged == RuntimeConfig(9.0, 8, 7, False, "require", **reads)
    assert runtime_config(Environment()) == RuntimeConfig() == RuntimeConfig(kernels="auto")


def moe(**fields: Any) -> dict[str, Any]:
    return {"model_type": "m", "num_experts": 8, "num_experts_per_tok": 2, **fields}


@pytest.mark.parametrize("top_k", [0, -1, 9])
def test_top_k_is_checked_against_the_model(top_k: int) -> None:
    with pytest.raises(ConfigError, match="top_k: expected 1 to 8"):
        RuntimeConfig(top_k=top_k).checked_for(model_config(moe()))
    assert RuntimeConfig(top_k=8).checked_for(model_config(moe())).top_k == 8


def test_model_configs() -> None:
    flat = model_config(moe(max_position_embeddings=99))
    assert flat == ModelConfig(flat.raw, "m", 8, 2, "num_experts_per_tok", False, 99)
    assert flat.override(2) == flat.override(None) == {}
    assert flat.override(3) == {"num_experts_per_tok": 3}
    nested = model_config({"model_type": "m", "text_config": moe(hidden_size=1)})
    assert (nested.nested, nested.n_experts, nested.max_context) == (True, 8, None)
    assert nested.override(1)["text_config"] == moe(hidden_size=1, num_experts_per_tok=1)
    with pytest.raises(NotMoEError, match="without experts"):
        model_config({"model_type": "llama", "num_experts": 0})
    with pytest.raises(UnsupportedModelError, match="none of the known names"):
        model_config({"model_type": "m", "num_experts": 8})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": 3}', "\0"])
def test_a_config_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        read_config(tmp_path)
    with pytest.raises(ModelNotFoundError, match="not a directory"):
        read_config(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps(moe()))
    assert read_config(tmp_path) == moe()
