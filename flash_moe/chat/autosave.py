"""Keeps a conversation: after each turn its messages, and the prompt cache for the next one.

Nothing here ends a chat: what cannot be kept is said in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flash_moe.chat.cache_file import (
    MisfitError,
    Place,
    cache_bytes,
    drop_cache,
    read_cache,
    worth_keeping,
    write_cache,
)
from flash_moe.chat.sessions import Session, new_session, prune
from flash_moe.chat.stats import size
from flash_moe.errors import FlashMoEError
from flash_moe.generation.conversation import Conversation


class Keeper:
    """Owns the session of a chat.

    Args:
        store: Where the model is, for the list of sessions.
        of: What a prompt cache depends on (``kept_cache.fingerprint``).
        limit: Most bytes of the caches of all sessions; 0 keeps none.
        say: Tells the user, in one line.
        session: Goes on with it; else one is made when there is something to keep.
    """

    def __init__(
        self,
        store: Path,
        of: Mapping[str, Any],
        limit: int,
        say: Callable[[str], None],
        session: Session | None = None,
    ) -> None:
        self._store = str(store.resolve())
        self._of = dict(of)
        self._limit = limit
        self._say = say
        self.session = session
        self._kept: list[int] | None = None  # ids of the cache on disk, if it is ours
        self._told_too_large = False

    def resume(self, conversation: Conversation) -> None:
        """Give a conversation what its session holds.

        Raises:
            FlashMoEError: The messages cannot be read.
        """
        assert self.session is not None
        conversation.messages, _ = self.session.load()
        if conversation.messages and conversation.messages[0]["role"] == "system":
            conversation.system = conversation.messages[0]["content"]
        self.restore(conversation)

    def restore(self, conversation: Conversation) -> bool:
        """Take the kept prompt cache up again, where there is one that fits."""
        if self.session is None or conversation.cache is None:
            return False
        try:
            place = read_cache(self.session.path, self._of)
        except MisfitError as error:
            problem = error.problem.rstrip(".")
            self._say(f"the kept prompt cache is left aside ({problem}); it is made again")
            return False
        if place is None:
            return False
        setattr(conversation.cache, place.name, place.held)
        self._kept = list(place.held.ids)
        return True

    def after_turn(self, conversation: Conversation) -> None:
        """Write what there is."""
        try:
            if self.session is None:
                self.session = new_session()
            self.session.save(conversation.messages, self._store)
            self._keep_cache(conversation, self.session.path)
        except (OSError, RuntimeError, ValueError, FlashMoEError) as error:
            self._say(f"the session could not be kept: {error}")

    @property
    def kept_tokens(self) -> int:
        """Tokens that the cache on disk holds."""
        return len(self._kept or ())

    def leave(self) -> None:
        """End the session; the next turn begins another."""
        if self.session is not None:
            self.session.close()
        self.session = self._kept = None

    def _keep_cache(self, conversation: Conversation, folder: Path) -> None:
        place = self._place(conversation)
        if place is None or place.held.ids == self._kept:
            return
        n_bytes = cache_bytes(place.held)
        if n_bytes > self._limit:
            drop_cache(folder)
            self._kept = None
            if self._limit and not self._told_too_large:
                self._say(
                    f"the prompt cache takes {size(n_bytes)}, more than --session-disk-gb allows: "
                    "only the messages are kept"
                )
            self._told_too_large = True
            return
        write_cache(folder, place, self._of)
        self._kept = list(place.held.ids)
        for name, freed in prune(self._limit):
            self._say(
                f"the prompt cache of session {name} was deleted ({size(freed)}): all together "
                f"may take {size(self._limit)} (--session-disk-gb); its messages are kept"
            )

    @staticmethod
    def _place(conversation: Conversation) -> Place | None:
        if conversation.cache is None:
            return None
        template_args = dict(conversation.options.template_args)
        if conversation.tools:
            template_args["tools"] = [tool.schema for tool in conversation.tools]
        return worth_keeping(
            conversation.cache,
            conversation.model.tokenizer,
            conversation.messages,
            template_args,
        )
