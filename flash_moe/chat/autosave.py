"""Saves a conversation after each turn: its messages and the prompt cache for the next one.

A failure does not end the chat; one line reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flash_moe.chat.cache_file import (
    CacheMismatchError,
    Place,
    cache_bytes,
    drop_cache,
    next_turn_cache,
    read_cache,
    write_cache,
)
from flash_moe.chat.sessions import Session, new_session, prune
from flash_moe.errors import FlashMoEError
from flash_moe.files.sizes import format_bytes
from flash_moe.generation.conversation import Conversation


class Autosave:
    """Owner of a chat's session.

    Args:
        store: Path of the model, for the list of sessions.
        fingerprint: Properties that a prompt cache depends on (``cache_file.fingerprint``).
        limit: Maximum bytes of the caches of all sessions; 0 saves none.
        report: Displays one line.
        session: Session to resume; by default the first turn creates one.
    """

    def __init__(
        self,
        store: Path,
        fingerprint: Mapping[str, Any],
        limit: int,
        report: Callable[[str], None],
        session: Session | None = None,
    ) -> None:
        self._store = str(store.resolve())
        self._fingerprint = dict(fingerprint)
        self._limit = limit
        self._report = report
        self.session = session
        self._saved: list[int] | None = None  # ids of the saved cache
        self._reported_too_large = False

    def resume(self, conversation: Conversation) -> None:
        """Load the session into a conversation.

        Raises:
            FlashMoEError: The messages cannot be read.
        """
        assert self.session is not None
        conversation.messages, _ = self.session.load()
        if conversation.messages and conversation.messages[0]["role"] == "system":
            conversation.system = conversation.messages[0]["content"]
        self.restore(conversation)

    def restore(self, conversation: Conversation) -> bool:
        """Load the saved prompt cache; return False if none fits."""
        if self.session is None or conversation.cache is None:
            return False
        try:
            place = read_cache(self.session.path, self._fingerprint)
        except CacheMismatchError as error:
            problem = error.problem.rstrip(".")
            self._report(f"the saved prompt cache is ignored ({problem}); it will be rebuilt")
            return False
        if place is None:
            return False
        setattr(conversation.cache, place.name, place.held)
        self._saved = list(place.held.ids)
        return True

    def after_turn(self, conversation: Conversation) -> None:
        """Save the messages and the prompt cache."""
        try:
            if self.session is None:
                self.session = new_session()
            self.session.save(conversation.messages, self._store)
            self._save_cache(conversation, self.session.path)
        except (OSError, RuntimeError, ValueError, FlashMoEError) as error:
            self._report(f"the session could not be saved: {error}")

    @property
    def cached_tokens(self) -> int:
        """Tokens of the saved prompt cache."""
        return len(self._saved or ())

    def leave(self) -> None:
        """Close the session; the next turn creates another."""
        if self.session is not None:
            self.session.close()
        self.session = self._saved = None

    def _save_cache(self, conversation: Conversation, folder: Path) -> None:
        place = self._place(conversation)
        if place is None or place.held.ids == self._saved:
            return
        n_bytes = cache_bytes(place.held)
        if n_bytes > self._limit:
            drop_cache(folder)
            self._saved = None
            if self._limit and not self._reported_too_large:
                self._report(
                    f"the prompt cache takes {format_bytes(n_bytes)}, more than --session-disk-gb "
                    "allows: only the messages are saved"
                )
            self._reported_too_large = True
            return
        write_cache(folder, place, self._fingerprint)
        self._saved = list(place.held.ids)
        for name, freed in prune(self._limit):
            self._report(
                f"the prompt cache of session {name} was deleted ({format_bytes(freed)}): all "
                f"caches may take {format_bytes(self._limit)} (--session-disk-gb); messages remain"
            )

    @staticmethod
    def _place(conversation: Conversation) -> Place | None:
        if conversation.cache is None:
            return None
        template_args = dict(conversation.options.template_args)
        if conversation.tools:
            template_args["tools"] = [tool.schema for tool in conversation.tools]
        return next_turn_cache(
            conversation.cache,
            conversation.model.tokenizer,
            conversation.messages,
            template_args,
        )
