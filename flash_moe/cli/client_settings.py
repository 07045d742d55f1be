"""Settings that point clients and coding agents at ``flash-moe serve``, one shell line each."""

from __future__ import annotations

import json
import shlex
from typing import Any

# With the demo model's tokenizer, the first prompts have 10,600 tokens (opencode 1.18), 13,400
# (Codex 0.171) and 30,000 (Claude Code 2.1); a session needs room for answers and results.
AGENT_CONTEXT = 32_768
_KEY = "FLASH_MOE_API_KEY"
_NAME = "flash-moe"


def client_lines(model: str, url: str, context: int | None, protected: bool) -> list[str]:
    """Return a line for each client: its name and a command, or the reason why it has none.

    Args:
        model: Name of the model in requests.
        url: Address of the server, without ``/v1``.
        context: Maximum tokens of prompt and answer; ``None`` if unknown.
        protected: Whether requests need an API key. Lines name its variable, not the key.
    """
    word, key = shlex.quote(model), f'"${_KEY}"' if protected else "none"
    lines = [f"OpenAI clients: OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}, model {word}"]
    if context is not None and context < AGENT_CONTEXT:
        return [
            *lines,
            f"Coding agents: the context of {context} tokens is too small for them; "
            f"they need {AGENT_CONTEXT} or more",
        ]
    claude = f"ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={key} ANTHROPIC_MODEL={word}"
    config = json.dumps(_opencode(model, url, context, protected))
    return [
        *lines,
        f"Claude Code: {claude} ANTHROPIC_DEFAULT_HAIKU_MODEL={word} claude",
        f"Codex: codex {shlex.join(_codex(model, url, context, protected))}",
        f"opencode: OPENCODE_CONFIG_CONTENT={shlex.quote(config)} opencode",
    ]


def _codex(model: str, url: str, context: int | None, protected: bool) -> list[str]:
    provider = f'name="{_NAME}", base_url="{url}/v1", wire_api="responses"'
    provider += f', env_key="{_KEY}"' if protected else ""
    settings = [f"model={json.dumps(model)}", f"model_provider={_NAME}"]
    settings += [] if context is None else [f"model_context_window={context}"]
    settings.append(f"model_providers.{_NAME}={{{provider}}}")
    return [word for setting in settings for word in ("-c", setting)]


def _opencode(model: str, url: str, context: int | None, protected: bool) -> dict[str, Any]:
    key = f"{{env:{_KEY}}}" if protected else "none"
    limit = {} if context is None else {"limit": {"context": context, "output": context // 4}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": key},
        "models": {model: limit},
    }
    return {"model": f"{_NAME}/{model}", "provider": {_NAME: provider}}
