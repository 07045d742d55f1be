"""In an app: threads, interleaved generations, several models, interrupts, closing, garbage."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from flash_moe import load
from flash_moe.errors import ClosedError
from flash_moe.store.reader import RecordReader
from flash_moe.stream.bank import ExpertBank
from tests.support.effort import repetitions
from tests.support.interrupts import at_most, interrupted
from tests.support.processes import run_python
from tests.support.resident import budget_gb, prompt_ids


def reader_threads() -> int:
    return sum(t.name.startswith("flash-moe-reader") for t in threading.enumerate())


def test_another_thread_than_the_one_that_loaded(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        here = flash.generate(prompt_ids(20), max_tokens=8).token_ids
        with ThreadPoolExecutor(1) as pool:
            there = pool.submit(flash.generate, prompt_ids(20), max_tokens=8).result()
            sampled = pool.submit(
                flash.generate, prompt_ids(20), max_tokens=8, temperature=1.0, seed=1
            ).result()
        assert there.token_ids == here
        again = flash.generate(prompt_ids(20), max_tokens=8, temperature=1.0, seed=1)
        assert sampled.token_ids == again.token_ids


def test_loaded_in_a_thread_that_ended(tiny_store: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        flash = pool.submit(load, tiny_store, cache_gb=budget_gb(tiny_store, "token")).result()
    with flash, load(tiny_store, cache_gb=0.1) as other:
        expected = other.generate(prompt_ids(20), max_tokens=8).token_ids
        assert flash.generate(prompt_ids(20), max_tokens=8).token_ids == expected


def test_two_threads_at_once(tiny_store: Path) -> None:
    prompts = [prompt_ids(20, seed) for seed in range(4)]
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        alone = [flash.generate(p, max_tokens=8).token_ids for p in prompts]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda p: flash.generate(p, max_tokens=8).token_ids, prompts))
    assert together == alone


def test_interleaved_in_one_thread(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        alone = [flash.generate(prompt_ids(9, s), max_tokens=6).token_ids for s in (0, 1)]
        streams = [flash.stream(prompt_ids(9, s), max_tokens=6) for s in (0, 1)]
        together = list(zip(*streams, strict=True))
    assert [tuple(c[i].token for c in together) for i in (0, 1)] == alone


def test_an_asyncio_app(tiny_store: Path) -> None:
    """As in docs/embedding.md: pieces cross from a worker thread into the event loop."""
    flash = load(tiny_store, cache_gb=budget_gb(tiny_store, "token"))

    async def pieces(prompt: list[int]) -> list[int]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()

        def work() -> None:
            for chunk in flash.stream(prompt, max_tokens=6):
                loop.call_soon_threadsafe(queue.put_nowait, chunk.token)
            loop.call_soon_threadsafe(queue.put_nowait, None)

        task = asyncio.create_task(asyncio.to_thread(work))
        tokens = []
        while (token := await queue.get()) is not None:
            tokens.append(token)
        await task
        return tokens

    async def main() -> list[list[int]]:
        return await asyncio.gather(pieces(prompt_ids(9)), pieces(prompt_ids(9, 1)))

    found = asyncio.run(main())
    assert found == [list(flash.generate(prompt_ids(9, s), max_tokens=6).token_ids) for s in (0, 1)]
    flash.close()


def test_two_models_at_once(tiny_store: Path, tiny_mlx: Path) -> None:
    with (
        load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as a,
        load(tiny_mlx, cache_gb=budget_gb(tiny_mlx, "half"), top_k=2) as b,
    ):
        first = a.generate(prompt_ids(9), max_tokens=6).token_ids
        other = b.generate(prompt_ids(9), max_tokens=6).token_ids
        assert a.generate(prompt_ids(9), max_tokens=6).token_ids == first != other


def test_interrupt_in_the_middle(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a read runs: the generation ends, the read is waited for, the model works."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        expected = flash.generate(prompt_ids(37), max_tokens=8).token_ids
        running, strike = threading.Event(), threading.Event()
        unfinished = []
        original = RecordReader.read

        def slow(self: RecordReader, layer: int, expert: int, record: memoryview) -> int:
            if not strike.is_set() and layer == 3:
                running.set()
                strike.wait(30)
                unfinished.append(threading.current_thread().name)
                time.sleep(0.05)  # the interrupt comes first
                unfinished.pop()
            return original(self, layer, expert, record)

        def interrupt() -> None:
            running.wait(30)
            signal.raise_signal(signal.SIGINT)
            strike.set()

        monkeypatch.setattr(RecordReader, "read", slow)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            flash.generate(prompt_ids(40, 5), max_tokens=8)
        assert unfinished == []  # no thread still writes to a slot
        thread.join()
        assert flash.generate(prompt_ids(37), max_tokens=8).token_ids == expected


def test_interrupts_at_random_moments(tiny_store: Path) -> None:
    """A timer strikes anywhere in a forward pass; afterwards the tokens are right."""
    running, struck = False, 0

    def strike(*_: Any) -> None:
        if running:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
            expected = flash.generate(prompt_ids(37), max_tokens=4).token_ids
            for delay in range(1, 40, repetitions(6, full=2)):
                try:
                    running = True
                    signal.setitimer(signal.ITIMER_REAL, delay / 1000)
                    flash.generate(prompt_ids(60, delay), max_tokens=4)
                    running = False
                except KeyboardInterrupt:
                    running = False
                    struck += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert flash.generate(prompt_ids(37), max_tokens=4).token_ids == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert struck > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_twice(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes at each moment of the recovery from the first."""
    recover, came_twice = ExpertBank.recover, False
    second = 1

    def interrupted_recover(bank: ExpertBank) -> None:
        nonlocal came_twice
        with interrupted(second) as came:
            try:
                recover(bank)
            finally:
                came_twice = came()

    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        expected = flash.generate(prompt_ids(9), max_tokens=2).token_ids
        while second == 1 or came_twice:
            monkeypatch.setattr(ExpertBank, "recover", interrupted_recover)
            with pytest.raises(KeyboardInterrupt), interrupted(3000 + 37 * second):
                flash.generate(prompt_ids(20, second), max_tokens=8)
            monkeypatch.undo()
            with at_most(60):
                assert flash.generate(prompt_ids(9), max_tokens=2).token_ids == expected
            second += 1
    assert second > 10


def test_close(tiny_store: Path) -> None:
    before = reader_threads()
    flash = load(tiny_store, cache_gb=0.1, io_threads=3)
    assert reader_threads() == before + 3
    pieces = flash.stream(prompt_ids(9), max_tokens=50)
    next(pieces)
    flash.close()
    flash.close()
    assert reader_threads() == before
    with pytest.raises(ClosedError, match="closed"):
        next(pieces)
    with pytest.raises(ClosedError):
        flash.generate("abc")


def test_a_dropped_model_ends_its_threads(tiny_store: Path) -> None:
    before = reader_threads()
    flash = load(tiny_store, cache_gb=0.1)
    flash.generate("abc", max_tokens=2)
    del flash
    gc.collect()
    assert reader_threads() == before


def test_the_bank_is_not_a_parameter(tiny_store: Path) -> None:
    from mlx.utils import tree_flatten, tree_reduce

    with load(tiny_store, cache_gb=0.1) as flash:
        flash.generate("abc", max_tokens=2)
        assert not any("switch_mlp" in name for name, _ in tree_flatten(flash.model.parameters()))
        counted = tree_reduce(
            lambda n, x: n + x.nbytes if isinstance(x, mx.array) else n, flash.model, 0
        )
        assert counted < 1_500_000  # resident weights only, as mlx-lm's wired_limit counts


def test_library_prints_nothing(
    tiny_store: Path, capfd: pytest.CaptureFixture[str], tiny_hf: Path, tmp_path: Path
) -> None:
    from flash_moe.pack.packer import pack
    from flash_moe.pack.sources.open_source import open_source

    with load(tiny_store, cache_gb=0.1) as flash:
        flash.generate("abc", max_tokens=2)
    pack(open_source(tiny_hf), tmp_path / "store")
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


@pytest.mark.parametrize("how", ["thread", "not joined", "pool", "asyncio"])
def test_the_process_ends_cleanly_after_a_thread_generated(how: str, tiny_store: Path) -> None:
    """MLX would abort the process at its end in most runs; see flash_moe/compat/threads.py."""
    ways = {
        "thread": "t = threading.Thread(target=work); t.start(); t.join()",
        "not joined": "threading.Thread(target=work).start()",
        "pool": "p = ThreadPoolExecutor(2); p.submit(work); p.submit(work)",
        "asyncio": "async def main(): await asyncio.to_thread(work)\nasyncio.run(main())",
    }
    code = (
        "import asyncio, sys, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from flash_moe import load\n"
        "flash = load(sys.argv[1], cache_gb=0.01)\n"
        f"def work(): flash.generate('abc', max_tokens=2)\n{ways[how]}"
    )
    for _ in range(repetitions(1, full=3)):
        out = run_python(code, tiny_store)
        assert (out.returncode, out.stderr) == (0, "")
