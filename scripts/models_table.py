"""Write docs/models.md from the tiny models of the tests: one row per module of mlx-lm.

python scripts/models_table.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generated_page
import mlx.nn as nn
import mlx_lm.models
from mlx_lm.utils import MODEL_REMAPPING, _get_classes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flash_moe.compat.expert_modules import replace_module, switch_modules  # noqa: E402
from flash_moe.compat.mlx_lm import SwiGLU  # noqa: E402
from flash_moe.config import model_config  # noqa: E402
from flash_moe.errors import UnsupportedModelError  # noqa: E402
from flash_moe.memory.prefill_workspace import KNOWN_KINDS  # noqa: E402
from flash_moe.model.moe_block import KNOWN  # noqa: E402
from flash_moe.model.next_router import Router  # noqa: E402
from flash_moe.model.switch import StreamedExperts  # noqa: E402
from flash_moe.store.layout import PROJECTION_SETS, PROJECTIONS  # noqa: E402
from tests.support import muse_spark_on_cpu  # noqa: E402
from tests.support.config_fields import BASE  # noqa: E402
from tests.support.hf_originals import KINDS  # noqa: E402
from tests.support.model_configs import CONFIGS  # noqa: E402

FILE = ROOT / "docs" / "models.md"
HEAD = """# Models

Written by `python scripts/models_table.py` from the tiny models of the tests; do not edit. Every
module of mlx-lm 0.32.2 that has switch layers streams: `tests/model/test_architectures.py` compares
the logits with those of resident mlx-lm, to the bit on a CPU, from a checkpoint read in place and
from a store, with and without lookahead. `tests/model/test_memory_of_families.py` checks that each
stays below `memory_gb`. These are random models of a few megabytes; which models ran at their real
size is in [performance.md](performance.md).

- **module**: file in `mlx_lm/models`; **also** lists the other values of `model_type` that use it.
- **experts**: their projections. Two projections have no gate; the kernels do not take them.
- **on a GPU**: `block` means that the kernels compute the router and the experts
  ([kernels.md](kernels.md)), `experts` the experts alone, `plain MLX` that mlx-lm's own operations
  do, as everywhere on a CPU. The kernels take affine quantization; other formats, and layers with
  an activation other than SwiGLU or with additive biases, use plain MLX.
- **lookahead**: whether `lookahead=True` loads; it is refused otherwise.
- **prompts**: `estimated` if the memory of a chunk follows from the config; `measured` if the first
  chunk of a model is short and its peak determines the next ones ([streaming.md](streaming.md)).
- **original**: `compared` if packing the original in Hugging Face format is compared with
  `mlx_lm.convert`; the others take what mlx-lm's `sanitize` takes, and were not tried here.

The formats of experts are the same for all modules: those of [pulling.md](pulling.md).

"""


class Probe(StreamedExperts):
    """Experts without a bank, for the choice of ids alone."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # type: ignore[no-untyped-call]
        self._choose_only = False


def users(module: str) -> list[str]:
    """Return other model types that use a module: by mlx-lm's remapping, or by an import."""
    folder = Path(mlx_lm.models.__path__[0])
    imports = re.compile(rf"^from \.{module} import|^from \. import (?:.*\b)?{module}\b", re.M)
    found = {
        f.stem
        for f in folder.glob("*.py")
        if f.stem not in CONFIGS and imports.search(f.read_text(encoding="utf-8"))
    }
    found |= {other for name in tuple(found) for other in users(name)}
    named = {name for name, target in MODEL_REMAPPING.items() if target in found | {module}}
    return sorted(found | named)


def row(module: str) -> list[str]:
    config: dict[str, Any] = {"model_type": module, **BASE, **CONFIGS[module]}
    text = model_config(config).text
    model_class, args_class = _get_classes(json.loads(json.dumps(config)))
    model = model_class(args_class.from_dict(json.loads(json.dumps(config))))
    experts, computed, lookahead = set(), set(), "yes"
    for path, switch in switch_modules(model).items():
        (names,) = (each for each in PROJECTION_SETS if each[0] in switch)
        experts.add(", ".join(name.removesuffix("_proj") for name in names))
        with_kernels = names == PROJECTIONS and type(switch.activation) is SwiGLU
        with_kernels = with_kernels and "bias" not in switch[names[0]]
        probe = Probe()
        above = replace_module(model, path, probe)
        kind = "block" if type(above[0]) in KNOWN else "experts"
        computed.add(kind if with_kernels else "plain MLX")
        try:
            Router(above, probe.chosen_by).check(
                text.get("hidden_size", switch[names[0]].input_dims)
            )
        except UnsupportedModelError:
            lookahead = "no"
    known = text.get("model_type", module) in KNOWN_KINDS
    return [
        f"`{module}`",
        ", ".join(f"`{name}`" for name in users(module)),
        " and ".join(sorted(experts)),
        " and ".join(sorted(computed)),
        lookahead,
        "estimated" if known else "measured",
        "compared" if module in KINDS else "",
    ]


def page() -> str:
    muse_spark_on_cpu.install()

    def lines() -> Iterator[str]:
        yield "| module | also | experts | on a GPU | lookahead | prompts | original |"
        yield "|---|---|---|---|---|---|---|"
        for module in sorted(CONFIGS, key=str.lower):
            yield f"| {' | '.join(row(module))} |"

    return HEAD + "\n".join(lines()) + "\n"


if __name__ == "__main__":
    sys.exit(generated_page.main(FILE, page, __doc__))
