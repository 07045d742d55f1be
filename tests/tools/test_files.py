"""Reading files and folders below one directory, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flash_moe.errors import ConfigError
from flash_moe.tools import ToolError
from flash_moe.tools.builtin import list_files, read_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to be read, beside things that are not."""
    (tmp_path / "secret.txt").write_text("secret")
    inside = tmp_path / "inside"
    (inside / "sub" / "deep").mkdir(parents=True)
    (inside / "a.txt").write_text("Hello,\nwörld")
    (inside / "empty").write_text("")
    (inside / "sub" / "b.txt").write_text("b")
    (inside / "out").symlink_to(tmp_path / "secret.txt")
    (inside / "up").symlink_to(tmp_path)
    (inside / "in").symlink_to(inside / "sub" / "b.txt")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "dangling").symlink_to(inside / "nowhere")
    (inside / "binary").write_bytes(b"\x7fELF\0\0")
    (inside / "latin").write_bytes("ä".encode("latin-1"))
    os.mkfifo(inside / "pipe")
    return inside


def read(root: Path, path: str, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_file(root, **options).run({"path": path}))
    return found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.txt", "Hello,\nwörld"),
        ("./sub/../a.txt", "Hello,\nwörld"),
        ("sub/b.txt", "b"),
        ("in", "b"),
        ("empty", ""),
    ],
)
def test_files(path: str, text: str, root: Path) -> None:
    assert read(root, path) == {"path": path, "text": text}


def test_whole_paths_below_the_folder(root: Path) -> None:
    assert read(root, str(root / "a.txt"))["text"] == "Hello,\nwörld"


@pytest.mark.parametrize(
    "path", ["../secret.txt", "out", "up/secret.txt", "/etc/passwd", "/nowhere/at/all", "..",
             "sub/../../secret.txt", "up/absent", "~/x/../../../../../etc/passwd"],
)  # fmt: skip
def test_outside(path: str, root: Path) -> None:
    for tool in (read_file(root), list_files(root)):
        with pytest.raises(
            ToolError, match=r"is outside of the folder|no such file or folder"
        ) as e:
            tool.run({"path": path})
        assert "secret" not in str(e.value).replace(path, "")
    if not path.startswith("~"):
        with pytest.raises(ToolError, match="is outside of the folder that may be read"):
            read(root, path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("absent", "no such file or folder: absent"),
        ("a.txt/x", "no such file or folder: a.txt/x"),
        ("dangling", "no such file or folder: dangling"),
        ("sub", "sub is a folder. List it instead."),
        ("", " is a folder"),
        ("binary", "not a text file: binary"),
        ("latin", "not a text file: latin"),
        ("pipe", "not a regular file: pipe"),
        ("loop", "'loop': "),
        ("a\0b", "null"),
        ("x" * 5000, "name too long"),
        ("\ud800", "surrogates"),
    ],
)
def test_what_cannot_be_read(path: str, says: str, root: Path) -> None:
    with pytest.raises(ToolError) as caught:
        read(root, path)
    assert says.lower() in str(caught.value).lower()
    assert len(str(caught.value)) < 600


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_without_permission(root: Path) -> None:
    (root / "a.txt").chmod(0)
    with pytest.raises(ToolError, match="Permission denied"):
        read(root, "a.txt")


def test_long_files_are_cut(root: Path) -> None:
    (root / "long").write_text("é" * 100)
    assert read(root, "long", max_bytes=200) == {"path": "long", "text": "é" * 100}
    cut = read(root, "long", max_bytes=9)
    assert cut == {"path": "long", "text": "éééé", "shown": "first 9 of 200 bytes"}
    (root / "long").write_bytes(b"abc\xff" + b"d" * 100)
    with pytest.raises(ToolError, match="not a text file"):
        read(root, "long", max_bytes=9)
    huge = root / "huge"
    with huge.open("wb") as file:
        file.write(b"x")
        file.truncate(1 << 40)
    with pytest.raises(ToolError, match="not a text file"):
        read(root, "huge")


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_arrives_whole(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "any.txt").write_bytes(text.encode())
    assert read(root, "any.txt")["text"] == text


def test_control_characters_do_not_break_the_bound(root: Path) -> None:
    (root / "bells").write_bytes(b"\a" * 20_000)
    assert read(root, "bells")["text"] == "\a" * 20_000


@given(path=st.text(max_size=20) | st.sampled_from(["../" * n for n in range(9)]))
@example(path="none/\0")
def test_any_path_stays_inside(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.getbasetemp() / "any"
    (top / "root").mkdir(parents=True, exist_ok=True)
    (top / "beside").write_text("secret")
    for tool in (read_file(top / "root"), list_files(top / "root")):
        try:
            assert "beside" not in json.loads(tool.run({"path": path})).get("files", [])
        except ToolError:
            continue


def listing(root: Path, path: str, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(list_files(root, **options).run({"path": path}))
    return found


def test_folders(root: Path) -> None:
    expected = [
        *("a.txt", "binary", "dangling", "empty", "in", "latin"),
        *("loop", "out", "pipe", "sub/", "up/"),
    ]
    for path in (".", "", str(root)):
        assert listing(root, path) == {"path": path, "files": expected}
    assert listing(root, "sub") == {"path": "sub", "files": ["b.txt", "deep/"]}
    assert listing(root, "sub/deep")["files"] == []
    assert listing(root, ".", max_entries=2) == {
        "path": ".",
        "files": ["a.txt", "binary"],
        "shown": "first 2 of 11",
    }


def test_a_file_is_no_folder(root: Path) -> None:
    with pytest.raises(ToolError, match=r"a\.txt is a file\. Read it instead"):
        listing(root, "a.txt")


def test_bad_limits(root: Path) -> None:
    for make, option in ((read_file, "max_bytes"), (list_files, "max_entries")):
        with pytest.raises(ConfigError, match="expected a directory"):
            make(root / "a.txt")
        with pytest.raises(ConfigError, match=f"{option}: expected at least 1, got 0"):
            make(root, 0)
