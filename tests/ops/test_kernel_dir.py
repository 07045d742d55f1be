"""FLASH_MOE_KERNEL_DIR takes the place of the shipped kernels as a whole, or is an error."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from flash_moe.errors import ConfigError
from flash_moe.ops import source
from flash_moe.ops.moe_experts import DOWN
from flash_moe.ops.source import kernels_dir, read_kernel_file, shipped_kernels_dir


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(shipped_kernels_dir(), tmp_path / "edited"))
    monkeypatch.setenv("FLASH_MOE_KERNEL_DIR", str(copy))
    return copy


def test_it_is_used(edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = (shipped_kernels_dir() / "moe_down.metal").read_text()
    (edited / "moe_down.metal").write_text("// mine\n" + shipped)
    (edited / "README.md").unlink()  # only kernel files are asked for
    assert kernels_dir() == edited
    assert DOWN.source == "// mine\n" + shipped
    monkeypatch.delenv("FLASH_MOE_KERNEL_DIR")
    assert kernels_dir() == shipped_kernels_dir()
    assert DOWN.source == shipped


def test_a_path_may_be_relative_or_begin_with_the_home(
    edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(edited.parent)
    monkeypatch.setenv("HOME", str(edited.parent))
    for text in ("edited", "~/edited"):
        monkeypatch.setenv("FLASH_MOE_KERNEL_DIR", text)
        assert kernels_dir() == edited


def test_it_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for name in ("absent", "file"):
        monkeypatch.setenv("FLASH_MOE_KERNEL_DIR", str(tmp_path / name))
        expected = rf"FLASH_MOE_KERNEL_DIR: .*{name} is not a directory\. Copy all of .*kernels"
        with pytest.raises(ConfigError, match=expected):
            read_kernel_file("moe_down.metal")


def test_a_file_it_lacks_is_never_the_shipped_one(edited: Path) -> None:
    (edited / "dequant.h").unlink()
    path = re.escape(str(edited / "dequant.h"))
    with pytest.raises(ConfigError, match=rf"expected {path}: No such file.*\. Copy all of"):
        read_kernel_file("dequant.h")
    (edited / "dequant.h").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_kernel_file("dequant.h")


def test_a_shipped_file_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "site" / "flash_moe"
    (broken / "kernels").mkdir(parents=True)
    (broken / "kernels" / "README.md").write_text("")
    monkeypatch.setattr(source, "__file__", str(broken / "ops" / "source.py"))
    with pytest.raises(ConfigError, match=r"expected .*moe_down\.metal.*Install flash_moe again"):
        read_kernel_file("moe_down.metal")
