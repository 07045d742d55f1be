"""Answers of each path."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flash_moe.errors import ClosedError
from flash_moe.generation.engine import Engine
from flash_moe.memory.system import release_free_memory
from flash_moe.server.engine.admission import Admission
from flash_moe.server.engine.answer import Answer
from flash_moe.server.engine.prepare import Preparer
from flash_moe.server.http.connection import ClientGone
from flash_moe.server.http.event_stream import Channel, EventStream
from flash_moe.server.metrics import CONTENT_TYPE, Metrics, seen_tokens
from flash_moe.server.options import ServeOptions
from flash_moe.server.replies import anthropic, openai
from flash_moe.server.requests.anthropic import read_messages
from flash_moe.server.requests.errors import ApiError, as_api_error, timed_out, unavailable
from flash_moe.server.requests.fields import Fields
from flash_moe.server.requests.openai import read_chat, read_completion
from flash_moe.server.requests.request import GenerationRequest
from flash_moe.server.served_model import ServedModel

_log = logging.getLogger("flash_moe.server")
MODELS = "/v1/models"


@dataclass(frozen=True)
class Reply:
    """Handler of a path.

    Attributes:
        run: Takes the way back, and the body.
        protected: Whether the API key is needed.
    """

    run: Callable[[Any, dict[str, Any]], None]
    protected: bool = True


class Service:
    """Answers requests for one model."""

    def __init__(self, options: ServeOptions, model: ServedModel, engine: Engine) -> None:
        self.options = options
        self.engine = engine
        self._served = model
        self.admission = Admission(options.concurrency, options.max_queue)
        self.metrics = Metrics(engine, self.admission)
        self._preparer = Preparer(engine.flash, options)
        self._created = int(time.time())
        self._cancelled = False
        self._fingerprint = f"flash-moe-{_versions()}"
        self._routes = {
            "/v1/chat/completions": ("POST", Reply(self._chat)),
            "/chat/completions": ("POST", Reply(self._chat)),
            "/v1/completions": ("POST", Reply(self._completion)),
            "/v1/messages": ("POST", Reply(self._messages)),
            "/v1/messages/count_tokens": ("POST", Reply(self._count)),
            MODELS: ("GET", Reply(self._models)),
            "/metrics": ("GET", Reply(self._metrics)),
            "/health": ("GET", Reply(self._health, protected=False)),
        }

    def endpoint(self, place: str) -> str:
        """A path as metrics name it."""
        if place in self._routes:
            return place
        return MODELS if place.startswith(MODELS + "/") else "other"

    def route(self, method: str, endpoint: str, place: str) -> Reply:
        """
        Raises:
            ApiError: There is nothing, or not for this method.
        """
        if endpoint not in self._routes:
            raise ApiError(404, "there is nothing here", code="not_found")
        expected, reply = self._routes[endpoint]
        if method != expected:
            raise ApiError(405, f"expected {expected} here", code="method_not_allowed")
        if place != endpoint:
            name = place.removeprefix(MODELS + "/")
            return Reply(lambda channel, body: channel.send_json(self._model(name)))
        return reply

    def check_time(self, arrived: float) -> None:
        """Raises when a request that arrived then is to end now."""
        if self._cancelled:
            raise unavailable("the server is stopping")
        if time.monotonic() - arrived > self.options.timeout_s:
            raise timed_out(self.options.timeout_s)

    def cancel(self) -> None:
        """End all answers, with an error."""
        self._cancelled = True

    def _chat(self, channel: Channel, body: dict[str, Any]) -> None:
        read = partial(read_chat, vocab_size=self._vocab_size)
        self._generate(channel, self._read(body, read), openai.Replies)

    def _completion(self, channel: Channel, body: dict[str, Any]) -> None:
        read = partial(read_completion, vocab_size=self._vocab_size)
        self._generate(channel, self._read(body, read), openai.Replies)

    def _messages(self, channel: Channel, body: dict[str, Any]) -> None:
        self._generate(channel, self._read(body, read_messages), anthropic.Replies)

    def _count(self, channel: Channel, body: dict[str, Any]) -> None:
        asked = self._read(body, partial(read_messages, counting=True))
        channel.send_json({"input_tokens": self._preparer.count(asked, channel.check)})

    @property
    def _vocab_size(self) -> int | None:
        size: int | None = self.engine.flash.model.config.vocab_size
        return size

    def _read(
        self, body: dict[str, Any], read: Callable[[Fields, ServeOptions], GenerationRequest]
    ) -> GenerationRequest:
        """Read a body. Refuses fields that ``read`` leaves over, and other models."""
        fields = Fields(body, lenient=self.options.ignore_unknown)
        asked = read(fields, self.options)
        fields.finish()
        self._known_model(asked.model)
        return asked

    def _known_model(self, name: str) -> None:
        if not self._served.serves(name):
            raise ApiError(
                404,
                f"this server has the model {self._served.name}, not {name!r:.200}",
                param="model",
                code="model_not_found",
            )

    def _generate(self, channel: Channel, asked: GenerationRequest, form: Any) -> None:
        prepared = self._preparer.prepare(asked, channel.check)
        stream = EventStream(channel, form.SIGN_OF_LIFE) if asked.stream else None
        check = channel.check if stream is None else stream.check
        reason = "error"
        with self.admission.turn(check):
            answer = Answer(self.engine, prepared, check)
            try:
                answer.begin()
                replies = form(answer, self._fingerprint)
                if stream is not None:
                    for data in replies.events():
                        stream.send(data)
                else:
                    channel.send_json(replies.whole())
                reason = answer.finish_reason
            except (ClientGone, OSError):
                reason = "client_gone"
                raise
            except Exception as error:
                reason = self._reason(error)
                raise
            finally:
                answer.close()
                self._record(answer, channel.arrived, reason)
                release_free_memory()

    @staticmethod
    def _reason(error: Exception) -> str:
        status = as_api_error(error).status
        if isinstance(error, ClosedError) or status == 503:
            return "stopping"
        return "timeout" if status == 504 else "error"

    def _record(self, answer: Answer, arrived: float, reason: str) -> None:
        self.metrics.ended.labels(reason).inc()
        seen_tokens(
            self.metrics,
            prompt=answer.n_prompt,
            cached=answer.n_cached,
            generated=answer.n_tokens,
        )
        first = answer.first_token_at
        if first is None:
            return
        self.metrics.first_token.observe(first - arrived)
        seconds = time.monotonic() - first
        if answer.n_tokens > 1 and seconds > 0:
            self.metrics.rate.observe((answer.n_tokens - 1) / seconds)
        _log.info(
            "%d prompt tokens, %d of them cached; %d tokens, the first after %.2f s; %s",
            answer.n_prompt,
            answer.n_cached,
            answer.n_tokens,
            first - arrived,
            reason,
        )

    def _models(self, channel: Channel, body: dict[str, Any]) -> None:
        name = self._served.name
        names = list(dict.fromkeys([name, *self.options.aliases]))
        channel.send_json(
            {
                "object": "list",
                "data": [self._model(each) for each in names],
                "has_more": False,
                "first_id": names[0],
                "last_id": names[-1],
            }
        )

    def _model(self, name: str) -> dict[str, Any]:
        """One model, in a form that clients of both APIs understand."""
        self._known_model(name)
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "flash-moe",
            "type": "model",
            "display_name": name,
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created)),
        }

    def _metrics(self, channel: Channel, body: dict[str, Any]) -> None:
        channel.send_bytes(self.metrics.text(), CONTENT_TYPE)

    def _health(self, channel: Channel, body: dict[str, Any]) -> None:
        alive = self.engine.alive and not self._cancelled
        status = {"status": "ok" if alive else "unavailable"}
        channel.send_json(status, 200 if alive else 503)


def _versions() -> str:
    from importlib.metadata import version

    return f"{version('mlx-lm')}-{version('mlx')}"
