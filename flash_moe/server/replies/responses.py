"""Responses of OpenAI's responses API, complete and as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from flash_moe.generation.sequence import Token
from flash_moe.server.answer import Answer
from flash_moe.server.http.connection import ClientGone
from flash_moe.server.http.event_stream import event
from flash_moe.server.replies import openai
from flash_moe.server.requests.errors import as_api_error
from flash_moe.server.requests.request import ApiRequest
from flash_moe.server.requests.responses import flat_name
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import Piece, ThinkingPiece

Event = dict[str, Any]


class Response:
    """Response to one request: items of reasoning, text and calls in the order of generation."""

    KEEPALIVE = openai.KEEPALIVE

    def __init__(self, answer: Answer, request: ApiRequest, fingerprint: str) -> None:
        self._answer = answer
        self._top_logprobs = request.generation.top_logprobs
        self._head = {"id": _new_id("resp"), "object": "response", "created_at": int(time.time())}
        self._head |= {"model": request.model, "background": False, "store": False}
        self._head |= {"previous_response_id": None, "truncation": "disabled", **request.echo}
        self._names = {
            flat_name(tool["name"], each["name"]): {"namespace": tool["name"], "name": each["name"]}
            for tool in request.echo["tools"]
            if tool["type"] == "namespace"
            for each in tool.get("tools") or ()
            if each["type"] == "function"
        }
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] = {}  # the open reasoning or message; empty: none
        self._unsent: list[Token] = []
        self._n_reasoning = 0  # tokens

    def body(self) -> dict[str, Any]:
        """Wait for the answer and return the response body."""
        *_, last = self._events()
        response: dict[str, Any] = last["response"]
        return response

    def events(self) -> Iterator[bytes]:
        """Yield the answer as server-sent events in the order of the API."""
        number = 0
        try:
            for number, data in enumerate(self._events()):
                yield event({**data, "sequence_number": number})
        except (ClientGone, OSError):
            raise
        except Exception as error:
            # Codex reads this event, the official client the error that the handler sends next.
            problem = {"code": "server_error", "message": as_api_error(error).message}
            failed = self._response("failed", error=problem)
            yield event({**failed, "sequence_number": number + 1})
            raise

    def _events(self) -> Iterator[Event]:
        yield self._response("in_progress", "created")
        yield self._response("in_progress")
        for step in self._answer.steps():
            self._unsent += step.tokens
            for piece in step.pieces:
                yield from self._piece_events(piece)
        cut = self._answer.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        if self._item:
            self._take_tokens()
        yield from self._close(status)
        details = {"reason": "max_output_tokens"} if cut else None
        yield self._response(status, usage=self._usage(), incomplete_details=details)

    def _piece_events(self, piece: Piece) -> Iterator[Event]:
        if isinstance(piece, ToolCall):
            yield from self._call_events(piece)
            return
        kind = "reasoning" if isinstance(piece, ThinkingPiece) else "message"
        if self._item.get("type") != kind:
            yield from self._close()
            if kind == "message":
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                self._item = {"id": _new_id("msg"), "role": "assistant"}
            else:
                part = {"type": "reasoning_text", "text": ""}
                self._item = {"id": _new_id("rs"), "summary": []}
            self._item |= {"type": kind, "status": "in_progress", "content": [part]}
            yield self._at("output_item.added", item={**self._item, "content": []})
            yield self._at("content_part.added", content_index=0, part=dict(part))
        part = self._item["content"][0]
        part["text"] += piece.text
        logprobs = self._take_tokens()
        yield self._at(f"{part['type']}.delta", content_index=0, delta=piece.text, **logprobs)

    def _call_events(self, call: ToolCall) -> Iterator[Event]:
        yield from self._close()
        self._unsent.clear()
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        name = self._names.get(call.name, {"name": call.name})
        item = {"id": _new_id("fc"), "type": "function_call", "call_id": call.id, **name}
        self._item = {**item, "arguments": "", "status": "in_progress"}
        yield self._at("output_item.added", item=self._item)
        yield self._at("function_call_arguments.delta", delta=arguments)
        yield self._at("function_call_arguments.done", arguments=arguments, **name)
        yield self._done("completed", arguments=arguments)

    def _close(self, status: str = "completed") -> Iterator[Event]:
        if not self._item:
            return
        (part,) = self._item["content"]
        logprobs = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
        yield self._at(f"{part['type']}.done", content_index=0, text=part["text"], **logprobs)
        yield self._at("content_part.done", content_index=0, part=part)
        yield self._done(status)

    def _done(self, status: str, **fields: Any) -> Event:
        item = {**self._item, **fields, "status": status}
        done = self._at("output_item.done", item=item)
        self._output.append(item)
        self._item = {}
        return done

    def _at(self, name: str, /, **fields: Any) -> Event:
        """Return an event about the open item."""
        where = {} if "item" in fields else {"item_id": self._item["id"]}
        return {"type": f"response.{name}", "output_index": len(self._output), **where, **fields}

    def _take_tokens(self) -> dict[str, Any]:
        """Assign the tokens since the previous piece to the open item.

        Returns:
            For text, the field with their log probabilities.
        """
        tokens, self._unsent = self._unsent, []
        if self._item["type"] == "reasoning":
            self._n_reasoning += len(tokens)
            return {}
        if self._top_logprobs is None:
            return {"logprobs": []}
        logprobs = [openai.logprob(self._answer.tokenizer, token) for token in tokens]
        self._item["content"][0]["logprobs"] += logprobs
        return {"logprobs": logprobs}

    def _response(self, status: str, name: str = "", **fields: Any) -> Event:
        """Return an event about the response."""
        response = {**self._head, "status": status, "output": self._output}
        response |= {"usage": None, "error": None, "incomplete_details": None, **fields}
        return {"type": f"response.{name or status}", "response": response}

    def _usage(self) -> dict[str, Any]:
        answer = self._answer
        return {
            "input_tokens": answer.n_prompt,
            "input_tokens_details": {"cached_tokens": answer.n_cached, "cache_write_tokens": 0},
            "output_tokens": answer.n_tokens,
            "output_tokens_details": {"reasoning_tokens": self._n_reasoning},
            "total_tokens": answer.n_prompt + answer.n_tokens,
        }


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
