"""Request handlers of all paths."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from flash_moe.errors import ClosedError, ContextLengthError, GrammarError, PromptError
from flash_moe.generation.engine import Engine
from flash_moe.generation.prepare import PreparedRequest, Preparer
from flash_moe.memory.system import release_free_memory
from flash_moe.server.answer import Answer
from flash_moe.server.http.connection import ClientGone
from flash_moe.server.http.event_stream import Channel, EventStream
from flash_moe.server.live_stats import LiveStats
from flash_moe.server.metrics import CONTENT_TYPE, Metrics
from flash_moe.server.options import ServeOptions
from flash_moe.server.page_files import HEADERS, PageFile, page_files
from flash_moe.server.replies import anthropic, openai, responses
from flash_moe.server.requests.anthropic import read_messages
from flash_moe.server.requests.errors import (
    ApiError,
    as_api_error,
    invalid,
    timed_out,
    unavailable,
)
from flash_moe.server.requests.fields import Fields
from flash_moe.server.requests.openai import read_chat, read_completion
from flash_moe.server.requests.request import ApiRequest
from flash_moe.server.requests.responses import read_response
from flash_moe.server.traffic import Traffic

MODELS = "/v1/models"
Reader: TypeAlias = Callable[[Fields, ServeOptions], ApiRequest]


@dataclass(frozen=True)
class Route:
    """Handler of a path.

    Attributes:
        run: Called with the channel and the request body.
        protected: True if the API key is required.
    """

    run: Callable[[Any, dict[str, Any]], None]
    protected: bool = True


class Service:
    """Answers requests for one model. Thread-safe."""

    def __init__(self, options: ServeOptions, path: Path, engine: Engine) -> None:
        self.options = options
        self.engine = engine
        self.metrics = Metrics(engine)
        self._traffic = Traffic(self.metrics)
        self._stats = LiveStats(options, engine, self._traffic)
        self._preparer = Preparer(engine.flash.tokenizer, engine.flash.model.config)
        names = {options.model, *options.aliases, "default_model", str(path.resolve())}
        self._names = names | {Path(options.model).name}
        self._created = int(time.time())
        self._cancelled = False
        self._fingerprint = f"flash-moe-{_versions()}"
        size = engine.flash.model.config.vocab_size
        chat = self._answering(partial(read_chat, vocab_size=size), openai.Response)
        respond = self._answering(partial(read_response, vocab_size=size), responses.Response)
        complete = self._answering(partial(read_completion, vocab_size=size), openai.Response)
        self._routes = {
            "/v1/chat/completions": ("POST", chat),
            "/chat/completions": ("POST", chat),
            "/v1/responses": ("POST", respond),
            "/responses": ("POST", respond),
            "/v1/completions": ("POST", complete),
            "/v1/messages": ("POST", self._answering(read_messages, anthropic.Response)),
            "/v1/messages/count_tokens": ("POST", Route(self._count)),
            MODELS: ("GET", Route(self._models)),
            "/v1/stats": ("GET", Route(lambda channel, body: self._stats.send(channel))),
            "/metrics": ("GET", Route(self._metrics)),
            "/health": ("GET", Route(self._health, protected=False)),
            **{path: ("GET", _sending(file)) for path, file in page_files().items()},
        }

    def endpoint(self, path: str) -> str:
        """Return the known path for a request path, or ``other``."""
        if path in self._routes:
            return path
        return MODELS if path.startswith(MODELS + "/") else "other"

    def route(self, method: str, endpoint: str, path: str) -> Route:
        """Return the handler of a path.

        Raises:
            ApiError: The path is unknown, or does not have this method.
        """
        if endpoint not in self._routes:
            raise ApiError(404, f"unknown path {path!r:.200}", code="not_found")
        expected, route = self._routes[endpoint]
        if method != expected:
            raise ApiError(405, f"expected method {expected}", code="method_not_allowed")
        if path != endpoint:
            name = path.removeprefix(MODELS + "/")
            return Route(lambda channel, body: channel.send_json(self._model(name)))
        return route

    def check_time(self, arrived: float) -> None:
        """Raise if the server is stopping, or a request that arrived then has timed out."""
        if self._cancelled:
            raise unavailable("the server is stopping")
        if time.monotonic() - arrived > self.options.timeout_s:
            raise timed_out(self.options.timeout_s)

    @property
    def idle(self) -> bool:
        """True if no answer is generated or sent."""
        return self._traffic.idle

    def cancel(self) -> None:
        """End all answers with an error."""
        self._cancelled = True

    def _answering(self, read: Reader, response_type: Any) -> Route:
        """Return the handler of a path that generates answers."""
        return Route(
            lambda channel, body: self._generate(channel, self._read(body, read), response_type)
        )

    def _count(self, channel: Channel, body: dict[str, Any]) -> None:
        request = self._read(body, partial(read_messages, counting=True))
        try:
            ids, _ = self._preparer.tokenize(request.generation, channel.check)
        except PromptError as error:
            raise _rejected(request, error) from error
        channel.send_json({"input_tokens": len(ids)})

    def _read(self, body: dict[str, Any], read: Reader) -> ApiRequest:
        """Validate a body. Rejects fields that ``read`` leaves unread, and other models."""
        fields = Fields(body, lenient=self.options.ignore_unknown)
        request = read(fields, self.options)
        fields.finish()
        self._check_model(request.model)
        return request

    def _check_model(self, name: str) -> None:
        if name not in self._names:
            raise ApiError(
                404,
                f"expected the model {self.options.model}, got {name!r:.200}",
                param="model",
                code="model_not_found",
            )

    def _prepare(self, request: ApiRequest, check: Callable[[], None]) -> PreparedRequest:
        try:
            return self._preparer.prepare(request.generation, check)
        except PromptError as error:
            raise _rejected(request, error) from error
        except GrammarError as error:
            of_format = self._preparer.rejects_format(request.generation.spec)
            field = request.format_field if of_format else "tools"
            raise invalid(field, error.problem, "invalid_schema") from error

    def _generate(self, channel: Channel, request: ApiRequest, response_type: Any) -> None:
        prepared = self._prepare(request, channel.check)
        stream = EventStream(channel, response_type.KEEPALIVE) if request.stream else None
        check = channel.check if stream is None else stream.check
        reason = "error"
        answer = Answer(self.engine, prepared, check)
        self._traffic.begin(answer, channel.arrived)
        try:
            answer.begin()
            response = response_type(answer, request, self._fingerprint)
            if stream is not None:
                for data in response.events():
                    stream.send(data)
            else:
                channel.send_json(response.body())
            reason = answer.finish_reason
        except (ClientGone, OSError):
            reason = "client_gone"
            raise
        except Exception as error:
            reason = self._end_reason(error)
            raise
        finally:
            answer.close()
            self._traffic.end(answer, reason)
            release_free_memory(self.engine.flash.model.lengths.plan.kept_bytes)

    @staticmethod
    def _end_reason(error: Exception) -> str:
        status = as_api_error(error).status
        if isinstance(error, ClosedError) or status == 503:
            return "stopping"
        return "timeout" if status == 504 else "error"

    def _models(self, channel: Channel, body: dict[str, Any]) -> None:
        names = list(dict.fromkeys([self.options.model, *self.options.aliases]))
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
        """Describe a model with the fields of both APIs."""
        self._check_model(name)
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


def _sending(file: PageFile) -> Route:
    """Return the handler of a file of the page, which has no secrets: it loads without a key."""
    return Route(
        lambda channel, body: channel.send_bytes(file.body, file.kind, 200, HEADERS),
        protected=False,
    )


def _rejected(request: ApiRequest, error: PromptError) -> ApiError:
    """Return the error for a prompt that the model cannot process."""
    rejected = as_api_error(error)
    if not isinstance(error, ContextLengthError):
        rejected.param = request.prompt_field
    return rejected


def _versions() -> str:
    from importlib.metadata import version

    return f"{version('mlx-lm')}-{version('mlx')}"
