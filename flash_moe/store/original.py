"""``layout.json`` of the original Flash-MoE: the layout of its record files."""

from __future__ import annotations

import os
from pathlib import Path

from flash_moe.errors import CorruptFileError, ModelNotFoundError, UnsupportedModelError
from flash_moe.store.json_file import integer, read_json
from flash_moe.store.layout import RecordLayout


def read_layout_json(file: Path) -> tuple[RecordLayout, int, int]:
    """Read a layout, without looking at the record files beside it.

    Returns:
        The layout of a record, the number of MoE layers, and of experts in each.

    Raises:
        ModelNotFoundError: There is no such file.
        CorruptFileError: It is no layout.
        UnsupportedModelError: It is one of records that do not form an expert.
    """
    if not os.path.isfile(file):
        raise ModelNotFoundError(
            "store", f"{file.parent} has no {file.name}", "Give the packed_experts directory."
        )
    try:
        table = read_json(file)
        layout = RecordLayout.from_json(table, size_key="expert_size")
        return layout, integer(table, "num_layers", least=1), integer(table, "num_experts", least=1)
    except UnsupportedModelError as error:
        raise UnsupportedModelError("store", f"{file}: {error.problem}", error.hint) from None
    except ValueError as error:
        raise CorruptFileError("store", f"{file}: not a layout: {error}") from None
