"""What fails while answers are generated ends those answers, and nothing else."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from flash_moe.demo_model import STORE
from tests.support.live_server import Live
from tests.support.timeout import TIMEOUT_S

HELLO = [{"role": "user", "content": "Hello, who are you?"}]


def test_a_failed_read_ends_its_answers_and_the_server_goes_on(tmp_path: Path) -> None:
    store = Path(shutil.copytree(STORE, tmp_path / "store"))
    files = {file: file.read_bytes() for file in (store / "experts").iterdir()}
    server = Live(tmp_path / "log", "--verify-reads", model=str(store))
    try:
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=TIMEOUT_S
        ) as client:

            def ask(_: int = 0, **options: Any) -> Any:
                return client.chat.completions.create(
                    model="store", messages=HELLO, max_tokens=16, **options
                )

            expected = ask().choices[0].message
            for file, good in files.items():
                file.write_bytes(bytes(len(good)))
            with ThreadPoolExecutor(2) as threads:
                failed = [threads.submit(ask) for _ in range(2)]
                for each in failed:
                    error = each.exception()
                    assert isinstance(error, openai.InternalServerError)
                    assert error.status_code == 500
                    assert "checksum" in str(error)
            with pytest.raises(openai.APIError, match="checksum"):
                list(ask(stream=True))
            events: list[Any] = []
            stream = client.responses.create(model="store", input="Hello", stream=True)
            with pytest.raises(openai.APIError, match="checksum"):
                events.extend(stream)
            assert events[-1].type == "response.failed"
            assert "checksum" in events[-1].response.error.message
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert server.healthy()
            for file, good in files.items():
                file.write_bytes(good)
            again = ask().choices[0].message
            assert (again.content, again.reasoning) == (expected.content, expected.reasoning)
            assert server.metric("requests_running") == 0
        assert server.stop() == 0
    finally:
        server.close()
