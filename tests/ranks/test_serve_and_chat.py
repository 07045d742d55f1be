"""``flash-moe serve`` and ``chat`` on two ranks: rank 0 answers, the other follows."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

from flash_moe import load
from flash_moe.ranks.watchdog import EXIT_CODE
from tests.support.processes import COMMAND
from tests.support.rank_group import Group, group
from tests.support.timeout import TIMEOUT_S, wait_until

FLAGS = ("--cache-gb", "0.003", "--peer-timeout", "20")
N_TOKENS = 8


def url_of(ranks: Group) -> str:
    wait_until(lambda: "/v1 (" in ranks.said(0) or ranks.processes[0].poll() is not None)
    found = re.search(r"(http://\S+)/v1 ", ranks.said(0))
    assert found, ranks.said(0) + ranks.said(1)
    return found[1]


def ask(url: str, content: str, n: int = N_TOKENS, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": n, **more}
    body |= {"chat_template_kwargs": {"enable_thinking": False}}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def leave_in_mid_stream(url: str) -> None:
    """Close the connection after the first piece of a long answer."""
    body = {"messages": [{"role": "user", "content": "long"}], "max_tokens": 4000, "stream": True}
    body |= {"logit_bias": {"511": -100}}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        answer.readline()


def test_a_server(wide: Path, tmp_path: Path) -> None:
    questions = [f"question {n}" for n in range(3)]
    with load(wide / "whole", cache_gb=0.006) as flash:
        thinking = {"enable_thinking": False}
        expected = [
            flash.generate(
                [{"role": "user", "content": q}], max_tokens=N_TOKENS, template_args=thinking
            ).text
            for q in questions
        ]
    command = (*COMMAND, "serve", wide / "parts", "--port", "0", *FLAGS)
    caches = ("--prompt-cache-dir", tmp_path / "caches", "--prompt-cache-disk-gb", "1")
    with group(2, *command, *caches, files=tmp_path / "run") as ranks:
        url = url_of(ranks)
        if sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:  # the ring spins
            tasks = Path(f"/proc/{ranks.processes[0].pid}/task").iterdir()
            assert 19 in {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks}
        answers: dict[str, str] = {}
        threads = [
            threading.Thread(target=lambda q=q: answers.update({q: text(ask(url, q))}))
            for q in questions
        ]
        for thread in threads:
            thread.start()
        leave_in_mid_stream(url)
        for thread in threads:
            thread.join()
        assert [answers[q] for q in questions] == expected
        schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
        schema |= {"additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        made = ask(url, "json", 64, response_format=form, temperature=1.0)
        assert json.loads(text(made)) == {"a": 1}
        again = ask(url, questions[0])
        assert text(again) == expected[0]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT_S) as page:
            metrics = page.read().decode()
        read = re.findall(r'rank_expert_bytes_read_total\{rank="\d"\} (\S+)', metrics)
        assert len(read) == 2
        assert read[0] == read[1] != "0.0"
        # A rank dies; the other ends with a sentence, because the group cannot be used again.
        os.kill(ranks.processes[1].pid, signal.SIGKILL)
        assert ranks.wait(0) == [EXIT_CODE]
        assert "flash-moe: rank 0: [ranks] the connection to the other ranks is lost" in (
            ranks.said(0)
        )


def test_a_chat_and_its_end(wide: Path, tmp_path: Path) -> None:
    command = (*COMMAND, "chat", wide / "parts", "-n", "8", "--tools", "none", *FLAGS)
    (tmp_path / "lines").write_text("first question\n\nsecond question\n/stats\n")
    with (
        (tmp_path / "lines").open("rb") as lines,
        group(2, *command, files=tmp_path / "run", stdin=lines) as ranks,
    ):
        assert ranks.wait() == [0, 0], ranks.said(0) + ranks.said(1)
    assert ranks.out(1) == ""
    assert "all turns     2: " in ranks.said(0)
