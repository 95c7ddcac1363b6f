"""The page over HTTP, for this machine alone.

Bound to 127.0.0.1; two paths, matched as they are, so there is no file system behind them to climb. A request for
another host name is refused: a web site whose name points at 127.0.0.1 (DNS rebinding) would otherwise read the runs.
"""

import errno
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lightsleeper.errors import UserError

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Content = Callable[[], str]


class Server(ThreadingHTTPServer):
    """``pages``: path -> (content type, what makes its text)."""

    daemon_threads = True

    def __init__(self, port: int, pages: dict[str, tuple[str, Content]]) -> None:
        self.pages = pages
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} is in use; give another: --serve {port + 1}.") from None
            raise UserError(f"port {port} cannot be served: {error.strerror}.") from None
        except OverflowError:
            raise UserError(f"--serve {port}: expected a port, 0 to 65535.") from None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "lightsleeper", ""
    timeout = 30  # seconds for a request to arrive

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _refuse_method(self) -> None:
        self._send(405, "text/plain", "only GET and HEAD\n", True, {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answer(self, body: bool) -> None:
        port = self.server.server_port
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in {f"{name}:{port}" for name in NAMES}:
            self._send(403, "text/plain", "this server answers to localhost only\n", body)
            return
        page = self.server.pages.get(self.path)
        if page is None:
            self._send(404, "text/plain", "no such page\n", body)
            return
        kind, content = page
        try:
            text = content()
        except (UserError, OSError) as error:  # the runs folder went away, say
            self._send(503, "text/plain", f"{error}\n", body)
            return
        self._send(200, kind, text, body)

    def _send(self, code: int, kind: str, text: str, body: bool, headers: dict[str, str] | None = None) -> None:
        content = text.encode("utf-8", "replace")
        self.send_response(code)
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the terminal shows the address and nothing else."""
