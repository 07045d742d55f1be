"""``flash_moe.partial.json``: what of a store is finished, so that a stopped run is continued.

It stands where the manifest will be. Nothing is noted before it is on the disk. Format in
docs/store-format.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_moe.errors import PackError
from flash_moe.store.manifest import PARTIAL_FILE, write_json

JOURNAL = 2


@dataclass
class Journal:
    """What an earlier run finished.

    Attributes:
        fingerprint: Of source and settings.
        origin: Of a pulled store: repository, revision asked for, commit.
        shards: Names of source files of which nothing more is needed.
        layers: Decoder layer number to checksums, for complete record files.
        errors: ``"layer/projection"`` to (sum of squared errors, sum of squares).
    """

    fingerprint: str = ""
    origin: dict[str, str] = field(default_factory=dict)
    shards: set[str] = field(default_factory=set)
    layers: dict[int, list[str]] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def write(self, dst: Path) -> None:
        table = {
            "journal": JOURNAL,
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "shards": sorted(self.shards),
            "layers": self.layers,
            "errors": self.errors,
        }
        write_json(dst / PARTIAL_FILE, table)


def read_journal(dst: Path) -> Journal | None:
    """The journal of a partial store; ``None`` where there is none.

    Raises:
        PackError: Not a journal of this version.
    """
    file = dst / PARTIAL_FILE
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        if type(table["journal"]) is not int or table["journal"] != JOURNAL:
            raise ValueError(f"expected journal {JOURNAL}, got {table['journal']}")
        return Journal(
            _text(table["fingerprint"]),
            {_text(k): _text(v) for k, v in table["origin"].items()},
            {_text(name) for name in table["shards"]},
            {int(n): [_text(c) for c in sums] for n, sums in table["layers"].items()},
            {k: _error(v) for k, v in table["errors"].items()},
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PackError(
            "pack", f"{file} is not a journal of this version: {error}", "Delete the directory."
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def _error(value: Any) -> tuple[float, float]:
    first, second = (float(v) for v in value)
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"expected finite sums, got {value!r}")
    return first, second
