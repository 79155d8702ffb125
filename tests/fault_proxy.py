"""A fault-injecting proxy before a storage server: errors, stalls and corruption of range requests."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Finding = Literal["503", "403", "cut", "stall", "whole", "flip", "slow", "short"]
"""What becomes of an answer: an error of a busy server; no longer allowed; the connection is cut in the body; it stalls
there until nobody waits any more; more than the range, as from a server that knows none; a byte is another one; the
first byte comes late; a range that ends early, and says so."""

_NOT_PASSED_ON = ("connection", "transfer-encoding", "content-length")


@dataclass
class Proxy:
    """A running proxy."""

    url: str
    upstream: str
    choose: Callable[[str, int], Finding | None] = lambda path, count: None
    """The fault of a request for a range, from its path and how many of it came before."""
    refuse: Callable[[str, int], Literal["503", "stall"] | None] = lambda path, count: None
    """What becomes of a request that writes, from its path and how many of them came before: 503, or no answer."""
    writes: list[str] = field(default_factory=list)
    """Paths of all requests that write."""
    slow_s: float = 0.5
    """Before a late first byte."""
    requests: list[tuple[str, str, Finding | None]] = field(default_factory=list)
    """Path, range and fault of all requests for ranges."""
    takes_signed: bool = True
    """Whether requests whose signature is in their URL are passed on; else they are refused."""
    signed: list[str] = field(default_factory=list)
    """URLs of these requests."""
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, path: str, byte_range: str) -> Finding | None:
        """Decide, and remember."""
        with self.lock:
            before = sum(found[:2] == (path, byte_range) for found in self.requests)
            fault = self.choose(path, before)
            self.requests.append((path, byte_range, fault))
            return fault

    def refusal_of(self, path: str) -> Literal["503", "stall"] | None:
        """Decide about a request that writes, and remember."""
        with self.lock:
            before = self.writes.count(path)
            self.writes.append(path)
            return self.refuse(path, before)


@contextmanager
def serve(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before the server at a URL. Signatures stay good: the Host that the client signed is passed on."""
    proxy = Proxy("", upstream)
    httpd = _Server(("127.0.0.1", 0), _handler(proxy))
    httpd.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        httpd.shutdown()
        httpd.server_close()


class _Server(ThreadingHTTPServer):
    # Connections that wait to be accepted: with the 5 of Python some of many at once come a second late.
    request_queue_size = 256


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _pass_on(self) -> None:
            byte_range = self.headers.get("Range")
            path = self.path.partition("?")[0]
            fault = proxy.fault_of(path, byte_range) if byte_range else None
            if "X-Amz-Signature=" in self.path:
                proxy.signed.append(self.path)
                fault = fault if proxy.takes_signed else "403"
            if self.command in ("PUT", "POST") and (refusal := proxy.refusal_of(path)):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if refusal == "stall":
                    self.close_connection = True
                    proxy.ended.wait()
                    return
                fault = refusal
            if fault in ("503", "403"):
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "slow" and proxy.ended.wait(proxy.slow_s):
                return
            answer, content = self._ask()
            if fault == "flip":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault == "short":
                content = content[:-1]
            if fault == "whole":
                # The range is signed: the upstream server cannot be asked for more in the client's name.
                content = 2 * content
            self.send_response(200 if fault == "whole" else answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _NOT_PASSED_ON:
                    self.send_header(name, value)
            size = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", size)
            self.end_headers()
            self._send(content, fault)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

        def _ask(self) -> tuple[http.client.HTTPResponse, bytes]:
            connection = http.client.HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=60)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer, content

        def _send(self, content: bytes, fault: Finding | None) -> None:
            if fault not in ("cut", "stall"):
                self.wfile.write(content)
                return
            self.close_connection = True
            self.wfile.write(content[: len(content) // 2])
            if fault == "stall":
                self.wfile.flush()
                proxy.ended.wait()

    return Handler


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that another thread does."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)
