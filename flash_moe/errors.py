"""Every error that flash_moe raises on purpose.

    FlashMoEError
    ├── ConfigError                 a bad option, environment variable or argument
    │   ├── BudgetError             the expert budget cannot hold one layer's experts of one token
    │   └── ToolDefinitionError     a function that cannot be a tool, or two tools of one name
    ├── ModelError                  the model directory cannot be used
    │   ├── ModelNotFoundError      no such directory or cached repository
    │   ├── NotMoEError             a model without experts: mlx-lm runs it as it is
    │   └── UnsupportedModelError   an architecture or a shape that cannot be streamed
    ├── HubError                    the hub refuses, cannot be reached, or sent other bytes
    ├── StoreError                  the bytes on disk are not what they should be
    │   ├── ManifestError           flash_moe.json is missing, newer, or not about these files
    │   ├── CorruptFileError        a safetensors or record file that is cut short or lies
    │   ├── RecordError             about one record; has layer and expert
    │   │   ├── ChecksumError       its checksum is wrong
    │   │   └── ReadError           reading it failed or came back short
    │   └── PackError               packing stopped; the partial store can be continued
    ├── KernelError                 kernels that are required, or the only right way, do not work
    ├── TraceError                  a routing trace cannot be written, or is not one
    ├── PromptError                 an empty prompt, or one beyond the context length
    ├── ToolError                   a tool could not do what it was asked; the model hears why
    │   └── ToolArgumentError       the arguments of a call do not fit the tool
    ├── GrammarError                what an answer was to be held to cannot be held
    ├── ClosedError                 the model was closed
    └── IncompatibleMlxLmError      the installed mlx-lm lacks something flash_moe relies on

Messages read ``[component] what failed: expected X, got Y. What to do.`` The command line turns
each into one line and a non-zero exit.
"""

from __future__ import annotations

from typing import Any


class FlashMoEError(Exception):
    """Base of all errors of this package.

    Args:
        component: The part that speaks, for example ``"store"``.
        problem: What failed, with what was expected and what was found.
        hint: What the user can do about it.
    """

    def __init__(self, component: str, problem: str, hint: str = "") -> None:
        self.component = component
        self.problem = problem
        self.hint = hint
        text = f"[{component}] {problem.rstrip('.')}."
        super().__init__(f"{text} {hint}" if hint else text)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by args, which here is the finished message.
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
    """A function that cannot be a tool, or two tools of one name."""


class ModelError(FlashMoEError):
    """The model directory cannot be used."""


class ModelNotFoundError(ModelError):
    """No such directory or cached repository, or it is not a model directory."""


class NotMoEError(ModelError):
    """The model has no experts to stream."""


class UnsupportedModelError(ModelError):
    """An architecture, a quantization or a shape that cannot be streamed."""


class HubError(FlashMoEError):
    """The hub refuses, cannot be reached, or sent other bytes than it promised."""


class StoreError(FlashMoEError):
    """The bytes on disk are not what they should be."""


class ManifestError(StoreError):
    """``flash_moe.json`` is missing, of a newer format, or not about the files beside it."""


class CorruptFileError(StoreError):
    """A file that is cut short or whose header lies."""


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
    """The GPU kernels cannot be used, and going on without them is not wanted or not right."""


class TraceError(FlashMoEError):
    """A trace of a run cannot be written, or a file is not a routing trace."""


class PromptError(FlashMoEError, ValueError):
    """An empty prompt, or one that does not fit the context."""


class ToolError(FlashMoEError):
    """A tool could not do what it was asked.

    A model hears ``problem`` and ``hint``; write them so that it can act on them.
    """


class ToolArgumentError(ToolError, ValueError):
    """The arguments of a call do not fit the parameters of the tool."""


class GrammarError(FlashMoEError, ValueError):
    """A schema, a grammar, tools or a tokenizer that answers cannot be held to."""


class ClosedError(FlashMoEError, RuntimeError):
    """The model was closed."""


class IncompatibleMlxLmError(FlashMoEError, ImportError):
    """The installed mlx-lm lacks something that flash_moe relies on."""
