"""How the weights of a store are to be quantized."""

from __future__ import annotations

from dataclasses import dataclass

from flash_moe.errors import ConfigError

BITS = (2, 3, 4, 5, 6, 8)
EXPERT_BITS = (2, 3, 4, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class QuantizeOptions:
    """``bits`` and ``group_size`` of ``mx.quantize`` (affine).

    Attributes:
        expert_bits: Of the experts, with a search for the best scales (``scale_search.py``);
            ``None`` treats them like the rest, with the scales of ``mx.quantize``.

    Raises:
        ConfigError: A number that MLX or the search does not take.
    """

    bits: int = 4
    group_size: int = 64
    expert_bits: int | None = None

    def __post_init__(self) -> None:
        _check("bits", self.bits, BITS)
        _check("group size", self.group_size, GROUP_SIZES)
        if self.expert_bits is not None:
            _check("expert bits", self.expert_bits, EXPERT_BITS)


def _check(name: str, value: int, allowed: tuple[int, ...]) -> None:
    if value not in allowed:
        raise ConfigError("pack", f"{name}: expected one of {allowed}, got {value}")
