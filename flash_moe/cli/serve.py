"""``flash-moe serve``: serve a model over the APIs of OpenAI and Anthropic."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.client_settings import client_lines
from flash_moe.cli.machines import connected, follow
from flash_moe.cli.options import add_options, given
from flash_moe.env import prompt_cache_options, read_environment
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.options.loading import LoadOptions
from flash_moe.options.prompt_cache import PromptCacheOptions
from flash_moe.options.sampling import SamplingParams
from flash_moe.server.options import PROMPT_CACHE_SHARE, ServeOptions

if TYPE_CHECKING:
    from flash_moe.generation.engine import Engine
_LIMITS: tuple[tuple[str, float | None, str], ...] = (
    ("--max-request-mb", ServeOptions.max_request_bytes / 1e6, "maximum request body in MB"),
    ("--max-queue", ServeOptions.max_queue, "maximum queued requests; further ones get a 429"),
    ("--timeout", ServeOptions.timeout_s, "seconds from a request's arrival to its answer's end"),
    (
        "--client-timeout",
        ServeOptions.client_timeout_s,
        "seconds to receive a request, or to send response data",
    ),
    (
        "--shutdown-timeout",
        ServeOptions.shutdown_timeout_s,
        "seconds for running requests to finish",
    ),
    (
        "--decode-concurrency",
        ServeOptions.concurrency,
        "requests decoded at once; 1 suits a small expert cache",
    ),
    ("--prompt-cache-gb", None, "memory of prompt caches in GB"),
    (
        "--prompt-cache-entries",
        ServeOptions.prompt_cache_entries,
        "maximum number of prompt caches",
    ),
)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "serve", parents=[common], help="serve a model over the APIs of OpenAI and Anthropic"
    )
    parser.add_argument("model", help="store or mlx checkpoint")
    parser.add_argument(
        "--host",
        default=ServeOptions.host,
        help="address to listen on (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=ServeOptions.port,
        help=f"port; 0 picks a free one (default: {ServeOptions.port})",
    )
    parser.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="NAME",
        help="further model name that requests may use; repeatable",
    )
    parser.add_argument(
        "--api-key",
        help="API key clients must send (prefer FLASH_MOE_API_KEY: arguments are visible in ps)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="further name of this machine in Host headers, such as host.docker.internal; "
        "repeatable (default: localhost and the address)",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web origin that may call the server, such as https://example.org; * allows all; "
        "repeatable (default: none)",
    )
    limits = parser.add_argument_group("limits")
    for flag, default, text in _LIMITS:
        kind = int if isinstance(default, int) else float
        shown = f"1/{1 / PROMPT_CACHE_SHARE:g} of the memory" if default is None else f"{default:g}"
        text = f"{text} (default: {shown})"
        limits.add_argument(flag, type=kind, default=default, metavar="N", help=text)
    add_options(parser, "prompt caches on disk", PromptCacheOptions)
    _add_defaults(parser)
    add_options(parser, "streaming", LoadOptions)
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="least severe messages on standard error (default: info, one line per request)",
    )
    parser.set_defaults(run=run)


def _add_defaults(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "sampling defaults of requests", SamplingParams, ("seed", "stop"))
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--chat-template-args",
        default="{}",
        metavar="JSON",
        help="""default chat template arguments, such as '{"enable_thinking": false}'""",
    )
    group.add_argument(
        "--strict-tools",
        action="store_true",
        help="constrain the calls of every tool to its schema, as strict: true does for one tool",
    )
    group.add_argument(
        "--ignore-unknown-fields",
        action="store_true",
        help="ignore unknown request fields instead of rejecting the request",
    )


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.DEBUG if args.log_level == "debug" else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("flash_moe").setLevel(args.log_level.upper())
    ranks = connected(args)
    cache_gb = args.prompt_cache_gb
    options = ServeOptions(
        model=args.model,
        streaming={**given(args, LoadOptions), "group": ranks},
        host=args.host,
        port=args.port,
        aliases=tuple(args.alias),
        api_key=args.api_key or read_environment().api_key,
        hosts=tuple(args.allow_host),
        origins=tuple(args.allow_origin),
        max_request_bytes=round(args.max_request_mb * 1e6),
        max_queue=args.max_queue,
        timeout_s=args.timeout,
        client_timeout_s=args.client_timeout,
        shutdown_timeout_s=args.shutdown_timeout,
        sampling=SamplingParams(**given(args, SamplingParams)),
        concurrency=args.decode_concurrency,
        prompt_cache_bytes=None if cache_gb is None else round(cache_gb * 1e9),
        prompt_cache_entries=args.prompt_cache_entries,
        prompt_caches_on_disk=prompt_cache_options(**given(args, PromptCacheOptions)),
        template_args=_template_args(args.chat_template_args),
        strict_tools=args.strict_tools,
        ignore_unknown=args.ignore_unknown_fields,
    )
    from flash_moe.server.run import engine_of, serve

    if ranks is not None and not ranks.first:
        return follow(engine_of(options))
    if not options.local and options.api_key is None:
        print(
            f"flash-moe: other machines can reach {options.host} and no API key is set: anyone who "
            "reaches the server can use it",
            file=sys.stderr,
        )
    serve(options, functools.partial(_report, options))
    return 0


def _template_args(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ConfigError("serve", f"--chat-template-args: expected a JSON object, got {text!r}")
    return arguments


def _report(options: ServeOptions, url: str, engine: Engine) -> None:
    name, context = Path(options.model).name, engine.flash.model.config.max_context
    lines = [
        f"flash-moe: {options.model} at {url}/v1 (Anthropic clients: {url}); "
        f"{format_bytes(engine.flash.stats.bank_bytes)} for experts, up to "
        f"{format_bytes(engine.caches.n_bytes)} for prompt caches",
        f"page with chat and the expert cache: {url}/",
        *client_lines(name, url, context, options.api_key is not None),
    ]
    print("\n  ".join(lines), file=sys.stderr, flush=True)
