"""The ``flash-moe`` command line.

Results go to standard output, everything else to standard error. An error is one line and exit
code 1 (2 for wrong arguments, 130 after Ctrl-C); ``--debug`` prints its traceback. Each command
imports its dependencies when it runs, which keeps ``--help`` and ``info`` fast.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from flash_moe.cli import (
    caches,
    chat,
    demo,
    doctor,
    eval,
    generate,
    lab,
    plan,
    pull,
    serve,
    store,
    trace,
)
from flash_moe.cli.options import current_names
from flash_moe.env import launched_rank
from flash_moe.errors import FlashMoEError, PeerLostError
from flash_moe.ranks.watchdog import EXIT_CODE
from flash_moe.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="flash-moe", description="Run a Mixture-of-Experts model far larger than memory."
    )
    parser.add_argument("--version", action="version", version=f"flash-moe {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="print the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = (demo, plan, pull, store, generate, chat, serve, caches, trace, eval, lab, doctor)
    for module in modules:
        module.add_commands(commands, common)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    _open_standard_streams()
    arguments = current_names(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _warn
    args = build_parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return _fail("interrupted", args.debug, code=130)
    except BrokenPipeError:
        # The process that reads our output has ended (for example head). This is not an error,
        # and the flush at exit must not report one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except PeerLostError as error:
        # Threads of MLX may wait for the lost rank for ever, also at the exit of Python.
        _fail(str(error), args.debug)
        sys.stdout.flush()
        os._exit(EXIT_CODE)
    except FlashMoEError as error:
        return _fail(str(error), args.debug)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (--debug prints the traceback)", args.debug)


def _open_standard_streams() -> None:
    """Connect standard streams that the caller has closed (``>&-``) to the null device.

    Otherwise Python sets them to ``None``, and the next opened file gets their descriptor.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, os.O_RDWR)
            if file != number:
                os.dup2(file, number)
                os.close(file)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _warn(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    """Print a warning as one line, like an error: its place in the code helps no user."""
    print("flash-moe: " + str(message).removeprefix("flash_moe: "), file=sys.stderr)


def _fail(message: str, debug: bool, code: int = 1) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    rank = launched_rank()
    name = "flash-moe" if rank is None else f"flash-moe: rank {rank}"
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
