"""A client's connection, looked at while its answer is made."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from flash_moe.server.http import connection
from tests.support.timeout import wait_until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's side of a connection and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), timeout=60)
        served, _ = listening.accept()
    with client, served:
        yield client, served


@pytest.mark.parametrize("tells", [True, False], ids=["the system tells", "it does not"])
@pytest.mark.parametrize("more", [b"", b"\r\n", b"x" * 100_000])
def test_a_client_that_went_away_is_noticed(
    tells: bool, more: bytes, pair: tuple[socket.socket, socket.socket], monkeypatch: Any
) -> None:
    """Also if it has sent bytes behind its request."""
    if not tells:
        monkeypatch.setattr(connection, "_POLLRDHUP", 0)
    client, served = pair
    served.settimeout(60)
    client.sendall(more)
    assert not connection.is_gone(served)
    client.close()
    wait_until(lambda: connection.is_gone(served))
    assert served.gettimeout() == 60
    served.close()
    assert connection.is_gone(served)
