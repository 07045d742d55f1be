"""Write docs/lab.md and its picture from docs/lab.json.

flash-moe lab --json docs/lab.json && python scripts/lab_page.py
"""

from __future__ import annotations

import json
from pathlib import Path

from flash_moe.lab.picture import save_picture
from flash_moe.lab.report import page

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> None:
    lab = json.loads((DOCS / "lab.json").read_text(encoding="utf-8"))
    (DOCS / "lab.md").write_text(page(lab), encoding="utf-8")
    for theme in ("light", "dark"):
        save_picture(lab, DOCS / "images" / f"lab-{theme}.png", dark=theme == "dark")


if __name__ == "__main__":
    main()
