"""A restarted server continues from the prompt caches on disk; others share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flash_moe.generation.cache_files import cache_files
from tests.support.live_server import Live
from tests.support.processes import in_process

SYSTEM = {"role": "system", "content": "You are a helpful assistant. " * 16}


def ask(server: Live, messages: list[dict[str, Any]]) -> tuple[str, int, int]:
    """The answer, the prompt tokens, and how many of them were cached."""
    body = {"messages": messages, "max_tokens": 12, "chat_template_kwargs": THINK}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200, answer
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], cached


THINK = {"enable_thinking": False}


def test_a_restarted_server_prefills_what_is_new(tmp_path: Path) -> None:
    directory = tmp_path / "caches"
    flags = ("--prompt-cache-dir", str(directory), "--prompt-cache-disk-gb", "1")
    messages = [SYSTEM, {"role": "user", "content": "How much is 2 + 3?"}]
    first = Live(tmp_path / "log", *flags)
    try:
        text, n_first, cached = ask(first, messages)
        assert cached == 0
        assert first.stop() == 0, first.said()
    finally:
        first.close()
    turns = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": "Why?"}]
    second = Live(tmp_path / "log2", *flags)
    try:
        again = ask(second, turns)
        n_new = again[1] - again[2]
        assert n_new < 40 < n_first
        assert second.metric("prompt_cache_disk_hits_total") == 1
        assert second.metric("prompt_cache_disk_tokens_total") == again[2]
        assert second.metric("prompt_cache_disk_bytes") > 0
        # Another conversation with the same system prompt, and the Anthropic field.
        other = {"role": "user", "content": "Who are you?"}
        assert ask(second, [SYSTEM, other])[2] > n_first / 2
        body = {"model": "demo", "max_tokens": 3, "system": SYSTEM["content"], "messages": [other]}
        status, answer = second.post("/v1/messages", body)
        assert status == 200
        assert answer["usage"]["cache_read_input_tokens"] > n_first / 2
    finally:
        second.close()  # killed
    fresh = Live(tmp_path / "log3", "--prompt-cache-disk-gb", "0")
    try:
        assert ask(fresh, turns) == (again[0], again[1], 0)
        assert fresh.stop() == 0
    finally:
        fresh.close()
    listed = in_process("caches", "--prompt-cache-dir", directory)
    assert listed.returncode == 0
    n_files = len(cache_files(directory))
    assert f"{n_files} prompt caches in {directory}" in listed.stderr
    assert "demo_model/store" in listed.stdout.replace("\n", "")
    wrong = in_process("caches", "--prompt-cache-dir", directory, "--delete", "x")
    assert wrong.returncode == 1
    assert "no prompt caches 'x'" in wrong.stderr
    name = listed.stdout.splitlines()[1].split()[0]
    deleted = in_process("caches", "--prompt-cache-dir", directory, "--delete", name)
    assert deleted.stdout.startswith(f"deleted {n_files} prompt caches")
    assert cache_files(directory) == []


def test_a_directory_that_cannot_be_written_is_a_line_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    flags = ("--prompt-cache-dir", str(tmp_path / "file" / "d"), "--prompt-cache-disk-gb", "1")
    server = Live(tmp_path / "log", *flags)
    try:
        assert ask(server, [SYSTEM, {"role": "user", "content": "Hello"}])[0]
        assert "prompt caches are not kept on disk" in server.said()
    finally:
        server.close()


def test_two_servers_share_a_directory(tmp_path: Path) -> None:
    flags = ("--prompt-cache-dir", str(tmp_path / "caches"), "--prompt-cache-disk-gb", "1")
    messages = [SYSTEM, {"role": "user", "content": "Hello"}]
    servers: list[Live] = []
    try:
        for n in range(2):
            servers.append(Live(tmp_path / f"log{n}", *flags))
        text = ask(servers[0], messages)[0]
        servers[0].wait_for(lambda: len(cache_files(tmp_path / "caches")) >= 2)
        other, n_prompt, cached = ask(servers[1], messages)
        assert other == text
        assert cached > n_prompt / 2
    finally:
        for server in servers:
            server.close()
