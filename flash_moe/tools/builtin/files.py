"""``read_file`` and ``list_files``: below one directory, bounded, text only."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Annotated, Any

from flash_moe.errors import ConfigError, ToolError
from flash_moe.tools.definition import Tool

MAX_BYTES = 20_000  # of a file
MAX_ENTRIES = 500  # of a folder
_ROOM = 1000  # characters of a result in addition to a file's text


def existing_directory(path: str | Path, tool: str) -> Path:
    """Return the real path of a directory.

    Raises:
        ConfigError: It is not an existing directory.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError("tools", f"{tool}: expected a directory, got {path}")
    return root.resolve()


def below(root: Path, path: str, tool: str) -> Path:
    """Return the real path of a file or folder below ``root``, with links resolved.

    Raises:
        ToolError: The path is outside of ``root`` or does not exist.
    """
    try:
        inside = (root / path).resolve()
        real: Path | None = (root / path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        real = None
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links, too long
        why = getattr(error, "strerror", None) or error
        raise ToolError(tool, f"{path!r:.200}: {why}") from error
    if not inside.is_relative_to(root):
        raise ToolError(
            tool, f"{path:.200} is outside of the folder that may be read", "Use a relative path."
        )
    if real is None:
        raise ToolError(tool, f"no such file or folder: {path:.200}")
    return real


def read_file(root: str | Path, max_bytes: int = MAX_BYTES) -> Tool[[str], dict[str, Any]]:
    """Return a tool ``read_file(path)`` that reads text files below ``root``.

    Args:
        max_bytes: Limit of the returned beginning of a file; the result reports a longer file.

    Raises:
        ConfigError: No such directory, or ``max_bytes`` is below 1.
    """
    top = existing_directory(root, "read_file")
    if max_bytes < 1:
        raise ConfigError("tools", f"read_file: max_bytes: expected at least 1, got {max_bytes}")

    def read(path: Annotated[str, "Path of the file"]) -> dict[str, Any]:
        """Contents of a text file."""
        data, size = _beginning(below(top, path, "read_file"), path, max_bytes)
        # The limit may cut a character in two.
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(data, final=size <= len(data))
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ToolError("read_file", f"not a text file: {path:.200}")
        if size > len(data):
            return {"path": path, "text": text, "shown": f"first {len(data)} of {size} bytes"}
        return {"path": path, "text": text}

    # Each byte may become six characters of JSON.
    return Tool(read, name="read_file", max_result=6 * max_bytes + _ROOM)


def _beginning(file: Path, path: str, limit: int) -> tuple[bytes, int]:
    """Return the first bytes of a regular file, and its size."""
    try:
        # O_NONBLOCK: opening a pipe would wait for a writer. O_NOFOLLOW: the path is resolved.
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise ToolError("read_file", f"{path:.200}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise ToolError("read_file", f"{path:.200} is a folder", "List it instead.")
        if not stat.S_ISREG(status.st_mode):
            raise ToolError("read_file", f"not a regular file: {path:.200}")
        with open(fd, "rb", closefd=False) as stream:
            data = stream.read(limit)
    except OSError as error:
        raise ToolError("read_file", f"{path:.200}: {error.strerror}") from error
    finally:
        os.close(fd)
    return data, max(status.st_size, len(data))


def list_files(root: str | Path, max_entries: int = MAX_ENTRIES) -> Tool[[str], dict[str, Any]]:
    """Return a tool ``list_files(path)`` that lists folders below ``root``.

    Names are sorted; names of folders end with a slash.

    Raises:
        ConfigError: No such directory, or ``max_entries`` is below 1.
    """
    top = existing_directory(root, "list_files")
    if max_entries < 1:
        raise ConfigError(
            "tools", f"list_files: max_entries: expected at least 1, got {max_entries}"
        )

    def listing(path: Annotated[str, "The folder"]) -> dict[str, Any]:
        """Names of the files in a folder."""
        folder = below(top, path or ".", "list_files")
        try:
            with os.scandir(folder) as entries:
                names = sorted(f"{e.name}/" if _is_folder(e) else e.name for e in entries)
        except NotADirectoryError:
            raise ToolError("list_files", f"{path:.200} is a file", "Read it instead.") from None
        except OSError as error:
            raise ToolError("list_files", f"{path:.200}: {error.strerror}") from error
        result: dict[str, Any] = {"path": path, "files": names[:max_entries]}
        if len(names) > max_entries:
            result["shown"] = f"first {max_entries} of {len(names)}"
        return result

    return Tool(listing, name="list_files", max_result=300 * max_entries + _ROOM)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
