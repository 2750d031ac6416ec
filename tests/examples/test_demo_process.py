"""``python -m examples.demo``, started, interrupted, killed and started again."""

from __future__ import annotations

import contextlib
import dataclasses
import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
import pytest

from examples.demo import deploy

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 60  # seconds


@pytest.fixture
def instance() -> t.Iterator[Path]:
    # Not pytest's own folder: PostgreSQL's user must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="referral-demo-", ignore_cleanup_errors=True) as folder:
        instance = Path(folder) / "instance"
        yield instance
        if (pid := postmaster(instance)) is not None:
            # Only after a failed test.
            os.kill(pid, signal.SIGQUIT)


@dataclasses.dataclass
class Demo:
    """A running demo."""

    process: subprocess.Popen[str]
    url: str
    postmaster: psutil.Process
    guide: str

    def get_code(self) -> str:
        """Log in as the first user and ask for the code."""
        jar = http.cookiejar.CookieJar()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

        def post(path: str, **fields: str) -> str:
            with browser.open(self.url, timeout=DEADLINE) as page:
                found = re.search('csrf-token" content="([^"]+)"', page.read().decode())
            assert found is not None
            data = urllib.parse.urlencode(fields | {"csrf_token": found[1]}).encode()
            with browser.open(self.url + path, data, timeout=DEADLINE) as answer:
                body: str = answer.read().decode()
                return body

        post("/login", email=deploy.USERS[0][0], password=deploy.PASSWORD)
        code: str = json.loads(post("/api/referral/generate"))["code"]
        return code

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to the process group, as a terminal does for Ctrl-C."""
        os.killpg(self.process.pid, number)
        output, errors = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors and "has stopped" in output
        wait_until(lambda: is_gone(self.postmaster))


@contextlib.contextmanager
def start(instance: Path) -> t.Iterator[Demo]:
    with launch(instance, "0") as process:
        timer = threading.Timer(DEADLINE, process.kill)
        timer.start()
        try:
            output = ""
            for line in t.cast(t.IO[str], process.stdout):
                output += line
                if "Ctrl-C" in line:
                    break
            else:
                pytest.fail(output + t.cast(t.IO[str], process.stderr).read())
            found = re.search(r"runs on (http://\S+)", output)
            pid = postmaster(instance)
            assert found is not None and pid is not None
            yield Demo(process, found[1], psutil.Process(pid), output)
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def launch(instance: Path, port: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={**inherited, "DEMO_INSTANCE": str(instance), "PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def postmaster(instance: Path) -> int | None:
    """Return the process id of the PostgreSQL that is running, or None."""
    try:
        return int((instance / "postgresql" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None


def is_gone(process: psutil.Process) -> bool:
    try:
        # A zombie is gone too; when it is buried depends on the machine's first process.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stops_cleanly_and_starts_again_with_its_data(instance: Path) -> None:
    with start(instance) as demo:
        code = demo.get_code()
        demo.stop(signal.SIGINT)
    with start(instance) as demo:
        assert demo.get_code() == code
        demo.stop(signal.SIGTERM)


def test_says_who_can_log_in_and_where(instance: Path) -> None:
    with start(instance) as demo:
        for email, _ in (*deploy.USERS, deploy.OPERATOR):
            assert email in demo.guide
        for path in set(re.findall(re.escape(demo.url) + r"(/\w+/?)(?= |$)", demo.guide, re.M)):
            with urllib.request.urlopen(demo.url + path, timeout=DEADLINE) as page:
                assert page.status == 200
        demo.stop(signal.SIGINT)


def test_starts_and_stops_after_a_crash(instance: Path) -> None:
    with start(instance) as demo:
        code = demo.get_code()
        demo.process.kill()
        demo.process.communicate()
    # PostgreSQL goes on; the next run takes it over and would stop it.
    with start(instance) as again:
        assert again.postmaster == demo.postmaster
        again.stop(signal.SIGINT)
    # The machine goes down, and the server's number is given to another process.
    with start(instance) as demo:
        demo.process.kill()
        demo.process.communicate()
        demo.postmaster.kill()
        wait_until(lambda: is_gone(demo.postmaster))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        pid_file = instance / "postgresql" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        with start(instance) as demo:
            assert demo.get_code() == code
            demo.stop(signal.SIGINT)
        assert other.poll() is None


def test_an_interrupt_during_the_start_leaves_nothing(instance: Path) -> None:
    process = launch(instance, "0")
    wait_until(lambda: (instance / "postgresql").exists() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert postmaster(instance) is None

    process = launch(instance, "0")
    wait_until(lambda: postmaster(instance) is not None or process.poll() is not None)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert postmaster(instance) is None


@pytest.mark.parametrize("port", ["taken", "many", "65536"])
def test_a_port_that_cannot_be_used(instance: Path, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if port == "taken":
            port = str(listener.getsockname()[1])
        process = launch(instance, port)
        output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert output == "" and len(errors.splitlines()) == 1 and port in errors
    assert not instance.exists()
