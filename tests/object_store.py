"""An object store for tests: moto's S3 server in a process of its own, behind a faulty network.

    with serving() as store:
        bucket = store.bucket()
        with store.faults(Fault("PUT", "part-000002", "cut", times=2)):
            ...

Everything goes through a proxy of one thread a connection, which answers, cuts or hangs instead
of passing a request on where a fault says so, and writes down what it was asked.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pyarrow.fs as pf

from pipeline.stores import remote

ACCESS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
HANG_SECONDS = 30.0
"""Longer than the client waits."""
FOREVER = 1 << 30


@dataclass
class Fault:
    """What happens to the next `times` requests of a method whose path holds `text`."""

    method: str
    text: str
    what: str
    """A status ("503", "403"), "cut" (the connection, in the middle of the body) or "hang"."""
    times: int = FOREVER


@dataclass
class Store:
    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request, in order."""
    active: list[Fault] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def bucket(self) -> str:
        """A new one, as s3://..."""
        name = f"bucket-{next(self.numbers)}"
        files = pf.S3FileSystem(
            endpoint_override=self.url.removeprefix("http://"),
            scheme="http",
            allow_bucket_creation=True,
        )
        files.create_dir(name)
        return f"s3://{name}"

    @contextmanager
    def faults(self, *faults: Fault) -> Iterator[None]:
        self.active[:] = faults
        try:
            yield
        finally:
            self.active.clear()

    def fault(self, method: str, path: str) -> str:
        """What happens to this request, "" for nothing."""
        self.asked.append((method, path))
        for fault in self.active:
            if fault.method == method and fault.text in path and fault.times > 0:
                fault.times -= 1
                return fault.what
        return ""

    def environment(self) -> dict[str, str]:
        return ACCESS | {"AWS_ENDPOINT_URL": self.url}


@contextmanager
def serving() -> Iterator[Store]:
    """The store, and this process's environment as its client."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, env=os.environ | ACCESS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    proxy.daemon_threads = True
    proxy.block_on_close = False
    store = Store(f"http://127.0.0.1:{proxy.server_port}")
    proxy.store, proxy.upstream = store, port  # type: ignore[attr-defined]
    before = dict(os.environ)
    try:
        _wait_for(port)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        os.environ.update(store.environment())
        remote.filesystem.cache_clear()
        yield store
    finally:
        os.environ.clear()
        os.environ.update(before)
        remote.filesystem.cache_clear()
        proxy.shutdown()
        proxy.server_close()
        server.kill()
        server.wait()


@contextmanager
def google(bucket: str) -> Iterator[str]:
    """URL of a bucket of a server that speaks as Google's store does."""
    port = _free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--in-memory", "--default-bucket", bucket]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = dict(os.environ)
    try:
        _wait_for(port)
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
        remote.filesystem.cache_clear()
        yield f"gs://{bucket}"
    finally:
        os.environ.clear()
        os.environ.update(before)
        remote.filesystem.cache_clear()
        server.kill()
        server.wait()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        store: Store = self.server.store  # type: ignore[attr-defined]
        what = store.fault(self.command, self.path)
        if what == "cut":
            told = ("X-Amz-Decoded-Content-Length", "Content-Length")
            length = next((int(self.headers[name]) for name in told if name in self.headers), 0)
            self.rfile.read(length // 2)
            self._cut()
        elif what == "hang":
            time.sleep(HANG_SECONDS)
            self._cut()
        elif what:
            self._body()
            self._answer(int(what), [], b"")
        else:
            self._pass_on(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while nbytes := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(nbytes))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _pass_on(self, body: bytes) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream)  # type: ignore[attr-defined]
        try:
            left_out = ("transfer-encoding", "content-length", "expect", "connection")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in left_out}
            upstream.request(self.command, self.path, body or None, headers)
            got = upstream.getresponse()
            data = got.read()
            self._answer(got.status, got.getheaders(), data)
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        nbytes = next((v for k, v in headers if k.lower() == "content-length"), str(len(data)))
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", nbytes if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client, or a fault, has cut the connection
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def log_message(self, *arguments: Any) -> None:
        """Nothing: `Store.asked` knows."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < until, "the store's server did not start"
            time.sleep(0.05)
