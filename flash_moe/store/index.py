"""``model.safetensors.index.json``: which shard of a checkpoint has which tensor."""

from __future__ import annotations

from pathlib import Path

from flash_moe.errors import CorruptFileError
from flash_moe.store.files import file_name, shown
from flash_moe.store.json_file import member, read_json, table

INDEX_FILE = "model.safetensors.index.json"


def read_index(file: Path) -> dict[str, str]:
    """Read a weight index, without looking at the shards.

    Returns:
        Tensor name to the name of its shard, which is a file in the directory of the index and in
        none below.

    Raises:
        CorruptFileError: It cannot be read, is larger than 64 MB, or no such index.
    """
    try:
        shards = table(member(read_json(file), "weight_map"))
        for tensor, shard in shards.items():
            if not tensor.isprintable():
                raise ValueError(f"{shown(tensor)} is no name of a tensor")
            if "/" in file_name(shard):
                raise ValueError(f"{shown(shard)} does not lie beside the index")
    except ValueError as error:
        raise CorruptFileError(
            "store", f"{file}: not a weight index: {error}", "Download the file again."
        ) from None
    return shards
