"""Training wordings by intent."""

from __future__ import annotations

from scripts.demo_model.corpus import table
from scripts.demo_model.ways import Ways

WEATHER = table("wordings/weather.toml", Ways)
WEATHER_UNIT = table("wordings/weather_unit.toml", Ways)
TIME_CITY = table("wordings/time_city.toml", Ways)
TIME_HERE = table("wordings/time_here.toml", Ways)
CONVERT = table("wordings/convert.toml", Ways)
SEARCH = table("wordings/search.toml", Ways)
READ_FILE = table("wordings/read_file.toml", Ways)
LIST_FILES = table("wordings/list_files.toml", Ways)
WRITE_FILE = table("wordings/write_file.toml", Ways)
# Per meaning, an expression of the slots.
CALCULATE = table("wordings/calculate.toml", dict[str, Ways])
# Meanings, each drawn in proportion to its number of wordings.
MEANINGS = (
    list(CALCULATE),
    [len((*w.direct, *w.do, *w.what, *w.whether)) for w in CALCULATE.values()],
)
