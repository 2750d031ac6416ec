"""Measuring: processor time in process, and requests a second over HTTP."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import selectors
import socket
import subprocess
import sys
import time
import typing as t

import sqlalchemy as sa
from flask import Flask

from .work import Request

WORKERS = 2


def machine(url: str) -> str:
    """Return in a line what is measured on, and by which database."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar()
    return (
        f"Python {platform.python_version()}, SQLAlchemy {sa.__version__}, PostgreSQL {version}, "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )


def processor_time(app: Flask, requests: t.Sequence[Request]) -> float:
    """Return the seconds of processor time that a request takes in this process.

    What the database does meanwhile is not in it, nor is any waiting.
    """
    environs = [request.environ() for request in requests]
    statuses: list[str] = []

    def start_response(status: str, headers: t.Any, exc_info: t.Any = None) -> t.Any:
        statuses.append(status)

    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        for environ in environs:
            answer = app.wsgi_app(environ, start_response)
            for _ in answer:
                pass
            answer.close()  # type: ignore[attr-defined]
        took = time.process_time() - began
    finally:
        gc.enable()
    wrong = [
        status
        for status, request in zip(statuses, requests, strict=True)
        if not status.startswith(str(request.status))
    ]
    assert not wrong, f"{app.name}: {wrong[:3]}"
    return took / len(requests)


@contextlib.contextmanager
def serve(name: str, url: str) -> t.Iterator[int]:
    """Run an implementation under gunicorn, with sync workers, on a port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--log-level", "error"),
        *("--bind", f"127.0.0.1:{port}", f"benchmarks.{name}:create_app({url!r})"),
    ]
    process = subprocess.Popen(command)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def requests_per_second(
    port: int, make: t.Callable[[], Request], *, connections: int, seconds: float
) -> float:
    """Keep some connections busy, each with one request after the other; closed loop."""
    host = f"127.0.0.1:{port}"
    selector = selectors.DefaultSelector()
    done = 0
    ends = time.perf_counter() + seconds
    began = time.perf_counter()
    open_sockets = 0

    def send() -> None:
        nonlocal open_sockets
        request = make()
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(request.bytes(host))
        selector.register(sock, selectors.EVENT_READ, (request, bytearray()))
        open_sockets += 1

    for _ in range(connections):
        send()
    while open_sockets:
        for key, _ in selector.select(timeout=20):
            sock = t.cast(socket.socket, key.fileobj)
            request, received = key.data
            data = sock.recv(65536)
            if data:
                received += data
                continue
            assert received.startswith(b"HTTP/1.1 %d" % request.status), bytes(received[:300])
            done += 1
            selector.unregister(sock)
            sock.close()
            open_sockets -= 1
            if time.perf_counter() < ends:
                send()
    selector.close()
    return done / (time.perf_counter() - began)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        assert process.poll() is None, "gunicorn has stopped"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("gunicorn did not answer in 30 seconds")
