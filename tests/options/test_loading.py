"""Options of load(): ranges, the environment, and arguments that win over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flash_moe.env import Environment, read_environment
from flash_moe.errors import ConfigError
from flash_moe.options.loading import CACHE_POLICIES, MAX_IO_THREADS, LoadOptions
from flash_moe.stream.policy import POLICIES


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
        "FLASH_MOE_LOOKAHEAD": "0",
        "FLASH_MOE_PRELOAD": "1",
        "FLASH_MOE_MEMORY_GB": "40",
        "FLASH_MOE_API_KEY": "k",
    }
    load = {
        "cache_gb": 2.5,
        "memory_gb": 40.0,
        "top_k": 4,
        "cache_policy": "lrfu",
        "lookahead": False,
        "preload": True,
        "io": "direct",
        "io_threads": 16,
        "io_split": 4,
        "verify_reads": True,
        "kernels": "require",
    }
    assert read_environment(full) == Environment(
        load, api_key="k", kernel_dir=Path("~/kernels").expanduser()
    )
    assert "secret" not in repr(read_environment({"FLASH_MOE_API_KEY": "secret"}))
    assert read_environment({"FLASH_MOE_VERIFY_READS": "False"}).load == {"verify_reads": False}


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
    with pytest.raises(ConfigError, match=rf"\[env\] {name}: expected .+, got '{text}'"):
        read_environment({name: text})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(
            (name, value, "a positive number")
            for name in ("cache_gb", "memory_gb")
            for value in (0, -1, float("nan"), float("inf"), "8", True)
        ),
        *(("io_threads", n, f"1 to {MAX_IO_THREADS}") for n in (0, -3, MAX_IO_THREADS + 1, 2.0)),
        *(("io", text, "one of buffered, direct") for text in ("mmap", "")),
        *(("io_split", n, "1 to 64") for n in (0, 65)),
        *(("cache_policy", v, "one of lru, lrfu") for v in ("LRU", "", "fifo", 1)),
        *(("kernels", v, "one of auto, off, require") for v in ("on", "", "AUTO", True)),
        ("lookahead", 1, "True or False"),
        ("preload", 1, "True or False"),
    ],
)
def test_values_out_of_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected {expected}, got"):
        LoadOptions(**{name: value})


def test_the_old_value_of_io() -> None:
    line = "^flash_moe: io: cached is now buffered$"
    with pytest.warns(FutureWarning, match=line):
        assert LoadOptions(io="cached") == LoadOptions(io="buffered")
    with pytest.warns(FutureWarning, match=line):
        environment = read_environment({"FLASH_MOE_IO": "Cached"}).load
    assert LoadOptions.merged(environment).io == "buffered"


def test_the_cache_policies_are_those_there_are() -> None:
    assert tuple(POLICIES) == CACHE_POLICIES


def test_cache_gb_and_memory_gb_are_one_choice() -> None:
    both = {"cache_gb": 1.0, "memory_gb": 2.0}
    with pytest.raises(ConfigError, match=r"cache_gb and memory_gb: expected one.*1\.0 and 2\.0"):
        LoadOptions.merged({}, both)
    with pytest.raises(ConfigError, match="cache_gb and memory_gb"):
        LoadOptions.merged(both)

    def merged(environment: dict[str, float], **arguments: float) -> tuple[Any, Any]:
        options = LoadOptions.merged(environment, arguments)
        return options.cache_gb, options.memory_gb

    assert merged({"memory_gb": 2.0}, cache_gb=1.0) == (1.0, None)
    assert merged({"cache_gb": 1.0}, memory_gb=2.0) == (None, 2.0)
    assert merged(both, memory_gb=3.0) == (None, 3.0)
    assert merged({"memory_gb": 2.0}) == (None, 2.0)
    assert merged({"cache_gb": 1.0}) == (1.0, None)


def test_arguments_win_over_the_environment() -> None:
    environment = {"cache_gb": 1.0, "top_k": 2, "verify_reads": True, "kernels": "off"}
    assert LoadOptions.merged(environment) == LoadOptions(**environment)  # type: ignore[arg-type]
    arguments = {"cache_gb": 9.0, "top_k": None, "verify_reads": False, "kernels": "require"}
    assert LoadOptions.merged(environment, arguments) == LoadOptions(
        cache_gb=9.0, top_k=2, verify_reads=False, kernels="require"
    )
    assert LoadOptions.merged({}) == LoadOptions() == LoadOptions(kernels="auto")


def test_files_for_traces() -> None:
    options = LoadOptions(trace="~/a", trace_events=Path("b"))
    assert (options.trace, options.trace_events) == (Path("~/a").expanduser(), Path("b"))
    with pytest.raises(ConfigError, match="expected two files, got b twice"):
        LoadOptions(trace="b", trace_events="b")
