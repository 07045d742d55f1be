"""Saves the messages of a conversation after each turn.

A failure does not end the chat; one line reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flash_moe.chat.sessions import Session, new_session
from flash_moe.errors import FlashMoEError
from flash_moe.generation.conversation import Conversation


class Autosave:
    """Owner of a chat's session.

    Args:
        store: Path of the model, for the list of sessions.
        report: Displays one line.
        session: Session to resume; by default the first turn creates one.
    """

    def __init__(
        self, store: Path, report: Callable[[str], None], session: Session | None = None
    ) -> None:
        self._store = str(store.resolve())
        self._report = report
        self.session = session

    def resume(self, conversation: Conversation) -> None:
        """Load the session into a conversation.

        Raises:
            FlashMoEError: The messages cannot be read.
        """
        assert self.session is not None
        messages, _ = self.session.load()
        conversation.continue_from(messages)

    def after_turn(self, conversation: Conversation) -> None:
        """Save the messages."""
        try:
            if self.session is None:
                self.session = new_session()
            self.session.save(conversation.messages, self._store)
        except (OSError, ValueError, FlashMoEError) as error:
            self._report(f"the session could not be saved: {error}")

    def leave(self) -> None:
        """Close the session; the next turn creates another."""
        if self.session is not None:
            self.session.close()
        self.session = None
