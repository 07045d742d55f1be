"""What is kept of a conversation, on real models of three kinds of cache: taken up, or left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.chat.autosave import Autosave
from flash_moe.chat.plain_view import Plain
from flash_moe.chat.sessions import Session, find_session, list_sessions, new_session, sessions_dir
from flash_moe.chat.turn import Chat
from flash_moe.errors import ConfigError, FlashMoEError
from flash_moe.generation.cache_files import cache_files
from flash_moe.generation.prompt_cache_dir import open_prompt_caches
from flash_moe.options.prompt_cache import PromptCacheOptions
from tests.support.architectures import write_model

QUESTIONS = ("Tell me something of some length, please.", "And what else?", "Go on.")


@pytest.fixture(scope="module", params=["recurrent", "trimmable", "windows"])
def path(
    request: pytest.FixtureRequest, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "recurrent":
        return tiny_store
    made = tmp_path_factory.mktemp(request.param)
    write_model(made, {"trimmable": "qwen3_moe", "windows": "gpt_oss"}[request.param])
    return made


@pytest.fixture(scope="module")
def flash(path: Path) -> Iterator[FlashMoE]:
    with load(path) as loaded:
        yield loaded


def chat(
    flash: FlashMoE,
    path: Path,
    session: Session | None = None,
    said: list[str] | None = None,
    *,
    caches: bool = True,
) -> Chat:
    """A chat that writes its answers to standard output, and what it tells to ``said``.

    Its prompt caches on disk are next to the sessions.
    """
    notes: list[str] = [] if said is None else said
    autosave = Autosave(path, notes.append, session)
    disk = None
    if caches:
        options = PromptCacheOptions(prompt_cache_dir=sessions_dir().parent / "caches")
        disk = open_prompt_caches(flash.model, options, notes.append)
    made = Chat(flash, Plain(), [], autosave=autosave, disk=disk, options={"max_tokens": 12})
    if session is not None:
        autosave.resume(made.conversation)
    return made


def folder(made: Chat) -> Path:
    assert made.autosave is not None
    assert made.autosave.session is not None
    return made.autosave.session.path


def left(made: Chat) -> Path:
    """The folder of a chat whose process is gone."""
    path = folder(made)
    assert made.autosave is not None
    made.autosave.leave()
    if made.disk is not None:
        made.disk.close()
    return path


@pytest.mark.usefixtures("sessions")
def test_going_on_gives_the_same_answers_and_processes_as_little(
    flash: FlashMoE, path: Path
) -> None:
    unbroken = chat(flash, path, caches=False)
    for question in QUESTIONS:
        assert unbroken.run_turn(question)
    first = chat(flash, path)
    assert first.run_turn(QUESTIONS[0])
    second = chat(flash, path, Session(left(first)))
    assert second.run_turn(QUESTIONS[1])
    third = chat(flash, path, Session(left(second)))
    assert third.run_turn(QUESTIONS[2])
    assert third.conversation.messages == unbroken.conversation.messages
    resumed = [t.prompt_tokens for made in (first, second, third) for t in made.turns]
    assert resumed == [t.prompt_tokens for t in unbroken.turns]
    everything = len(
        flash.tokenizer.apply_chat_template(
            third.conversation.messages[:-1], add_generation_prompt=True
        )
    )
    assert resumed[2] < everything / 2


def test_a_damaged_cache_is_ignored_with_one_line(
    flash: FlashMoE, path: Path, sessions: Path
) -> None:
    fresh = chat(flash, path, caches=False)
    fresh.run_turn(QUESTIONS[0])
    fresh.run_turn(QUESTIONS[1])
    first = chat(flash, path)
    first.run_turn(QUESTIONS[0])
    at = left(first)
    files = cache_files(sessions.parent / "caches")
    for file in files:
        file.path.write_bytes(file.path.read_bytes()[:-100])
    said: list[str] = []
    second = chat(flash, path, Session(at), said=said)
    second.run_turn(QUESTIONS[1])
    assert second.conversation.messages == fresh.conversation.messages
    assert 1 <= len(said) <= len(files)
    assert all("is ignored" in line for line in said)
    assert second.turns[0].prompt_tokens > fresh.turns[1].prompt_tokens
    left(second)


def test_what_a_killed_chat_left_half_written_goes(sessions: Path) -> None:
    """But not what a chat that lives is writing."""
    ours, theirs, gone, never = (Session(sessions / name) for name in "abcd")
    for session in (ours, theirs, gone):
        session.save([], "store")
    for session in (ours, theirs, gone, never):
        (session.path / ".session.json.123").write_text("{")
        (session.path / ".cache.json.123").write_text("{")
        if session is not theirs:
            session.close()
    new_session().close()
    assert len(list(sessions.glob("*/.*"))) == 2
    assert len(list(theirs.path.glob(".*"))) == 2
    (ours.path / ".session.json.123").write_text("{")
    Session(ours.path).close()
    assert not list(ours.path.glob(".*"))


def test_what_cannot_be_written_is_said_and_the_chat_goes_on(
    flash: FlashMoE, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLASH_MOE_SESSIONS", str(tmp_path / "file" / "sessions"))
    said: list[str] = []
    made = chat(flash, path, said=said, caches=False)
    assert made.run_turn(QUESTIONS[0])
    assert made.run_turn(QUESTIONS[1])
    assert len(said) == 2
    assert all("could not be saved" in line for line in said)


def test_a_failed_pass_takes_the_kept_cache_up_again(
    flash: FlashMoE, path: Path, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loses the one in memory."""
    unbroken = chat(flash, path, caches=False)
    unbroken.run_turn(QUESTIONS[0])
    unbroken.run_turn(QUESTIONS[1])
    made = chat(flash, path)
    made.run_turn(QUESTIONS[0])

    assert made.disk is not None
    while made.disk.pending_bytes:
        time.sleep(0.01)

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(flash.model), "__call__", failing)
    assert not made.run_turn("Is it there?")
    monkeypatch.undo()
    assert made.run_turn(QUESTIONS[1])
    assert made.conversation.messages == unbroken.conversation.messages
    assert made.turns[-1].prompt_tokens == unbroken.turns[-1].prompt_tokens


def test_names_of_sessions(sessions: Path) -> None:
    with pytest.raises(ConfigError, match="no sessions in"):
        find_session("last")
    made = [Session(sessions / name) for name in ("20260101-a", "20260102-b")]
    for n, session in enumerate(made):
        session.save([{"role": "user", "content": f"question {n}"}], "store")
        os.utime(session.path / "session.json", (n, n))
    assert find_session("last") == made[1].path
    assert find_session("20260101") == made[0].path
    with pytest.raises(ConfigError, match="2 sessions begin with 2026"):
        find_session("2026")
    with pytest.raises(ConfigError, match="no session other"):
        find_session("other")
    assert [info.title for info in list_sessions()] == ["question 1", "question 0"]
    assert (made[0].path / "session.json").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match=f"open in another terminal .process {os.getpid()}"):
        Session(made[0].path)
    made[0].close()
    Session(made[0].path).close()


@pytest.mark.usefixtures("sessions")
@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "messages": [3]}'])
def test_damaged_messages_are_one_error_and_a_line_in_the_list(content: str) -> None:
    session = new_session()
    (session.path / "session.json").write_text(content)
    with pytest.raises(FlashMoEError):
        session.load()
    assert [info.title for info in list_sessions()] == ["(damaged)"]
