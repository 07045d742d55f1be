"""Quantization options of a store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.files.json_file import integer, kind, table
from flash_moe.options.declare import option
from flash_moe.store.layout import Quantization

DEFAULT_BITS = 4
DEFAULT_GROUP_SIZE = 64
GROUP_SIZES = (32, 64, 128)
EXPERT_BITS = (2, 3, 4, 6, 8)  # bits that the scale search supports
_ALLOWED = {"bits": (2, 3, 4, 5, 6, 8), "group_size": GROUP_SIZES, "expert_bits": EXPERT_BITS}


@dataclass(frozen=True)
class QuantizationConfig:
    """Quantization of a store's weights. ``None`` means that the user did not choose.

    Raises:
        ConfigError: MLX or the scale search does not support a number.
    """

    bits: int | None = option(
        None,
        "quantize the weights to this many bits, with the scales of mx.quantize",
        "--bits",
        default=f"quantized weights stay as they are, others get {DEFAULT_BITS}",
    )
    group_size: int | None = option(
        None, "weights that share a scale", "--group-size", default=str(DEFAULT_GROUP_SIZE)
    )
    expert_bits: int | None = option(
        None,
        "quantize the experts, including quantized ones, to this many bits with searched scales: "
        f"{', '.join(map(str, EXPERT_BITS))}",
        "--expert-bits",
        default="like the other weights",
    )

    def __post_init__(self) -> None:
        for name, n in self.chosen.items():
            if n not in _ALLOWED[name]:
                what = name.replace("_", " ")
                raise ConfigError("pack", f"{what}: expected one of {_ALLOWED[name]}, got {n}")

    @property
    def chosen(self) -> dict[str, int]:
        """Options that the user chose, by name."""
        return {name: n for name, n in vars(self).items() if n is not None}

    @property
    def weights(self) -> Quantization:
        """Quantization of weights that are not quantized yet, defaults included."""
        return Quantization(self.bits or DEFAULT_BITS, self.group_size or DEFAULT_GROUP_SIZE)

    @property
    def experts(self) -> Quantization | None:
        """Quantization of experts with searched scales; ``None`` if not chosen."""
        return None if self.expert_bits is None else replace(self.weights, bits=self.expert_bits)

    @property
    def is_for_all(self) -> bool:
        """True if the user chose bits or group size, so that all weights are quantized."""
        return self.bits is not None or self.group_size is not None

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return [("--" + name.replace("_", "-"), str(n)) for name, n in self.chosen.items()]

    @property
    def flags(self) -> tuple[str, ...]:
        """Command-line arguments for this choice: ``--bits``, ``4``."""
        return tuple(word for pair in self._pairs for word in pair)

    @property
    def suffix(self) -> str:
        """Suffix of a store's directory name: ``--bits-4``; empty without a choice."""
        return "".join(map("-".join, self._pairs))

    @property
    def fingerprint(self) -> str:
        """Text that journals hash. It keeps an old class name, so older partial stores continue."""
        q = f"bits={self.weights.bits}, group_size={self.weights.group_size}"
        return f"QuantizeOptions({q}, expert_bits={self.expert_bits})"

    def check_adopted(self) -> None:
        """Raise ConfigError for any choice if record files are adopted."""
        if self.chosen:
            raise ConfigError(
                "pack",
                "an adopted store keeps its bits: drop --bits, --group-size and --expert-bits",
            )

    def check_quantized(self, name: str) -> None:
        """Raise ConfigError for bits or group size if the experts are quantized already."""
        if self.is_for_all:
            raise ConfigError(
                "pack",
                f"the experts of {name} are quantized already",
                "Drop --bits and --group-size to pack them unchanged; --expert-bits requantizes "
                "them.",
            )

    def to_json(self) -> dict[str, int]:
        """Return the row of the manifest; empty without a choice."""
        return dict(sorted(self.chosen.items()))

    @staticmethod
    def from_json(row: Any) -> QuantizationConfig:
        """Read a row of the manifest.

        Raises:
            ValueError: An option is unknown, or a number is not supported.
        """
        chosen = table(row)
        if not set(chosen) <= set(_ALLOWED):
            raise ValueError(f"quantize: expected {tuple(_ALLOWED)}, got {kind(chosen)}")
        try:
            return QuantizationConfig(**{name: integer(chosen, name) for name in chosen})
        except ConfigError as error:
            raise ValueError(f"quantize: {error.problem}") from None


AS_IT_IS = QuantizationConfig()
