"""``get_time``: local time and that of cities, from the system's time zone database."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timezone
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from flash_moe.errors import ToolError
from flash_moe.tools.definition import Tool

# Other zones of the database are rules and old country names, not places.
_REGIONS = (
    *("Africa", "America", "Antarctica", "Arctic", "Asia"),
    *("Atlantic", "Australia", "Europe", "Indian", "Pacific"),
)
# Not strftime: its names depend on the locale of the process.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def _key(name: str) -> str:
    """Return a name without accents and case, its words separated by spaces."""
    plain = unicodedata.normalize("NFKD", name)
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(letters.replace("_", " ").replace("-", " ").casefold().split())


@lru_cache(maxsize=1)
def _zones() -> dict[str, str]:
    """Return zones by city (the last part of a zone's name) and by their whole names."""
    zones = {"utc": "UTC"}
    for name in sorted(available_timezones(), reverse=True):  # the first duplicate stays
        if name.split("/")[0] in _REGIONS and "/" in name:
            zones[_key(name)] = name
            zones[_key(name.split("/")[-1])] = name
    return zones


def zone_of(city: str) -> ZoneInfo:
    """Return the time zone that is named after a city.

    Raises:
        ToolError: No zone has that name. Large cities share zones, so many are missing.
    """
    zones = _zones()
    if len(zones) == 1:
        raise ToolError("get_time", "this machine has no time zone database")
    name = zones.get(_key(city.split(",")[0])) or zones.get(_key(city))
    if name is None:
        raise ToolError(
            "get_time",
            f"unknown city: {city:.80}",
            "Try a larger city in the same time zone, or a name such as Europe/Berlin.",
        )
    return ZoneInfo(name)


def time_at(now: datetime, city: str | None = None) -> dict[str, str]:
    """Return time and date of an instant in a city, or in the time zone of ``now``."""
    if city is not None and city.strip():
        now, place = now.astimezone(zone_of(city)), {"city": city}
    else:
        place = {}
    date = f"{_DAYS[now.weekday()]}, {now.day} {_MONTHS[now.month - 1]} {now.year}"
    return {**place, "time": f"{now:%H:%M}", "date": date}


def _get_time(
    city: Annotated[str | None, "Name of the city, left out for here"] = None,
) -> dict[str, str]:
    """Current time and date, here or in a city."""
    return time_at(datetime.now(timezone.utc).astimezone(), city)


get_time = Tool(_get_time, name="get_time")
