"""Files of the page at ``/``, and the headers that they are sent with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No inline script or style, nothing from other hosts, no frames, and no text becomes HTML unless
# DOMPurify has sanitized it (trusted types).
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page.

    Attributes:
        kind: Its content type.
    """

    body: bytes
    kind: str


def page_files() -> dict[str, PageFile]:
    """Return the files by the paths that they are served at."""
    files = {
        f"/page/{file.relative_to(FOLDER).as_posix()}": PageFile(
            file.read_bytes(), _KINDS[file.suffix]
        )
        for file in sorted(FOLDER.rglob("*"))
        if file.suffix in _KINDS
    }
    return {"/": files.pop("/page/index.html"), **files}
