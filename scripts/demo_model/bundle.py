"""Put a trained model into the package: a 4-bit store and prompts for its evaluation.

    python -m scripts.demo_model.bundle CHECKPOINT   # replace store and prompts.json of the package
    python -m scripts.demo_model.bundle              # write the checksums of the other files again

CHECKPOINT is the output of ``export.py``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from flash_moe.demo_model import PROMPTS, STORE
from flash_moe.files.atomic import write_json
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.checksums import describe
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.unused import UnusedWeights
from scripts.demo_model import judge

MOST_BYTES = 16_000_000
# Every Nth prompt of each kind: all of them take minutes on a small machine.
SHARE = 4


def some_prompts(seed: int) -> list[judge.Prompt]:
    """Return the same share of the held-out prompts of each tool and kind."""
    chosen: list[judge.Prompt] = []
    seen: dict[str, int] = {}
    for prompt in judge.prompts(seed):
        kind = prompt["kind"]
        group = f"{kind} {prompt['expected']['name']}" if kind == "tool" else kind
        seen[group] = seen.get(group, -1) + 1
        if seen[group] % SHARE == 0:
            chosen.append(prompt)
    return chosen


def write_checksums(store: Path) -> None:
    """Write the manifest again, with the checksums of all files that are not weights."""
    manifest = read_manifest(store)
    weights = {MANIFEST_FILE, *(file.file for file in manifest.tensor_files)}
    names = [f.name for f in store.iterdir() if f.is_file() and f.name not in weights]
    unused = manifest.unused or UnusedWeights()
    manifest = replace(manifest, auxiliary_files=describe(store, names), unused=unused)
    write_json(store / MANIFEST_FILE, manifest.to_json())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="?")
    args = parser.parse_args()
    if args.checkpoint is None:
        write_checksums(STORE)
        return 0
    shutil.rmtree(STORE, ignore_errors=True)
    pack(open_source(args.checkpoint, QuantizationConfig(bits=4)), STORE)
    prompts = some_prompts(seed=1)
    lines = ",\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    PROMPTS.write_text(f"[\n{lines}\n]\n", "utf-8")
    files = [f for f in (*STORE.rglob("*"), PROMPTS) if f.is_file()]
    n_bytes = sum(f.stat().st_size for f in files)
    print(f"{n_bytes:,} bytes in {len(files)} files, {len(prompts)} prompts")
    if n_bytes > MOST_BYTES:
        raise SystemExit(f"expected at most {MOST_BYTES:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
