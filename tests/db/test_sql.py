"""Prepared statements: what SQLAlchemy would have done, only sooner."""

from __future__ import annotations

import datetime as dt
import logging
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.db import sql
from flask_referral.db.models import Models

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import clicks

built: list[str] = []


@sql.statement
def found(models: Models, dialect: str) -> sa.Select[t.Any]:
    built.append(dialect)
    code = models.ReferralCode.__table__.c
    return sa.select(code.id, code.code, code.created_at, sa.literal("ours").label("whose")).where(
        code.code == sql.parameter("code", code.code)
    )


@sql.statement
def wrong(models: Models, dialect: str) -> sa.Select[t.Any]:
    return sa.select(sa.column("nothing")).select_from(sa.table("nowhere"))


@sql.statement
def renamed(models: Models, dialect: str) -> sa.Update:
    code = models.ReferralCode.__table__
    new = sa.bindparam("new_code", type_=sa.Text())
    return (
        sa.update(code)
        .where(code.c.code == sql.parameter("row_code", code.c.code))
        .values(code=new)
    )


@pytest.fixture(params=["psycopg2", "psycopg", "sqlite"])
def host(request: pytest.FixtureRequest, host_on: t.Callable[..., Host]) -> Host:
    """A host on each driver."""
    if request.param == "sqlite":
        return host_on(request.getfixturevalue("sqlite_url"))
    url = sa.make_url(request.getfixturevalue("postgresql_url"))
    return host_on(url.set(drivername=f"postgresql+{request.param}").render_as_string(False))


def test_a_statement_is_built_once_and_gives_what_its_columns_say(host: Host) -> None:
    _, code = add_referrer(host)
    models = host.referral.models
    built.clear()
    with host.app.app_context(), host.db.engine.connect() as db:
        unwatched = [found(db, models, code=code).first() for _ in range(3)]
        with host.statements() as seen:
            watched = found(db, models, code=code).first()
        plain = db.execute(sa.select(models.ReferralCode.__table__)).one()
    assert len(seen) == 1
    assert len(built) == 1
    for row in (*unwatched, watched):
        told = (row.id, row.code, row.created_at, row.whose)
        assert told == (plain.id, code, plain.created_at, "ours")
        assert isinstance(row.created_at, dt.datetime)


def test_nobody_and_nothing_is_found_where_there_is_nothing(host: Host) -> None:
    with host.app.app_context(), host.db.engine.connect() as db:
        nothing = found(db, host.referral.models, code="NONE2222")
    assert (nothing, nothing.first(), nothing.scalar()) == ([], None, None)


def test_what_was_changed_is_counted_and_belongs_to_the_transaction(host: Host) -> None:
    _, code = add_referrer(host)
    models = host.referral.models
    with host.app.app_context():
        with host.db.engine.connect() as db:
            assert renamed(db, models, row_code=code, new_code="NEW22222").rowcount == 1
            db.rollback()
            assert renamed(db, models, row_code=code, new_code="NEW33333").rowcount == 1
            db.commit()
        with host.db.engine.connect() as db:
            assert found(db, models, code="NEW33333").first() is not None
            assert found(db, models, code="NEW22222").first() is None


def test_an_error_is_sqlalchemys(host: Host) -> None:
    with host.app.app_context():
        for watched in (False, True):
            with host.db.engine.connect() as db:
                with pytest.raises(sa.exc.DBAPIError, match="nowhere") as caught:
                    if watched:
                        with host.statements():
                            wrong(db, host.referral.models)
                    else:
                        wrong(db, host.referral.models)
                assert "FROM nowhere" in (caught.value.statement or "")
                assert not caught.value.connection_invalidated


def test_a_lost_connection_is_known_to_be_lost(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    models = host.referral.models
    with host.app.app_context(), host.db.engine.connect() as db:
        pid = db.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with host.db.engine.connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(sa.exc.DBAPIError) as caught:
            found(db, models, code="NONE2222")
        assert caught.value.connection_invalidated
        db.rollback()
        assert found(db, models, code="NONE2222") == []


def test_the_log_tells_of_each_statement(
    make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_sqlite()
    assert clicks(host) == []
    with (
        caplog.at_level(logging.INFO, "sqlalchemy.engine.Engine"),
        host.app.app_context(),
        host.db.engine.connect() as db,
    ):
        found(db, host.referral.models, code="NONE2222")
    assert any("referral_codes" in record.getMessage() for record in caplog.records)
