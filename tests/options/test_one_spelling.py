"""Every option has one spelling: signature, help, environment and docs come from its field."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flash_moe
from flash_moe.env import Environment, read_environment
from flash_moe.errors import ConfigError
from flash_moe.generation.conversation import Conversation, ConversationOptions
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.tool_loop import ToolLoopOptions, converse
from flash_moe.options.declare import Declared, accepts, declared
from flash_moe.options.loading import LoadOptions
from flash_moe.options.prompt_cache import PromptCacheOptions
from flash_moe.options.sampling import SamplingParams
from tests.support.processes import ROOT, in_process

SIGNATURES: list[tuple[Callable[..., Any], type]] = [
    (flash_moe.load, LoadOptions),
    (flash_moe.FlashMoE.generate, GenerationOptions),
    (flash_moe.FlashMoE.stream, GenerationOptions),
    (Conversation.__init__, ConversationOptions),
    (converse, ToolLoopOptions),
]
COMMANDS = {
    "generate": (LoadOptions, GenerationOptions),
    "chat": (LoadOptions, GenerationOptions),
    "serve": (LoadOptions, SamplingParams),
    "eval": (LoadOptions,),
}


@pytest.mark.parametrize(("function", "options"), SIGNATURES)
def test_signatures_and_help_have_every_option(function: Callable[..., Any], options: type) -> None:
    parameters = inspect.signature(function).parameters
    assert function.__doc__
    for name, each in declared(options).items():
        assert parameters[name].default == each.default
        assert f"    {name}: {each.help}." in function.__doc__
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_commands_has_every_flag(command: str) -> None:
    text = in_process(command, "--help", columns=10_000).stdout  # no line is cut
    for options in COMMANDS[command]:
        for name, each in declared(options).items():
            if not each.option.flags or (command, name) in LEFT_OUT:
                continue
            assert each.option.flags[0] in text
            assert each.help in text


# eval takes a list of numbers of experts, and seeds and stop texts belong to one request.
LEFT_OUT = {("eval", "top_k"), ("serve", "seed"), ("serve", "stop")}


def example(each: Declared) -> str:
    if each.option.choices:
        return each.option.choices[-1]
    return {bool: "1", int: "2", float: "2.5"}.get(each.kind, "there")


@pytest.mark.parametrize("options", [LoadOptions, Environment])
def test_every_variable_is_read(options: type) -> None:
    for name, each in declared(options).items():
        found = read_environment({each.variable: example(each)})
        value = found.load.get(name) if options is LoadOptions else getattr(found, name)
        assert value == (each.parse(example(each)) if each.option.env else None)


def test_the_docs_have_every_option() -> None:
    """``docs/options.md`` is written by a script; a changed field makes it stale."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "options_table.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (ROOT / "docs" / "options.md").read_text()
    for options in (LoadOptions, ConversationOptions, Environment):
        for name, each in declared(options).items():
            assert f"`{name}`" in text
            assert f"`{each.variable}`" in text or not each.option.env


def test_the_readme_names_only_variables_that_exist() -> None:
    classes = (LoadOptions, PromptCacheOptions, Environment)
    known = {e.variable for o in classes for e in declared(o).values()}
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert set(re.findall(r"FLASH_MOE_[A-Z_]+[A-Z]", file.read_text())) <= known


USER = """
from flash_moe import Conversation, load
from flash_moe.tools import tool

@tool
def add(a: int, b: int) -> int:
    "Add."
    return a + b

with load("demo", cache_gb=1, kernels="off") as flash:
    answer = flash.generate("Hi", max_tokens=3, temperature=0.5, stop=["x"])
    text: str = answer.text
    tokens: tuple[int, ...] = answer.token_ids
    speed: float = answer.stats.generation_tps
    for chunk in flash.model.stream([{"role": "user", "content": "Hi"}], seed=1, tools=[add]):
        piece: str = chunk.text
    talk = Conversation(flash, [add], system="Be brief.", max_rounds=2, top_p=0.9)
    for event in talk.ask("What is 2 + 3?"):
        print(event)
"""


def test_a_users_program_passes_mypy(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    wrong = USER.replace("max_tokens=3", 'max_tokens="3", top=1')
    (tmp_path / "wrong.py").write_text(wrong)

    # With the options of pyproject.toml, so that the cache of `make lint` serves.
    command = [sys.executable, "-m", "mypy", tmp_path / "user.py", tmp_path / "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    errors = done.stdout
    assert "(checked 2 source files)" in errors
    assert "user.py" not in errors
    assert '"max_tokens" to "generate" of "FlashMoE" has incompatible type "str"' in errors
    assert 'Unexpected keyword argument "top"' in errors


@accepts(SamplingParams)
def sample(prompt: str, options: SamplingParams) -> tuple[str, SamplingParams]:
    """Do nothing.

    Args:
        prompt: A text.

    Returns:
        Both.
    """
    return prompt, options


def test_arguments_become_options() -> None:
    assert sample("a") == ("a", SamplingParams())
    given: Any = {"prompt": "a", "top_k": 3, "temperature": None}
    assert sample(**given) == ("a", SamplingParams(top_k=3))
    with pytest.raises(TypeError, match=r"sample\(\) got an unexpected keyword argument 'topk'"):
        sample("a", topk=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"sample\(\) missing a required argument: 'prompt'"):
        sample()  # type: ignore[call-arg]
    assert sample.__doc__ is not None
    lines = sample.__doc__.splitlines()
    assert lines[2:4] == ["Args:", "    prompt: A text."]
    assert lines[-2:] == ["Returns:", "    Both."]


def test_a_spelling_of_before_still_works() -> None:
    old: Any = {"repetition_context": 7}
    with pytest.warns(DeprecationWarning, match="repetition_context is now"):
        assert sample("a", **old)[1].repetition_context_size == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_tokens", v) for v in (0, -1, 2.5, "3", True)),
        *(("temperature", v) for v in (-0.1, float("nan"), float("inf"), "1")),
        *(("top_p", v) for v in (-0.1, 1.1)),
        *(("top_k", v) for v in (-1, 2.0)),
        *(("min_p", v) for v in (-1, 2)),
        ("repetition_penalty", -0.5),
        ("presence_penalty", 2.5),
        ("seed", "x"),
        ("max_thinking_tokens", -1),
    ],
)
def test_sampling_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"\[sampling\] {name}: expected .+, got"):
        SamplingParams(**{name: value})
