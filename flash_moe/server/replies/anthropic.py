"""Responses of Anthropic's messages API, complete and as server-sent events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from flash_moe.server.answer import Answer
from flash_moe.server.http.event_stream import event
from flash_moe.server.requests.request import ApiRequest
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import Piece, TextPiece, ThinkingPiece

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


PING = event({"type": "ping"})


class Response:
    """Response to one request."""

    KEEPALIVE = PING

    def __init__(self, answer: Answer, request: ApiRequest, fingerprint: str) -> None:
        self._answer = answer
        self._request = request
        self._id = f"msg_{uuid.uuid4().hex}"
        self._index = -1
        self._kind: str | None = None  # of the open block

    def body(self) -> dict[str, Any]:
        """Wait for the answer and return the response body."""
        blocks: list[dict[str, Any]] = []
        for step in self._answer.steps():
            for piece in step.pieces:
                block = _block(piece)
                kind = block["type"]
                if kind != "tool_use" and blocks and blocks[-1]["type"] == kind:
                    blocks[-1][kind] += block[kind]
                else:
                    blocks.append(block)
        return {**self._message(), "content": blocks, **self._end(), "usage": self._usage()}

    def events(self) -> Iterator[bytes]:
        """Yield the answer as server-sent events in the order of the API."""
        yield event({"type": "message_start", "message": self._message()})
        yield PING
        for step in self._answer.steps():
            for piece in step.pieces:
                yield from self._piece_events(piece)
        yield from self._close_block()
        yield event({"type": "message_delta", "delta": self._end(), "usage": self._usage()})
        yield event({"type": "message_stop"})

    def _piece_events(self, piece: Piece) -> Iterator[bytes]:
        block = _block(piece)
        kind = block["type"]
        if kind != self._kind or kind == "tool_use":
            yield from self._close_block()
            self._kind = kind
            self._index += 1
            empty = {**block, "input": {}} if kind == "tool_use" else {**block, kind: ""}
            start = {"type": "content_block_start", "index": self._index, "content_block": empty}
            yield event(start)
        if kind == "tool_use":
            arguments = json.dumps(block["input"], ensure_ascii=False)
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        else:
            yield self._delta({"type": f"{kind}_delta", kind: block[kind]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close_block(self) -> Iterator[bytes]:
        if self._kind is not None:
            if self._kind == "thinking":
                yield self._delta({"type": "signature_delta", "signature": ""})
            yield event({"type": "content_block_stop", "index": self._index})
            self._kind = None

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    def _end(self) -> dict[str, Any]:
        answer = self._answer
        if answer.stop_text is not None and answer.finish_reason == "stop":
            return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop_text}
        return {"stop_reason": STOP_REASONS[answer.finish_reason], "stop_sequence": None}

    def _usage(self) -> dict[str, Any]:
        answer = self._answer
        return {
            "input_tokens": answer.n_prompt - answer.n_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": answer.n_cached,
            "output_tokens": answer.n_tokens,
        }


def _block(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, ToolCall):
        return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": piece.arguments}
    if isinstance(piece, ThinkingPiece):
        return {"type": "thinking", "thinking": piece.text, "signature": ""}
    assert isinstance(piece, TextPiece)
    return {"type": "text", "text": piece.text}
