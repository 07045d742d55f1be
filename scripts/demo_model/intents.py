"""All wordings of training, intent by intent."""

from __future__ import annotations

from scripts.demo_model.corpus import (
    calculate,
    convert,
    core,
    files,
    search,
    time_of_day,
    weather,
    write,
)
from scripts.demo_model.ways import Ways


def _with(direct: tuple[str, ...], ways: Ways) -> Ways:
    return Ways((*direct, *ways.direct), ways.do, ways.what, ways.whether)


WEATHER = _with(core.WEATHER, weather.WEATHER)
WEATHER_UNIT = _with(core.WEATHER_UNIT, weather.WEATHER_UNIT)
TIME_CITY = _with(core.TIME_CITY, time_of_day.TIME_CITY)
TIME_HERE = _with(core.TIME_HERE, time_of_day.TIME_HERE)
CONVERT = _with(core.CONVERT, convert.CONVERT)
SEARCH = _with(core.SEARCH, search.SEARCH)
READ_FILE = _with(core.READ_FILE, files.READ_FILE)
LIST_FILES = _with(core.LIST_FILES, files.LIST_FILES)
WRITE_FILE = _with(core.WRITE_FILE, write.WRITE_FILE)
# By meaning: an expression of the slots.
CALCULATE = {
    meaning: _with(tuple(w for w, means in core.CALCULATE if means == meaning), ways)
    for meaning, ways in calculate.CALCULATE.items()
}
# Meanings and how often each is drawn: as many wordings, so often.
MEANINGS = (
    list(CALCULATE),
    [len((*w.direct, *w.do, *w.what, *w.whether)) for w in CALCULATE.values()],
)
