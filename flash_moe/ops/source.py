"""Look-up and reading of the kernel sources, in a wheel or an editable install.

``FLASH_MOE_KERNEL_DIR`` names a directory that replaces the shipped one as a whole. There is no
fallback from it to a shipped file, so that an edited kernel is certain to be the one that runs.
"""

from __future__ import annotations

import functools
from pathlib import Path

from flash_moe.env import read_environment
from flash_moe.errors import ConfigError


def kernels_dir() -> Path:
    """Return the directory of the ``*.metal`` files: that of the environment, or the shipped one.

    Raises:
        ConfigError: ``FLASH_MOE_KERNEL_DIR`` is not a directory, or the installation is broken.
    """
    given = read_environment().kernel_dir
    if given is None:
        return shipped_kernels_dir()
    chosen = given.expanduser().absolute()
    if not chosen.is_dir():
        raise ConfigError(
            "kernels", f"FLASH_MOE_KERNEL_DIR: {chosen} is not a directory", _how_to_edit()
        )
    return chosen


def shipped_kernels_dir() -> Path:
    """Return the directory of the ``*.metal`` files shipped with flash_moe.

    A wheel has them inside the package, an editable install in the repository next to the package.
    The path never depends on the current directory.

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


def read_kernel_file(name: str) -> str:
    """Return the text of a file of :func:`kernels_dir`, read once per process.

    Raises:
        ConfigError: There is no such file; no other directory is searched.
    """
    return _read(kernels_dir() / name)


@functools.cache
def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        if read_environment().kernel_dir is None:
            raise ConfigError(
                "kernels", f"expected {file}: {reason}", "Install flash_moe again."
            ) from None
        raise ConfigError(
            "kernels", f"FLASH_MOE_KERNEL_DIR: expected {file}: {reason}", _how_to_edit()
        ) from None


def _how_to_edit() -> str:
    return f"Copy all of {shipped_kernels_dir()} there and edit the copy, or unset the variable."
