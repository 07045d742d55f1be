"""Human-readable sizes in powers of ten, as for disks: 1 GB is 10^9 bytes."""

from __future__ import annotations


def format_bytes(n_bytes: float) -> str:
    """Return a size with its unit and one decimal: ``7.1 MB``. Below 1000 bytes it is exact."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.95:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def format_least_gb(n_bytes: int) -> str:
    """Return the minimum for an option in GB: ``4.247 GB``.

    Four digits, rounded up, so that the printed number is large enough when typed.
    """
    step = 10 ** max(len(str(n_bytes)) - 4, 0)
    enough = -(-n_bytes // step) * step
    return f"{enough / 1e9:.9f}".rstrip("0").rstrip(".") + " GB"
