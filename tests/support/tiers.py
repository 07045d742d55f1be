"""Tiers of the suite: tests that start a process, use a compiler or run for long.

``conftest.py`` takes the hooks of pytest from here. Where the code of a test shows what it does,
no decorator is needed: a test is marked when it, one of its fixtures or a helper of ``tests/``
that they name leads to `STARTERS`: ``kernel`` by way of the Metal emulator, ``process`` otherwise.
Where only the package shows it (a tool that runs a shell), the file says ``pytest.mark.process``.

A guard keeps this true in every run: a test without one of these marks that starts a process fails.
"""

from __future__ import annotations

import functools
import inspect
import platform
import sys
from collections.abc import Generator, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

MARKERS = {
    "process": "starts a process",
    "kernel": "compiles Metal kernels for the CPU with clang",
    "slow": "runs models for long",
}
# What starts processes, by the name of its package.
STARTERS = {
    "os": {"fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen"},
    "pty": {"fork", "spawn"},
    "subprocess": {"Popen", "run", "call", "check_call", "check_output"},
    "multiprocessing": {"Process", "Pool", "get_context"},
    "pexpect": {"spawn"},
    "nbclient": {"NotebookClient"},
}
EMULATOR = "tests.support.metal_emulator"

# Tests that run models for long, by the beginning of their path. Single ones have the mark.
SLOW = tuple(
    f"tests/{path}"
    for path in (
        "chat/test_autosave.py",
        "chat/test_sessions_terminal.py",
        "cli/test_demo.py",
        "cli/test_doctor.py",
        "cli/test_eval.py",
        "cli/test_plan.py",
        "eval/test_answers.py",
        "eval/test_demo_model.py",
        "eval/test_evaluation.py",
        "eval/test_logits.py",
        "eval/test_plot.py",
        "generation/test_conversation.py",
        "generation/test_engine",
        "generation/test_generate.py",
        "generation/test_output_spec.py",
        "generation/test_prompt_cache_dir.py",
        "generation/test_prompt_caches_killed.py",
        "generation/test_thinking_limit.py",
        "generation/test_turn_cache.py",
        "grammar/test_calls.py",
        "grammar/test_model.py",
        "hub/test_plan.py",
        "hub/test_repair.py",
        "lab/test_lab.py",
        "memory/test_prefill_workspace.py",
        "model/test_architectures.py",
        "model/test_bytes_read.py",
        "model/test_embedding.py",
        "model/test_faults.py",
        "model/test_fence.py",
        "model/test_goldens.py",
        "model/test_layer_pass.py",
        "model/test_memory_gb.py",
        "model/test_memory_of_families.py",
        "model/test_memory_shrinks.py",
        "model/test_padded_batches.py",
        "model/test_prefill.py",
        "model/test_traces.py",
        "pack/sources/test_hf.py",
        "pack/sources/test_requantized.py",
        "server/test_stats.py",
        "ranks/test_serve_and_chat.py",
        "ranks/test_two_ranks.py",
        "test_docs.py::test_python_block",
    )
)

# Audit events of Python; see the table in its documentation.
_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"}
_FONTS = {"fc-list", "system_profiler"}  # matplotlib lists fonts at its first use on a machine


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    platform.processor()  # starts `uname`, once a process
    sys.addaudithook(_guard.audit)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in marks_of(item):
            item.add_marker(name)
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    allowed = any(item.get_closest_marker(name) for name in ("process", "kernel"))
    _guard.watch(None if allowed else item.nodeid)
    try:
        return (yield)
    finally:
        _guard.watch(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    result = yield
    _guard.check()  # the test may have caught the error
    return result


class Guard:
    """Fails tests that start a process without the mark for it."""

    def __init__(self) -> None:
        self.test: str | None = None
        self.found = ""

    def watch(self, test: str | None) -> None:
        self.test, self.found = test, ""

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        command = arguments[0] if arguments else ""
        if event in _EVENTS and self.test is not None and command not in _FONTS:
            self.found = (
                f"{self.test} starts a process ({event} {command}) and "
                "is in the fast tier. Run the command in this process (tests.support.processes."
                "in_process), or mark the test: @pytest.mark.process"
            )
            self.check()

    def check(self) -> None:
        if self.found:
            pytest.fail(self.found, pytrace=False)


_guard = Guard()


def marks_of(item: pytest.Item) -> set[str]:
    """``process`` and ``kernel``, where the code of a test shows that it needs them."""
    if not isinstance(item, pytest.Function):
        return set()
    definitions = item._fixtureinfo.name2fixturedefs.values()
    functions = [definition.func for several in definitions for definition in several]
    if hasattr(item, "callspec"):
        functions += [value for value in item.callspec.params.values() if callable(value)]
    return {name for f in (item.function, *functions) for name in _marks(inspect.unwrap(f))}


@functools.cache
def _marks(root: Any) -> frozenset[str]:
    found: set[str] = set()
    seen: set[int] = set()
    todo = [root]
    while todo:
        value = inspect.unwrap(todo.pop())
        value = getattr(value, "__func__", value)  # of a method
        if id(value) in seen:
            continue
        seen.add(id(value))
        module = getattr(value, "__module__", None) or ""
        if isinstance(value, type) and module.startswith("tests."):
            parts = (part for kind in value.__mro__ for part in vars(kind).values())
            todo += [p.fget if isinstance(p, property) else p for p in parts if p is not None]
        elif isinstance(value, FunctionType) and module.startswith("tests."):
            named = list(_named(value))
            todo += named
            if any(_starts(other) for other in named):
                found.add("kernel" if module.startswith(EMULATOR) else "process")
    return frozenset(found)


def _named(function: FunctionType) -> Iterator[Any]:
    """The objects that a function names: globals, their attributes, and what it closes over."""
    for code in _codes(function.__code__):
        for name in code.co_names:
            value = function.__globals__.get(name)
            yield value
            if isinstance(value, ModuleType):
                yield from (vars(value)[other] for other in code.co_names if other in vars(value))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _starts(value: Any) -> bool:
    package = (getattr(value, "__module__", None) or "").partition(".")[0]
    return getattr(value, "__name__", "") in STARTERS.get({"posix": "os"}.get(package, package), ())
