"""``flask db … -d "$(flask referral db path)"``: stock Flask-Migrate on the shipped folder."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import flask_migrate
import pytest

import flask_referral
from flask_referral import schema
from tests.hosts import Host
from tests.hosts import make_application

from .conftest import Dump
from .conftest import FlaskDb

NOWHERE = "postgresql+psycopg2://nobody@127.0.0.1:1/nowhere"
SHIPPED = schema.migrations_path()


def told(flask_db: FlaskDb, host: t.Any, *args: str) -> str:
    """Return what a command that has to fail says."""
    result = flask_db(host, *args, folder=SHIPPED, status=1)
    assert result is not None
    said = result.stdout + result.stderr
    assert "Traceback" not in said
    assert "Error: " in said
    return said


def test_the_same_as_our_own(
    new_database_url: t.Callable[[], str],
    host_on: t.Callable[..., Host],
    flask_db: FlaskDb,
    dump: Dump,
) -> None:
    ours = host_on(new_database_url())
    url = new_database_url()
    stock = host_on(url, migrate=False)
    stock.create_tables()
    before = dump(url)

    flask_db(stock, "upgrade", folder=SHIPPED)
    with ours.app.app_context():
        assert dump(url) == dump(ours.db.engine.url.render_as_string(hide_password=False))
    flask_db(stock, "check", folder=SHIPPED)
    flask_db(stock, "downgrade", folder=SHIPPED)
    assert schema.history()[-2].revision in stock.cli("db", "current").stdout
    flask_db(stock, "downgrade", "base", folder=SHIPPED)
    assert dump(url) == before


def test_errors_are_sentences(
    database_url: str, host_on: t.Callable[..., Host], flask_db: FlaskDb
) -> None:
    host = host_on(database_url, migrate=False)
    assert "The user table 'users' does not exist" in told(flask_db, host, "upgrade")
    with host.app.app_context():
        host.db.create_all()
    assert "flask referral db stamp 0001" in told(flask_db, host, "upgrade")
    if hasattr(flask_migrate, "check"):
        assert "not up to date" in told(flask_db, host, "check")


def test_database_is_away(host_on: t.Callable[..., Host], flask_db: FlaskDb) -> None:
    host = host_on(NOWHERE, migrate=False)
    for command in ("upgrade", "downgrade", "current", "check"):
        # Flask-Migrate 4.0.0 has no "check" yet.
        if hasattr(flask_migrate, command):
            assert "The database did not answer" in told(flask_db, host, command)
        assert "The database did not answer" in host.failure("db", command)


def test_application_without_the_extension(sqlite_url: str, flask_db: FlaskDb) -> None:
    plain = make_application(sqlite_url)
    assert "call referral.init_app(app, db, user_model=User)" in told(flask_db, plain, "upgrade")
    plain.close()


@pytest.mark.parametrize("changed", [False, True])
def test_no_revision_is_written_into_the_package(
    sqlite_url: str, host_on: t.Callable[..., Host], flask_db: FlaskDb, changed: bool
) -> None:
    """``flask db migrate -d`` is a slip that would leave a revision of the host's in our chain."""
    host = host_on(sqlite_url)
    if changed:
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE referral_clicks DROP COLUMN user_agent")
    files = set(SHIPPED.rglob("*.py"))
    assert "application's own migrations folder" in told(flask_db, host, "migrate")
    assert set(SHIPPED.rglob("*.py")) == files


def test_from_a_shell(tmp_path: Path) -> None:
    """The command line of the documentation, in processes of its own."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    plain = make_application(url)
    plain.create_tables()
    plain.close()
    (tmp_path / "shop.py").write_text(
        f"from tests.hosts import make_host\napp = make_host({url!r}).app\n"
    )
    root = Path(flask_referral.__file__).parent.parent
    environment = {
        **os.environ,
        "FLASK_APP": "shop:app",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)]),
        "FLASK": f"{sys.executable} -m flask",
    }
    script = (
        'folder="$($FLASK referral db path)" && '
        '$FLASK db upgrade -d "$folder" && $FLASK db current -d "$folder"'
    )
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{schema.head()} (head)"
