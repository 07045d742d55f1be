"""``convert_units``: length, weight, temperature, volume, speed, time and data.

Factors are from NIST Special Publication 811 (2008), Appendix B; those of the yard, pound,
nautical mile, US gallon (231 cubic inches) and imperial gallon are exact by definition. Data units
are from IEC 80000-13: kB is 1000 bytes, KiB is 1024. A year has 365 days; a ton is the short ton.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from flash_moe.errors import ToolError
from flash_moe.tools.definition import Tool

_INCH, _POUND, _GALLON = 0.0254, 0.45359237, 3.785411784

# quantity: units, each with all its names and its size in base units. Names of one or two letters
# keep their case if another unit needs the other case.
_TABLE: dict[str, dict[str, float]] = {
    "length": {
        "m meter meters metre metres": 1.0,
        "km kilometer kilometers kilometre kilometres kms": 1000.0,
        "cm centimeter centimeters centimetre centimetres": 0.01,
        "mm millimeter millimeters millimetre millimetres": 0.001,
        "µm um micrometer micrometers micrometre micrometres micron microns": 1e-6,
        "nm nanometer nanometers nanometre nanometres": 1e-9,
        "in inch inches": _INCH,
        "ft foot feet": 12 * _INCH,
        "yd yard yards": 36 * _INCH,
        "mi mile miles": 63360 * _INCH,
        "nmi nautical_mile nautical_miles": 1852.0,
    },
    "weight": {
        "kg kilogram kilograms kilo kilos": 1.0,
        "g gram grams gramme grammes": 0.001,
        "mg milligram milligrams": 1e-6,
        "t tonne tonnes metric_ton metric_tons": 1000.0,
        "lb lbs pound pounds": _POUND,
        "oz ounce ounces": _POUND / 16,
        "st stone stones": 14 * _POUND,
        "ton tons short_ton short_tons": 2000 * _POUND,
    },
    "volume": {
        "l liter liters litre litres": 1.0,
        "ml milliliter milliliters millilitre millilitres": 0.001,
        "cl centiliter centiliters centilitre centilitres": 0.01,
        "dl deciliter deciliters decilitre decilitres": 0.1,
        "m3 m³ cubic_meter cubic_meters cubic_metre cubic_metres": 1000.0,
        "gal gallon gallons us_gallon us_gallons": _GALLON,
        "imperial_gallon imperial_gallons uk_gallon uk_gallons": 4.54609,
        "qt quart quarts": _GALLON / 4,
        "pt pint pints": _GALLON / 8,
        "cup cups": _GALLON / 16,
        "fl_oz fluid_ounce fluid_ounces": _GALLON / 128,
        "tbsp tablespoon tablespoons": _GALLON / 256,
        "tsp teaspoon teaspoons": _GALLON / 768,
    },
    "speed": {
        "m/s mps meters_per_second metres_per_second": 1.0,
        "km/h kmh kph kilometers_per_hour kilometres_per_hour": 1 / 3.6,
        "mph mi/h miles_per_hour": 63360 * _INCH / 3600,
        "ft/s fps feet_per_second": 12 * _INCH,
        "kn kt knot knots": 1852 / 3600,
    },
    "time": {
        "s sec secs second seconds": 1.0,
        "ms millisecond milliseconds": 0.001,
        "min mins minute minutes": 60.0,
        "h hr hrs hour hours": 3600.0,
        "d day days": 86400.0,
        "wk week weeks": 604800.0,
        "yr year years": 365 * 86400.0,
    },
    "data": {
        "B byte bytes": 8.0,
        "bit bits": 1.0,
        "kB kb kilobyte kilobytes": 8e3,
        "MB mb megabyte megabytes": 8e6,
        "GB gb gigabyte gigabytes": 8e9,
        "TB tb terabyte terabytes": 8e12,
        "PB pb petabyte petabytes": 8e15,
        "KiB kib kibibyte kibibytes": 8.0 * 2**10,
        "MiB mib mebibyte mebibytes": 8.0 * 2**20,
        "GiB gib gibibyte gibibytes": 8.0 * 2**30,
        "TiB tib tebibyte tebibytes": 8.0 * 2**40,
        "kbit kilobit kilobits": 1e3,
        "Mb Mbit mbit megabit megabits": 1e6,
        "Gb Gbit gbit gigabit gigabits": 1e9,
    },
}
# name: kelvin per degree, and degrees at 0 kelvin
_DEGREES = {"k": (1.0, 0.0), "c": (1.0, -273.15), "f": (5 / 9, -459.67)}
_TEMPERATURES = {
    **dict.fromkeys("K kelvin kelvins".split(), "k"),  # noqa: SIM905
    **dict.fromkeys("C celsius centigrade".split(), "c"),  # noqa: SIM905
    **dict.fromkeys("F fahrenheit".split(), "f"),  # noqa: SIM905
}


def _names() -> dict[str, tuple[str, float]]:
    return {
        name: (quantity, factor)
        for quantity, units in _TABLE.items()
        for names, factor in units.items()
        for name in names.split()
    }


_NAMES = _names()


def _find(unit: str) -> tuple[str, Any]:
    """Return quantity and factor of a unit, or ``temperature`` and its letter."""
    name = " ".join(unit.strip().split()).rstrip(".")
    for word in ("degrees ", "degree ", "deg ", "°"):
        if name.lower().startswith(word):
            name = name[len(word) :].strip()
    name = name.replace(" ", "_")
    for known in (name, name.lower(), name.upper() if len(name) == 1 else name):
        if known in _NAMES:
            return _NAMES[known]
        if known in _TEMPERATURES:
            return "temperature", _TEMPERATURES[known]
    raise ToolError(
        "convert_units", f"unknown unit: {unit:.80}", "Try another name, such as miles or km."
    )


def convert(value: float, from_unit: str, to_unit: str) -> float:
    """Return a value in another unit, to 10 digits.

    Raises:
        ToolError: An unknown unit, units of different quantities, or a temperature below absolute
            zero.
    """
    (source, a), (target, b) = _find(from_unit), _find(to_unit)
    if source != target:
        raise ToolError(
            "convert_units",
            f"units do not fit together: {from_unit} ({source}), {to_unit} ({target})",
        )
    if source == "temperature":
        (size, zero), (new_size, new_zero) = _DEGREES[a], _DEGREES[b]
        kelvin = (value - zero) * size
        if kelvin < -1e-9:
            raise ToolError("convert_units", f"{value:g} {from_unit} is below absolute zero")
        result = round(kelvin / new_size + new_zero, 9)  # 32 F are 0 C, not 5.7e-14
    else:
        result = value * a / b
    if not math.isfinite(result):
        raise ToolError("convert_units", "the number is too large")
    return float(f"{result:.10g}")


def _convert_units(
    value: Annotated[float, "The value"],
    from_unit: Annotated[str, "Its unit"],
    to_unit: Annotated[str, "The unit wanted"],
) -> dict[str, Any]:
    """Convert a value from one unit to another."""
    result = convert(value, from_unit, to_unit)
    return {
        "value": _short(value),
        "from_unit": from_unit,
        "to_unit": to_unit,
        "result": _short(result),
    }


def _short(value: float) -> int | float:
    """Return whole numbers as integers."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


convert_units = Tool(_convert_units, name="convert_units")
