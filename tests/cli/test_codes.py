"""``flask referral code`` and ``flask referral backfill``."""

from __future__ import annotations

import itertools
import json
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

from flask_referral import codes
from flask_referral import Referral
from flask_referral.upkeep import backfill

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..hosts import make_host


def add_users(host: Host, number: int) -> list[t.Any]:
    """Store users at once and return their keys in order."""
    with host.app.app_context():
        host.db.session.add_all([host.User() for _ in range(number)])
        host.db.session.commit()
        return list(host.db.session.scalars(sa.select(host.User.id).order_by(host.User.id)))


def stored(host: Host) -> dict[t.Any, str]:
    """Return the committed codes by user."""
    with host.app.app_context():
        table = host.referral.models.ReferralCode.__table__
        with host.db.engine.connect() as connection:
            rows = connection.execute(sa.select(table.c.user_id, table.c.code)).all()
    assert len({row.user_id for row in rows}) == len(rows)
    assert len({row.code for row in rows}) == len(rows)
    assert all(codes.normalize_code(row.code) == row.code for row in rows)
    return {row.user_id: row.code for row in rows}


class TestCode:
    @pytest.mark.parametrize("key", KEYS)
    def test_prints_the_one_code(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        user = host.add_user()
        first = host.cli("code", str(user)).stdout.strip()
        assert stored(host) == {user: first}
        assert host.cli("code", str(user)).stdout.strip() == first
        answer = json.loads(host.cli("code", str(user), "--json").stdout)
        assert answer == {"user": user if key == "int" else str(user), "code": first}

    @pytest.mark.parametrize(("key", "given"), [("int", "1x"), ("int", "7"), ("uuid", "7")])
    def test_unknown_user(self, make: MakeHost, key: str, given: str) -> None:
        host = make(key=key)
        assert f"{given}" in host.failure("code", given)
        assert stored(host) == {}


class TestBackfill:
    @pytest.mark.parametrize("key", KEYS)
    def test_everybody_has_a_code_and_keeps_the_old_one(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        users = add_users(host, 2_500)
        before = {users[i]: host.cli("code", str(users[i])).stdout.strip() for i in (0, 9, 2_499)}
        assert "Made 2,497 codes in " in host.cli("backfill", "--batch-size", "700").stdout
        after = stored(host)
        assert set(after) == set(users)
        assert before.items() <= after.items()
        assert "Every user has a code already." in host.cli("backfill").stdout
        assert stored(host) == after

    def test_json_on_stdout_and_progress_on_stderr(self, make: MakeHost) -> None:
        host = make()
        add_users(host, 3)
        result = host.cli("backfill", "--json")
        answer = json.loads(result.stdout)
        assert answer["created"] == 3
        assert answer["seconds"] >= 0
        assert "Making codes" in result.stderr

    def test_one_statement_and_one_commit_a_batch(self, make: MakeHost) -> None:
        host = make()
        add_users(host, 1_000)
        commits: list[int] = []
        with host.app.app_context():
            event.listen(host.db.engine, "commit", lambda connection: commits.append(1))
        with host.statements() as seen:
            host.cli("backfill", "--batch-size", "250")
        assert len([sql for sql in seen if sql.startswith("INSERT")]) == 4
        # The fifth page is empty, and the count comes first.
        assert len([sql for sql in seen if sql.startswith("SELECT")]) == 1 + 5
        # Each page begins where the one before ended, instead of passing everybody again.
        began = ("users.id > ", "users.id OPERATOR(pg_catalog.>) ")
        assert len([sql for sql in seen if any(text in sql for text in began)]) == 4
        assert len(commits) == 4

    def test_collisions_are_drawn_again(
        self, make: MakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make()
        users = add_users(host, 60)
        taken = host.cli("code", str(users[30])).stdout.strip()
        fresh = (f"{symbol}{other}222222" for symbol in "ABCDEFGH" for other in codes.ALPHABET)
        # Of three draws one is a user's code already and two are the same.
        draws = itertools.chain.from_iterable((taken, code, code) for code in fresh)
        monkeypatch.setattr(codes, "generate_referral_code", lambda: next(draws))
        host.cli("backfill", "--batch-size", "20")
        after = stored(host)
        assert set(after) == set(users)
        assert after[users[30]] == taken

    def test_a_source_that_repeats_itself_is_an_error_not_a_loop(
        self, make: MakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make()
        users = add_users(host, 3)
        monkeypatch.setattr(codes, "generate_referral_code", lambda: "AAAAAAAA")
        assert "five attempts" in host.failure("backfill")
        assert stored(host) == {users[0]: "AAAAAAAA"}

    def test_interrupted_batches_stay(
        self, make: MakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make()
        users = add_users(host, 100)
        drawn = itertools.count()

        def draw() -> str:
            if next(drawn) == 47:
                raise KeyboardInterrupt
            return generate()

        generate = codes.generate_referral_code
        monkeypatch.setattr(codes, "generate_referral_code", draw)
        assert "Interrupted; made 40 codes so far, which stays." in host.failure(
            "backfill", "--batch-size", "20"
        )
        first = stored(host)
        assert set(first) == set(users[:40])
        assert json.loads(host.cli("backfill", "--json").stdout)["created"] == 60
        after = stored(host)
        assert set(after) == set(users)
        assert first.items() <= after.items()

    def test_two_runs_at_once(self, make: MakeHost) -> None:
        host = make()
        users = add_users(host, 3_000)
        barrier = threading.Barrier(2)
        made: list[int] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                with host.app.app_context():
                    models, engine = host.referral.models, host.referral.state.engine
                with engine.connect() as connection:
                    barrier.wait()
                    for number in backfill.batches(connection, models, 50):
                        connection.commit()
                        made.append(number)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert set(stored(host)) == set(users)
        assert sum(made) == len(users)

    def test_a_batch_behind_another_run_is_not_an_error(
        self, make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that always comes second makes nothing, however many batches long."""
        host = make_postgresql()
        users = add_users(host, 200)
        with host.app.app_context():
            models, engine = host.referral.models, host.referral.state.engine
        with engine.connect() as winner, engine.connect() as second:
            first_run = backfill.batches(winner, models, 10)
            insert = backfill._insert

            def overtaken(connection: sa.Connection, *rest: t.Any) -> t.Any:
                if connection is second:
                    next(first_run, None)
                    winner.commit()
                return insert(connection, *rest)

            monkeypatch.setattr(backfill, "_insert", overtaken)
            made = []
            for number in backfill.batches(second, models, 10):
                second.commit()
                made.append(number)
        assert set(made) == {0}
        assert set(stored(host)) == set(users)

    def test_a_user_deleted_meanwhile(
        self, make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make_postgresql()
        users = add_users(host, 30)
        generate = codes.generate_referral_code
        gone = iter(users[5:7])

        def draw() -> str:
            for user in gone:
                with host.db.engine.begin() as other:
                    other.execute(sa.delete(host.User).where(host.User.id == user))
            return generate()

        monkeypatch.setattr(codes, "generate_referral_code", draw)
        host.cli("backfill")
        assert set(stored(host)) == set(users) - set(users[5:7])

    def test_batch_size_is_checked(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        assert "batch-size" in host.failure("backfill", "--batch-size", "0", status=2)

    def test_users_in_another_schema(self, postgresql_url: str) -> None:
        engine = sa.create_engine(postgresql_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA auth")
            connection.exec_driver_sql("CREATE TABLE auth.users (id uuid PRIMARY KEY)")
            connection.exec_driver_sql(
                "INSERT INTO auth.users SELECT gen_random_uuid() FROM generate_series(1, 40)"
            )
        engine.dispose()
        users = sa.Table(
            "users", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True), schema="auth"
        )
        app, db, referral = Flask("host"), SQLAlchemy(), Referral()
        app.config["SQLALCHEMY_DATABASE_URI"] = postgresql_url
        db.init_app(app)
        referral.init_app(app, db, user_model=users)
        host = Host(app, db, users, None, referral)
        host.cli("db", "upgrade")
        host.cli("backfill", "--batch-size", "7")
        assert len(stored(host)) == 40
        with app.app_context():
            db.engine.dispose()

    def test_as_the_owner_of_tables_under_row_level_security(
        self, make_postgresql: MakeHost, postgresql_url: str
    ) -> None:
        """RLS without FORCE does not bind the owner, who is no superuser here."""
        admin = make_postgresql(migrate=False)
        with admin.app.app_context(), admin.db.engine.begin() as connection:
            connection.exec_driver_sql("CREATE ROLE backfill_owner LOGIN")
            connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO backfill_owner")
        url = sa.make_url(postgresql_url).set(username="backfill_owner")
        host = make_host(url.render_as_string(hide_password=False))
        try:
            host.create_tables()
            host.cli("db", "upgrade")
            with host.app.app_context(), host.db.engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
            users = add_users(host, 20)
            host.cli("backfill")
            assert set(stored(host)) == set(users)
        finally:
            with host.app.app_context():
                host.db.engine.dispose()
            with admin.app.app_context(), admin.db.engine.begin() as connection:
                connection.exec_driver_sql("DROP OWNED BY backfill_owner")
                connection.exec_driver_sql("DROP ROLE backfill_owner")
