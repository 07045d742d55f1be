"""The page's files over HTTP: who may load them, and what they may do."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from flash_moe.server.page_files import FOLDER, HEADERS, page_files
from flash_moe.server.requests.errors import ApiError
from tests.support.local_server import LocalServer
from tests.support.timeout import TIMEOUT_S

KEY = "secret-key"
BODY = b'{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}'


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with closing(LocalServer(api_key=KEY)) as made:
        yield made


def status(server: LocalServer, path: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(server.url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_everything_together_is_small() -> None:
    assert sum(len(file.body) for file in page_files().values()) < 200_000


def test_each_file_has_its_type_and_the_policy(server: LocalServer) -> None:
    for path, file in page_files().items():
        with urllib.request.urlopen(server.url + path, timeout=TIMEOUT_S) as answer:
            assert answer.read() == file.body
            assert answer.headers["Content-Type"] == file.kind
            for name, value in HEADERS.items():
                assert answer.headers[name] == value
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    # No file but these: neither the licences nor what lies next to them.
    for path in ("/page/", "/page/index.html", "/page/../page_files.py", "/page/vendor/README.md"):
        assert status(server, path) == 404


def test_the_page_refers_to_its_own_files_only() -> None:
    files = page_files()
    page = files["/"].body.decode()
    for reference in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert f"/{reference}" in files
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)
    for path, file in files.items():
        if path.endswith((".js", ".mjs")):
            for name in re.findall(r'^import .* from "(.+)";$', file.body.decode(), re.MULTILINE):
                base = path.rpartition("/")[0]
                assert f"{base}/{name.removeprefix('./')}" in files


def test_libraries_are_those_of_their_projects() -> None:
    """Each file has the checksum in the list, which names its package."""
    text = (FOLDER / "vendor" / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", text, re.MULTILINE))
    vendor = FOLDER / "vendor"
    files = {str(f.relative_to(vendor)): f for f in vendor.rglob("*") if f.is_file()}
    del files["README.md"]
    assert {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in files.items()} == listed


def test_the_page_needs_no_key_and_its_data_does(server: LocalServer) -> None:
    assert status(server, "/") == 200
    assert status(server, "/v1/stats") == 401
    assert status(server, f"/v1/stats?key={KEY}&api_key={KEY}") == 401
    assert status(server, "/v1/stats", Authorization=f"Bearer {KEY}") == 200


def test_hosts_and_origins(server: LocalServer) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    assert status(server, "/", Host="evil.example") == 403
    assert status(server, "/v1/stats", Host="evil.example", **key) == 403
    chat, own = "/v1/chat/completions", server.url
    assert status(server, chat, BODY, Origin=own, **key) == 200
    localhost = f"localhost:{server.port}"
    assert status(server, chat, BODY, Origin=f"http://{localhost}", Host=localhost, **key) == 200
    for origin in ("https://evil.example", "http://127.0.0.1:1", f"http://{localhost}", "null"):
        assert status(server, chat, BODY, Origin=origin, **key) == 403


@pytest.mark.parametrize(
    ("host", "key", "allowed"),
    [
        ("192.0.2.1:8080", None, True),  # an address: no page can have it as its name
        ("[2001:db8::1]:8080", None, True),
        ("llm.example", None, False),  # may be the name of any page that points here
        ("named.example:8080", None, True),  # --allow-host
        ("llm.example", KEY, True),  # such a page has no key
    ],
)
def test_the_own_origin_of_a_server_for_others(host: str, key: str | None, allowed: bool) -> None:
    from flash_moe.server.handler import Handler
    from flash_moe.server.options import ServeOptions

    handler = Handler.__new__(Handler)
    handler._options = ServeOptions("demo", host="0.0.0.0", api_key=key, hosts=("named.example",))
    handler.headers = {"Host": host, "Origin": f"http://{host}"}  # type: ignore[assignment]
    if allowed:
        handler._check_origin()
    else:
        with pytest.raises(ApiError, match="allow-origin"):
            handler._check_origin()
    handler.headers["Origin"] = "http://evil.example"  # type: ignore[index]
    with pytest.raises(ApiError, match="allow-origin"):
        handler._check_origin()
