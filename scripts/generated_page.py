"""Command line of the scripts that write a page of docs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def main(file: Path, page: Callable[[], str], doc: str | None) -> int:
    """Write ``page()`` to ``file``; with ``--check``, only compare them."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    if not parser.parse_args().check:
        file.write_text(page(), encoding="utf-8")
    elif file.read_text(encoding="utf-8") != page():
        print(f"{file}: stale. Run: python scripts/{Path(sys.argv[0]).name}", file=sys.stderr)
        return 1
    return 0
