"""Responses of OpenAI's APIs, complete and as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from flash_moe.errors import GrammarError
from flash_moe.generation.prompt import is_chat
from flash_moe.generation.sequence import Token
from flash_moe.grammar.vocabulary import vocabulary_of
from flash_moe.server.answer import Answer, Step
from flash_moe.server.http.event_stream import event
from flash_moe.server.requests.request import ApiRequest
from flash_moe.tools.calls import ToolCall, openai_function
from flash_moe.tools.splitter import TextPiece, ThinkingPiece

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keepalive\n\n"  # a comment


class Response:
    """Response to one request of the chat or the completions API."""

    KEEPALIVE = KEEPALIVE

    def __init__(self, answer: Answer, request: ApiRequest, fingerprint: str) -> None:
        self._answer = answer
        self._request = request
        self._chat = is_chat(request.generation.prompt)
        self._tokenizer = answer.tokenizer
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self._request.model,
            "system_fingerprint": fingerprint,
        }
        self._n_calls = 0
        self._offset = 0

    def body(self) -> dict[str, Any]:
        """Wait for the answer and return the response body."""
        text: list[str] = []
        reasoning: list[str] = []
        calls: list[dict[str, Any]] = []
        tokens: list[Token] = []
        for step in self._answer.steps():
            tokens += step.tokens
            for piece in step.pieces:
                if isinstance(piece, ToolCall):
                    calls.append(self._call(piece))
                elif isinstance(piece, ThinkingPiece):
                    reasoning.append(piece.text)
                else:
                    text.append(piece.text)
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._finish_reason}
        choice["logprobs"] = self._logprobs(tokens)
        content = "".join(text)
        if self._chat:
            message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
            if reasoning:
                message["reasoning"] = "".join(reasoning)
            if calls:
                message["content"] = content or None
                message["tool_calls"] = calls
            choice["message"] = message
        else:
            choice["text"] = content
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": self.usage()}

    def events(self) -> Iterator[bytes]:
        """Yield the answer as server-sent events."""
        if self._chat:
            yield self._chunk({"role": "assistant", "content": ""})
        unsent: list[Token] = []
        for step in self._answer.steps():
            unsent += step.tokens
            yield from self._chunks(step, unsent)
        logprobs = self._logprobs(unsent) if unsent else None
        yield self._chunk({}, self._finish_reason, logprobs)
        if self._request.include_usage:
            kind = "chat.completion.chunk" if self._chat else "text_completion"
            yield event({**self._head, "object": kind, "choices": [], "usage": self.usage()})
        yield DONE

    def _chunks(self, step: Step, unsent: list[Token]) -> Iterator[bytes]:
        """Yield chunks of new pieces; the first takes the tokens since the previous chunk."""
        for piece in step.pieces:
            delta: dict[str, Any]
            if isinstance(piece, ToolCall):
                delta = {"tool_calls": [{"index": self._n_calls, **self._call(piece)}]}
                self._n_calls += 1
            elif isinstance(piece, TextPiece):
                delta = {"content": piece.text}
            else:
                delta = {"reasoning": piece.text}
            logprobs = self._logprobs(unsent)
            unsent.clear()
            yield self._chunk(delta, None, logprobs)

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, logprobs: Any = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason, "logprobs": logprobs}
        if self._chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        data = {**self._head, "object": kind, "choices": [choice]}
        if self._request.include_usage:
            data["usage"] = None
        return event(data)

    @property
    def _finish_reason(self) -> str:
        return self._answer.finish_reason

    def usage(self) -> dict[str, Any]:
        answer = self._answer
        return {
            "prompt_tokens": answer.n_prompt,
            "completion_tokens": answer.n_tokens,
            "total_tokens": answer.n_prompt + answer.n_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.n_cached},
        }

    @staticmethod
    def _call(call: ToolCall) -> dict[str, Any]:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return {"id": call.id, **openai_function(call.name, arguments=arguments)}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Format log probabilities, including tokens of reasoning and call markers."""
        if self._request.generation.top_logprobs is None:
            return None
        if self._chat:
            entries = [logprob(self._tokenizer, token) for token in tokens]
            return {"content": entries, "refusal": None}
        columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "text_offset": []}
        columns["top_logprobs"] = []
        for token in tokens:
            text = self._text(token.id)
            columns["tokens"].append(text)
            columns["token_logprobs"].append(token.logprob)
            columns["text_offset"].append(self._offset)
            columns["top_logprobs"].append({self._text(i): value for i, value in token.top})
            self._offset += len(text)
        return columns

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def logprob(tokenizer: Any, token: Token) -> dict[str, Any]:
    """Format the log probabilities of a token and of its alternatives."""
    top = [_entry(tokenizer, *each) for each in token.top]
    return {**_entry(tokenizer, token.id, token.logprob), "top_logprobs": top}


def _entry(tokenizer: Any, token: int, value: float) -> dict[str, Any]:
    text = str(tokenizer.decode([token]))
    try:
        # A token may be only a part of a character.
        raw = vocabulary_of(tokenizer).text(token) or text.encode()
    except GrammarError:  # not a fast tokenizer
        raw = text.encode()
    # JSON has no minus infinity; the API uses this value.
    finite = max(value, -9999.0)
    return {"token": text, "id": token, "logprob": finite, "bytes": list(raw)}
