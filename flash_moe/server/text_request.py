"""A request of OpenAI's older completions API, read and checked."""

from __future__ import annotations

from flash_moe.server.api_errors import bad
from flash_moe.server.asked import Asked, read_model, read_sampling
from flash_moe.server.chat_request import read_stream_options
from flash_moe.server.fields import Fields, kind_of
from flash_moe.server.options import ServeOptions

REFUSED = {"n": 1, "best_of": 1, "echo": False, "suffix": ""}


def read_completion(body: Fields, options: ServeOptions, vocab_size: int | None) -> Asked:
    """What ``/v1/completions`` is asked for: one prompt, as text or as token ids.

    Raises:
        ApiError: A field is missing, wrong, unknown or not supported; names it.
    """
    body.refuse(REFUSED)
    body.ignore(("user", "metadata"))
    top = body.get("logprobs")
    wanted = top is not None and top is not False
    return Asked(
        model=read_model(body),
        max_tokens=body.integer("max_tokens", options.max_tokens, 1),
        sampling=read_sampling(body, options, top_temperature=2, vocab_size=vocab_size),
        prompt=_prompt(body, vocab_size),
        stops=body.texts("stop", most=16),
        stream=body.flag("stream"),
        usage=read_stream_options(body),
        logprobs=wanted,
        top_logprobs=body.integer("logprobs", 0, 0, 5) if wanted and top is not True else 0,
    )


def _prompt(body: Fields, vocab_size: int | None) -> str | list[int]:
    prompt = body.required("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise body.wrong("prompt", "a text or a list of token ids")
    if any(isinstance(each, str | list) for each in prompt):
        raise bad("prompt", "expected one prompt", "unsupported_parameter")
    for token in prompt:
        if not isinstance(token, int) or isinstance(token, bool):
            raise bad("prompt", f"expected token ids, got {kind_of(token)} among them")
        if not 0 <= token < (vocab_size or 2**31):
            raise bad("prompt", f"expected token ids from 0 to {(vocab_size or 2**31) - 1}")
    return prompt
