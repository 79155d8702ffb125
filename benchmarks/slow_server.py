"""A server of files with the latency of an object store: every answer comes late, every connection is slow.

To a client of S3 a folder in what is served is a bucket; signatures are not looked at.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PIECE = 256 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d+)?")


@contextmanager
def serve(folder: Path, latency_s: float, bytes_per_s: float) -> Iterator[str]:
    """Serve a folder on this machine.

    Args:
        folder: What is served.
        latency_s: Seconds before every answer.
        bytes_per_s: Of each connection.

    Yields:
        Its URL.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body of an answer are two writes: the second must not wait until the first is acknowledged.
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, with_body: bool) -> None:
            time.sleep(latency_s)
            path = folder / self.path.partition("?")[0].lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            size = path.stat().st_size
            found = _RANGE.fullmatch(self.headers.get("Range", ""))
            start = int(found[1]) if found else 0
            end = min(size, int(found[2]) + 1) if found and found[2] else size
            self.send_response(206 if found else 200)
            self.send_header("Accept-Ranges", "bytes")
            # What clients of S3 want to know of an object.
            self.send_header("ETag", f'"{size:x}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(end - start))
            if found:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            if with_body:
                self._send(path, start, end)

        def _send(self, path: Path, start: int, end: int) -> None:
            due = time.monotonic()
            with open(path, "rb") as file:
                file.seek(start)
                while start < end:
                    piece = file.read(min(_PIECE, end - start))
                    self.wfile.write(piece)
                    start += len(piece)
                    due += len(piece) / bytes_per_s
                    time.sleep(max(0.0, due - time.monotonic()))

    class Server(ThreadingHTTPServer):
        # Connections that wait to be accepted: with the 5 of Python some of many at once come a second late.
        request_queue_size = 256

        def handle_error(self, *_: object) -> None:
            pass  # a reader that has gone, or has no use for an answer any more

    httpd = Server(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()
