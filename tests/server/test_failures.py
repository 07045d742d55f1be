"""What fails while answers are generated ends those answers, and nothing else."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import openai
import pytest

from flash_moe import FlashMoE
from flash_moe.compat.mlx_lm import server_module
from flash_moe.demo_model import STORE
from flash_moe.errors import GrammarError
from flash_moe.grammar import json_schema
from flash_moe.server.engine.arguments import Arguments
from flash_moe.server.engine.generator import PromptCaches
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
            assert server.healthy()
            for file, good in files.items():
                file.write_bytes(good)
            again = ask().choices[0].message
            assert (again.content, again.reasoning) == (expected.content, expected.reasoning)
            assert server.metric("requests_running") == 0
        assert server.stop() == 0
    finally:
        server.close()


def test_an_error_of_a_constraint_stays_with_its_request(alone: FlashMoE) -> None:
    """It would otherwise end all answers of the batch."""
    mlx = server_module()
    errors: list[Exception] = []
    args = Arguments(
        *(None, None, None, [], 8, 0, False, 0, None, None),
        constraint=json_schema(alone.tokenizer, {"type": "integer"}),
        failed=errors.append,
    )
    processor = args.processor()
    size = alone.model.config.vocab_size
    assert size
    logits, wrong = mx.zeros((1, size)), alone.tokenizer.encode("x")[0]
    masked = processor(mx.array([1]), logits)
    assert masked[0, wrong].item() == -mx.inf
    assert errors == []
    for _ in range(2):
        assert mx.array_equal(processor(mx.array([1, wrong]), logits), logits)
    assert [type(error) for error in errors] == [GrammarError]
    assert issubclass(Arguments, mlx.GenerationArguments)


class Kept:
    """Stands for a layer's cache: it is kept, copied and cannot be trimmed."""

    nbytes = 100

    def is_trimmable(self) -> bool:
        return False


@pytest.mark.parametrize("held", [[1], [1, 2, 3], [1, 2, 3, 4]])
def test_prompt_caches_leave_a_token(held: list[int]) -> None:
    caches = PromptCaches(max_size=4, max_bytes=1000)
    caches.insert_cache("model", held, [Kept()])
    cache, rest = caches.fetch_nearest_cache("model", [1, 2, 3, 4])
    assert rest
    assert [*range(1, 5 - len(rest)), *rest] == [1, 2, 3, 4]
    assert (cache is None) == (len(rest) == 4)
