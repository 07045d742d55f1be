"""Finds and reads the kernel sources, in a wheel and in an editable install alike."""

from __future__ import annotations

import functools
from pathlib import Path

from flash_moe.errors import ConfigError


def kernels_dir() -> Path:
    """The directory of the ``*.metal`` files.

    A wheel carries them inside the package; an editable install leaves them in the repository,
    beside it. Never relative to the current directory.

    Raises:
        ConfigError: They are in neither place: the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    places = (package / "kernels", package.parent / "kernels")
    for place in places:
        if (place / "README.md").is_file():
            return place
    raise ConfigError(
        "kernels",
        f"expected the kernel sources in {places[0]} or {places[1]}, found neither",
        "Install flash_moe again.",
    )


@functools.cache
def read_kernel_file(name: str) -> str:
    """The text of a file of ``kernels/``.

    Raises:
        ConfigError: There is no such file: the installation is broken.
    """
    file = kernels_dir() / name
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "kernels", f"expected {file}: {error.strerror}", "Install flash_moe again."
        ) from None
