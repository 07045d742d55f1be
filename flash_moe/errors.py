"""Every error that flash_moe raises on purpose.

    FlashMoEError
    ├── ConfigError                 a bad option, environment variable or argument
    │   ├── BudgetError             the budget is too small for one token's experts of one layer
    │   └── ToolDefinitionError     a function that cannot be a tool, or a duplicate tool name
    ├── ModelError                  the model directory cannot be used
    │   ├── ModelNotFoundError      no such directory or cached repository
    │   ├── NotMoEError             a model without experts: run it with mlx-lm
    │   └── UnsupportedModelError   an architecture, quantization or shape that cannot be streamed
    ├── HubError                    the hub refuses, is unreachable, or sent unexpected bytes
    ├── StoreError                  the bytes on disk are not as expected
    │   ├── ManifestError           flash_moe.json is missing, newer, or describes other files
    │   ├── CorruptFileError        a truncated or inconsistent safetensors or record file
    │   ├── RecordError             one record; has layer and expert
    │   │   ├── ChecksumError       the checksum is wrong
    │   │   └── ReadError           the read failed or came back short
    │   └── PackError               packing stopped; the partial store can be continued
    ├── KernelError                 kernels that are required, or have no fallback, do not work
    ├── TraceError                  a trace cannot be written, or a file is not a routing trace
    ├── PromptError                 an empty prompt, or one that the tokenizer rejects
    │   └── ContextLengthError      the prompt leaves no room for an answer
    ├── ToolError                   a tool failed; the model gets the message
    │   └── ToolArgumentError       the arguments of a call do not fit the tool
    ├── GrammarError                the requested schema, grammar or tools cannot be enforced
    ├── ClosedError                 the model was closed
    ├── QueueFullError              the engine runs and queues as many requests as it may
    ├── PeerError                   another rank failed, or the ranks differ; the next request works
    │   └── PeerLostError           the ranks cannot work together again: the process has to end
    └── IncompatibleMlxLmError      the installed mlx-lm lacks something flash_moe relies on

Messages read ``[component] what failed: expected X, got Y. What to do.`` The command line turns
each into one line and a non-zero exit.
"""

from __future__ import annotations

from typing import Any


class FlashMoEError(Exception):
    """Base of all errors of this package.

    Args:
        component: Part of the package that failed, for example ``"store"``.
        problem: The failure, with the expected and the actual value.
        hint: A remedy for the user.
    """

    def __init__(self, component: str, problem: str, hint: str = "") -> None:
        self.component = component
        self.problem = problem
        self.hint = hint
        text = f"[{component}] {problem.rstrip('.')}."
        super().__init__(f"{text} {hint}" if hint else text)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by args, which here are the finished message.
        return (_rebuild, (type(self), dict(self.__dict__), self.args))


def _rebuild(
    cls: type[FlashMoEError], state: dict[str, Any], args: tuple[Any, ...]
) -> FlashMoEError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(FlashMoEError, ValueError):
    """A bad option, environment variable or argument."""


class BudgetError(ConfigError):
    """The expert budget is below the minimum, which the message names."""


class ToolDefinitionError(ConfigError):
    """A function that cannot be a tool, or two tools with one name."""


class ModelError(FlashMoEError):
    """The model directory cannot be used."""


class ModelNotFoundError(ModelError):
    """No such directory or cached repository, or it is not a model directory."""


class NotMoEError(ModelError):
    """The model has no experts to stream."""


class UnsupportedModelError(ModelError):
    """An architecture, a quantization or a shape that cannot be streamed."""


class HubError(FlashMoEError):
    """The hub refuses, is unreachable, or sent bytes that do not match its metadata."""


class StoreError(FlashMoEError):
    """The bytes on disk are not as expected."""


class ManifestError(StoreError):
    """``flash_moe.json`` is missing, has a newer format, or describes other files."""


class CorruptFileError(StoreError):
    """A file that is truncated or contradicts its header."""


class RecordError(StoreError):
    """A problem with the record of one expert.

    Attributes:
        layer: Decoder layer number.
        expert: Expert number in that layer.
    """

    def __init__(
        self, component: str, problem: str, hint: str = "", *, layer: int, expert: int
    ) -> None:
        super().__init__(component, f"layer {layer}, expert {expert}: {problem}", hint)
        self.layer = layer
        self.expert = expert


class ChecksumError(RecordError):
    """The bytes of a record do not have the checksum of the manifest."""


class ReadError(RecordError):
    """A read failed or came back short."""


class PackError(StoreError):
    """Packing stopped before the store was complete."""


class KernelError(FlashMoEError, RuntimeError):
    """The GPU kernels cannot be used, and are required or have no exact fallback."""


class TraceError(FlashMoEError):
    """A trace cannot be written, or a file is not a routing trace."""


class PromptError(FlashMoEError, ValueError):
    """An empty prompt, or one that does not fit the context."""


class ContextLengthError(PromptError):
    """The prompt leaves no room for an answer."""


class ToolError(FlashMoEError):
    """A tool failed.

    The model gets ``problem`` and ``hint``; write them so that it can act on them.
    """


class ToolArgumentError(ToolError, ValueError):
    """The arguments of a call do not fit the parameters of the tool."""


class GrammarError(FlashMoEError, ValueError):
    """The requested schema, grammar or tools cannot be enforced with this tokenizer."""


class ClosedError(FlashMoEError, RuntimeError):
    """The model was closed."""


class QueueFullError(FlashMoEError, RuntimeError):
    """The engine runs and queues as many requests as it may."""


class PeerError(FlashMoEError, RuntimeError):
    """Another rank of several machines failed, or the ranks differ; the group stays usable."""


class PeerLostError(PeerError):
    """A rank has ended or cannot be reached: the group is unusable, and the process has to end."""


class IncompatibleMlxLmError(FlashMoEError, ImportError):
    """The installed mlx-lm lacks something that flash_moe relies on."""
