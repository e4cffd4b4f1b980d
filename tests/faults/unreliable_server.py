"""An MLflow server with faults: passes requests on to a real one, or does what the first part of the path names."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from urllib.parse import urlsplit


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        _, fault, rest = self.path.split("/", 2)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server: UnreliableServer = self.server  # pyright: ignore[reportAssignmentType]
        if server.healed:
            self._pass_on(f"/{rest}", body)
        else:
            getattr(self, f"_{fault}")(f"/{rest}", body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None: ...

    def _pass_on(self, path: str, body: bytes) -> None:
        server: UnreliableServer = self.server  # pyright: ignore[reportAssignmentType]
        real = urlsplit(server.real)
        connection = http.client.HTTPConnection(real.hostname or "", real.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self._answer(answer.status, content, answer.getheader("Content-Type") or "application/json")

    def _answer(self, status: int, content: bytes, kind: str = "text/html", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _error500(self, path: str, body: bytes) -> None:
        self._answer(500, b"Internal Server Error")

    def _error401(self, path: str, body: bytes) -> None:
        self._answer(401, b"You are not authenticated")

    def _error429(self, path: str, body: bytes) -> None:
        self._answer(429, b"Too many requests", Retry_After="3600")

    def _html(self, path: str, body: bytes) -> None:
        self._answer(200, b"<!doctype html>\n<html><body>Sign in to the hotel's Wi-Fi</body></html>")

    def _slow(self, path: str, body: bytes) -> None:
        time.sleep(3)
        self._pass_on(path, body)

    def _silent(self, path: str, body: bytes) -> None:
        time.sleep(3600)

    def _drips(self, path: str, body: bytes) -> None:
        """Never ends, yet no single read takes long enough for a time limit on reads."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        for _ in range(1_000_000):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def _vanishes(self, path: str, body: bytes) -> None:
        """Makes the run, and after that is gone."""
        server: UnreliableServer = self.server  # pyright: ignore[reportAssignmentType]
        if server.has_made_a_run:
            self.close_connection = True
            return
        self._pass_on(path, body)
        server.has_made_a_run = path.endswith("runs/create")

    def _forgetful(self, path: str, body: bytes) -> None:
        """Makes the run, but the answer is lost."""
        if not path.endswith("runs/create"):
            self._pass_on(path, body)
            return
        self.wfile = _Nowhere()
        self._pass_on(path, body)
        self.close_connection = True


class _Nowhere:
    def write(self, content: bytes) -> int:
        return len(content)

    def flush(self) -> None: ...


class UnreliableServer(http.server.ThreadingHTTPServer):
    """`uri(fault)` is an MLflow server with that fault, until `healed`; runs end up in the server `real`."""

    daemon_threads = True

    def __init__(self, real: str, *, port: int = 0, healed: bool = False) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.real = real
        self.healed = healed
        self.has_made_a_run = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def uri(self, fault: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{fault}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what this is for."""
