"""What is relied on inside mlx-lm: it is there, and its absence is a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flash_moe.compat import mlx_lm as mlx_lm_api
from flash_moe.errors import IncompatibleMlxLmError, ModelNotFoundError, UnsupportedModelError
from tests.support.processes import environment


def test_everything_is_there() -> None:
    mlx_lm_api.check()
    for module, name, _ in mlx_lm_api.RELIED_ON:
        assert hasattr(mlx_lm_api, name.split(".")[0].lstrip("_"))
        assert module != "mlx_lm.server"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("mlx_lm.no_such_module", "x", ()), "expected to import mlx_lm.no_such_module"),
        (("mlx_lm.utils", "no_such_name", ()), "expected mlx_lm.utils.no_such_name"),
        (("mlx_lm.utils", "load_model", ("no_such",)), "load_model to take no_such"),
    ],
)
def test_what_is_missing_is_named(
    row: tuple[str, str, tuple[str, ...]], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_lm_api, "RELIED_ON", (*mlx_lm_api.RELIED_ON, row))
    with pytest.raises(IncompatibleMlxLmError, match=expected) as caught:
        mlx_lm_api.check()
    assert "pip install" in str(caught.value)


def test_a_user_sees_one_line() -> None:
    """An mlx-lm without SwitchGLU, seen from the command line."""
    code = (
        "import sys, mlx_lm.models.switch_layers as s; del s.SwitchGLU\n"
        "from flash_moe.cli import main\n"
        "sys.exit(main(['generate', '/nowhere', '-p', 'x']))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert out.returncode == 1
    assert len(out.stderr.strip().splitlines()) == 1
    assert "expected mlx_lm.models.switch_layers.SwitchGLU" in out.stderr


def test_an_architecture_that_mlx_lm_does_not_know() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^\[plan\] mlx-lm: .*other.* Update mlx-lm"):
        mlx_lm_api.model_classes("plan", {"model_type": "other"})


def test_an_answer_ends_at_the_tokenizers_own_end_too(tokenizer_path: Path) -> None:
    tokenizer = mlx_lm_api.open_tokenizer("load", tokenizer_path, [3, 4])
    assert tokenizer.eos_token_ids == {3, 4, tokenizer.eos_token_id}


def test_files_that_make_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^\[eval\] .*the tokenizer"):
        mlx_lm_api.open_tokenizer("eval", tmp_path)
