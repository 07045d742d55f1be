"""Assumptions behind the figures of a plan as sentences to print, each with its source."""

from __future__ import annotations

from flash_moe.files.sizes import format_bytes
from flash_moe.memory.plan import MIN_CHUNK
from flash_moe.plan.device_tiers import LOOKAHEAD_LEFT, DeviceTiers
from flash_moe.plan.figure import Range
from flash_moe.plan.forecast import Machine
from flash_moe.plan.hit_rate_model import TEXT

_HIDDEN = "Reads by KvikIO: up to {:.2g} ms of each layer run while Python builds the next."


def assumptions(machine: Machine, machines: int = 1) -> tuple[str, ...]:
    """Return the sentences.

    Args:
        machines: Machines among which the model is divided.
    """
    tiers = machine.tiers
    return (
        *(_of_rates(machine) if machine.rates_known else ()),
        *(_of_tiers(tiers) if tiers else ()),
        *(_of_a_group(machine.collective_s, machines) if machines > 1 else ()),
        "Hit rate, assumed: routing like a published run of Qwen3.5-397B on one text, least "
        f"recently used; from an empty bank over {TEXT} tokens, and settled. Other models and "
        "texts were 5 to 15 points off.",
        f"Not counted: {'' if tiers else 'experts in the page cache, '}attention over a long "
        "context.",
        "Sizes follow from the headers of the files, exactly. Memory counts prompts in their "
        f"shortest chunks, {MIN_CHUNK} tokens; longer ones are faster and take what is left.",
    )


def _of_rates(machine: Machine) -> tuple[str, ...]:
    share, layer = machine.expert_share, machine.layer_s
    on_cores = "" if share == 1 else f", on one core, which computes {share:.0%} of its experts"
    gb_s = {
        "Reads of the disk": machine.read_bytes_per_s,
        f"Weights that pass when a token is computed{on_cores}": machine.weight_bytes_per_s,
    }
    each = f"Beside them {layer.value * 1e3:.3g} ms for each MoE layer"
    if machine.tiers is None:
        per_layer = f"{each} at worst, nothing at best; {layer.source}: {layer.note}."
    else:
        held = machine.tiers.held_layer_s
        per_layer = (
            f"{each}, computing included, {layer.source}: {layer.note}. "
            f"{held.value * 1e3:.3g} ms if the GPU has all its experts, {held.source}: {held.note}."
        )
    return (
        *(f"{what}: {f.value / 1e9:.3g} GB/s, {f.source}: {f.note}." for what, f in gb_s.items()),
        per_layer,
    )


def _of_tiers(tiers: DeviceTiers) -> tuple[str, ...]:
    kinds = {"Copies of pinned memory": tiers.copy, "Reads of the page cache": tiers.page_cache}
    return (
        *(
            f"{name} to the GPU: {kind.one.value / 1e9:.3g} GB/s for one record, "
            f"{kind.one.source}: {kind.one.note}; {kind.many.value / 1e9:.3g} for {kind.n}, "
            f"{kind.many.source}: {kind.many.note}."
            for name, kind in kinds.items()
        ),
        f"Host memory: {format_bytes(tiers.host_bytes)} pinned for experts, "
        f"{format_bytes(tiers.page_bytes)} of record files in the page cache.",
        *([_HIDDEN.format(tiers.readers.hidden_s * 1e3)] if tiers.readers.hidden_s else ()),
        *([f"Lookahead leaves {LOOKAHEAD_LEFT:.0%} of the waiting."] * tiers.lookahead),
    )


def _of_a_group(one: Range, machines: int) -> tuple[str, ...]:
    low, high = (f"{1e6 * second:.3g}" for second in (one.low, one.high))
    each = low if low == high else f"{low} to {high}"
    return (
        f"{machines} machines like this one: each reads and computes 1/{machines} of every expert, "
        "so its bank holds that share of each; the milliseconds per layer are not divided.",
        f"Messages: two sums over all machines per layer at worst, one at best, {each} us each, "
        f"{one.source}; not seen between Macs.",
    )
