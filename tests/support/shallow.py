"""The tiny model with half its layers, for folders whose tests compute: half the time.

A ``conftest.py`` that has these fixtures puts them in the place of those of the same name.
"""

from __future__ import annotations

from dataclasses import replace

from flash_moe.testing import PRESETS
from tests.support.tiny_models import model_fixtures

# Two delta nets and two attentions: what mixes up layers of a kind still shows.
SHALLOW = replace(PRESETS["tiny"], layers=4, full_attention_interval=2)
tiny_hf, tiny_mlx, tiny_store = model_fixtures(SHALLOW)
