"""``flash-moe serve``: a server with the APIs of OpenAI and Anthropic."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from flash_moe.cli.options import add_options, given
from flash_moe.env import read_environment
from flash_moe.errors import ConfigError
from flash_moe.options.loading import LoadOptions
from flash_moe.options.sampling import SamplingParams

if TYPE_CHECKING:
    from flash_moe.server.engine.model_provider import Provider


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "serve", parents=[common], help="serve a model to clients of OpenAI's and Anthropic's APIs"
    )
    parser.add_argument("model", help="store or mlx checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any (8080)")
    parser.add_argument(
        "--alias", action="append", default=[], metavar="NAME", help="another name of the model"
    )
    parser.add_argument(
        "--api-key", help="what clients must show; better in FLASH_MOE_API_KEY, which ps hides"
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that may call, such as https://example.org; * for all (none)",
    )
    _add_limits(parser)
    _add_defaults(parser)
    add_options(parser, "streaming", LoadOptions)
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )
    parser.set_defaults(run=run)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--max-request-mb", type=float, default=8.0, help="of a body (8)")
    group.add_argument("--max-queue", type=int, default=16, help="requests that wait (16)")
    group.add_argument(
        "--timeout", type=float, default=1800.0, help="seconds for a whole answer (1800)"
    )
    group.add_argument(
        "--client-timeout",
        type=float,
        default=30.0,
        help="seconds for a client to send its request, and to take in what it is sent (30)",
    )
    group.add_argument(
        "--grace", type=float, default=10.0, help="seconds for answers to end at a stop (10)"
    )
    group.add_argument(
        "--decode-concurrency", type=int, default=2, help="answers generated at once (2)"
    )
    group.add_argument(
        "--prompt-cache-gb",
        type=float,
        help="memory for prompts that go on (default: a sixteenth of all)",
    )
    group.add_argument(
        "--prompt-cache-entries", type=int, default=16, help="the same, counted (16)"
    )


def _add_defaults(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "sampling, where a request leaves it out", SamplingParams, ("seed", "stop"))
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--chat-template-args",
        default="{}",
        metavar="JSON",
        help="""for the chat template, such as '{"enable_thinking": false}'""",
    )
    group.add_argument(
        "--strict-tools", action="store_true", help="hold all tool calls to their schemas"
    )
    group.add_argument(
        "--ignore-unknown-fields",
        action="store_true",
        help="ignore fields of requests that are not known, instead of refusing",
    )


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.DEBUG if args.log_level == "debug" else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("flash_moe").setLevel(args.log_level.upper())
    from flash_moe.server.options import ServeOptions

    cache_gb = args.prompt_cache_gb
    options = ServeOptions(
        model=args.model,
        streaming=given(args, LoadOptions),
        host=args.host,
        port=args.port,
        aliases=tuple(args.alias),
        api_key=args.api_key or read_environment().api_key,
        origins=tuple(args.allow_origin),
        max_request_bytes=round(args.max_request_mb * 1e6),
        max_queue=args.max_queue,
        timeout_s=args.timeout,
        client_timeout_s=args.client_timeout,
        grace_s=args.grace,
        sampling=SamplingParams(**given(args, SamplingParams)),
        concurrency=args.decode_concurrency,
        prompt_cache_bytes=None if cache_gb is None else round(cache_gb * 1e9),
        prompt_cache_entries=args.prompt_cache_entries,
        template_args=_template_args(args.chat_template_args),
        strict_tools=args.strict_tools,
        ignore_unknown=args.ignore_unknown_fields,
    )
    if not options.local and options.api_key is None:
        print(
            f"flash-moe: {options.host} can be reached from elsewhere, and no API key is set: "
            "whoever reaches it can use it",
            file=sys.stderr,
        )
    from flash_moe.server.run import serve

    serve(options, _say)
    return 0


def _template_args(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError("serve", f"--chat-template-args: expected a JSON object, got {text!r}")
    return found


def _say(url: str, provider: Provider) -> None:
    assert provider.flash is not None
    caches = provider.cli_args.prompt_cache_bytes
    print(
        f"flash-moe: {provider.name} at {url}/v1 (Anthropic clients: {url}); "
        f"{provider.flash.stats.bank_bytes / 1e9:.2f} GB for experts, up to "
        f"{caches / 1e9:.2f} GB for prompt caches",
        file=sys.stderr,
        flush=True,
    )
