"""A real S3 server (SeaweedFS) for tests, on free ports and in a temporary directory."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

BUCKET = "train"
_PORTS = ("s3.port", "master.port", "volume.port", "filer.port")


def program() -> str | None:
    """The server's executable, or None where it is not installed."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextmanager
def serve(directory: Path, start_s: float = 60.0) -> Iterator[dict[str, str]]:
    """Run the server; gives the environment variables by which S3 clients find it. The bucket is BUCKET."""
    executable = program()
    assert executable is not None
    identity = {"name": "t", "credentials": [{"accessKey": "key", "secretKey": "secret"}]}
    identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [executable, "-logtostderr=true", "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.config={directory / 's3.json'}", f"-bucket={BUCKET}", "-master.telemetry=false"]
    command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    with open(directory / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        try:
            _wait_until_ready(f"{endpoint}/status", server, directory / "server.log", start_s)
            _wait_for_bucket(endpoint, start_s)
            yield {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        finally:
            server.kill()
            server.wait()


def _wait_for_bucket(endpoint: str, seconds: float) -> None:
    """The server makes it after it has begun to answer."""
    from botocore.exceptions import ClientError
    from botocore.session import Session

    client = Session().create_client(
        "s3", "us-east-1", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret"
    )
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.head_bucket(Bucket=BUCKET)
            return
        except ClientError:
            assert time.monotonic() < deadline, f"the S3 server has made no bucket {BUCKET} in {seconds} s"
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and so is the port 10000 above each, where SeaweedFS puts its gRPC twin."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            first, second = (stack.enter_context(socket.socket()) for _ in range(2))
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 10000))
            except (OSError, OverflowError):
                continue
            ports.append(port)
    return ports


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the S3 server did not start in {seconds} s: {log.read_text()[-2000:]}")
