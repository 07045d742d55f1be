"""Errors: no emulator here, a text that does not compile, a wrong kernel."""

from __future__ import annotations


class EmulatorUnavailable(RuntimeError):
    """Something that the emulator needs is not on this machine. Tests skip with this text."""


class CompileError(RuntimeError):
    """The text would not be, or must not be, accepted by a Metal compiler."""


class KernelFault(RuntimeError):
    """The kernel ran and broke a rule: the report says which, and in which line.

    Attributes:
        report: One finding a line, then the source lines that it names.
    """

    def __init__(self, report: str) -> None:
        super().__init__(report)
        self.report = report
