"""The server answers two paths to this machine, and nothing else."""

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
from lightsleeper.dashboard.serve import Server
from lightsleeper.errors import UserError


@pytest.fixture
def server() -> Iterator[Server]:
    def broken() -> str:
        raise UserError("no runs under runs.")

    pages = {
        "/": ("text/html", lambda: "<p>péage</p>"),
        "/payload.json": ("application/json", lambda: "{}"),
        "/broken": ("text/html", broken),
    }
    with Server(0, pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def raw(server: Server, request: bytes) -> bytes:
    """The answer to a request as it is written here."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def get(server: Server, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.putrequest(method, path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


def test_it_serves_the_page_and_its_data(server: Server):
    status, body, headers = get(server, "/")
    assert (status, body.decode()) == (200, "<p>péage</p>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert get(server, "/payload.json")[1] == b"{}"


def test_head_has_no_body(server: Server):
    status, body, headers = get(server, "/", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "13")


PATHS = """
/index.html /. /.. /../ /../../etc/passwd /%2e%2e/%2e%2e/etc/passwd /..%2f..%2fetc/passwd /etc/passwd //etc/passwd
/\\..\\.. /record.json /payload.json/../record.json /payload.json%00 /?a=1 /payload.json?x /.index.arrow * %2f
http://127.0.0.1/etc/passwd file:///etc/passwd
"""


@pytest.mark.parametrize("path", PATHS.split())
def test_every_other_path_is_unknown(server: Server, path: str):
    status, body, _ = get(server, path, host=f"localhost:{server.server_port}")
    assert (status, body) == (404, b"no such page\n")


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:{port}",
            "127.0.0.1",
            "127.0.0.1:1",
            "localhost",
            "localhost.evil.example:{port}",
        ),
        *("0.0.0.0:{port}", "[::1]:{port}", "127.0.0.1:{port}@evil.example", "", " ", "127.0.0.1:{port}."),
    ],
)
def test_another_host_name_is_refused(server: Server, host: str):
    status, body, _ = get(server, "/", host=host.format(port=server.server_port))
    assert status == 403
    assert b"<p>" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_both_names_of_this_machine_are_answered(server: Server, host: str):
    assert get(server, "/", host=f"{host}:{server.server_port}")[0] == 200


def test_a_request_without_a_host_or_with_two_is_refused(server: Server):
    own = f"Host: 127.0.0.1:{server.server_port}\r\n".encode()
    assert b" 403 " in raw(server, b"GET / HTTP/1.1\r\n\r\n").partition(b"\r\n")[0]
    two = b"GET / HTTP/1.1\r\n" + own + b"Host: evil.example\r\n\r\n"
    assert b" 403 " in raw(server, two).partition(b"\r\n")[0]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(server: Server, method: str):
    status, _, headers = get(server, "/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("request_text", [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff" * 70000])
def test_nonsense_is_no_reason_to_stop(server: Server, request_text: bytes):
    raw(server, request_text)
    assert get(server, "/")[0] == 200


def test_what_cannot_be_shown_now_is_told(server: Server):
    assert get(server, "/broken")[:2] == (503, b"no runs under runs.\n")


def test_it_listens_on_the_loopback_alone(server: Server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_one_line(server: Server):
    with pytest.raises(UserError, match=f"port {server.server_port} is in use"):
        Server(server.server_port, {})


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_is_none_is_refused(port: int):
    with pytest.raises(UserError, match="0 to 65535"):
        Server(port, {})
