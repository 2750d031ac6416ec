"""``?ref=CODE`` on any page: the page stays what it is, and so does the host's transaction."""

from __future__ import annotations

import threading
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import after_this_request
from flask import Flask
from flask import make_response
from flask import redirect
from flask import request
from flask import Response
from flask import stream_with_context
from sqlalchemy import event
from sqlalchemy import orm

from flask_referral import signals

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import CRAWLER
from ..visiting import make_code
from ..visiting import set_cookie

#: One connection, and nobody waits long for a second one.
TIGHT = {"poolclass": sa.QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": 1}


def names(host: Host) -> list[str]:
    with host.app.app_context(), host.db.engine.connect() as connection:
        return sorted(
            name for (name,) in connection.execute(sa.text("SELECT name FROM users")) if name
        )


def page(host: Host, view: t.Callable[..., t.Any], path: str = "/page") -> None:
    host.app.add_url_rule(path, endpoint=path.strip("/"), view_func=view)


def run_after_us(host: Host, function: t.Callable[[Response], Response]) -> None:
    # Functions that run after a request run in the reverse order.
    host.app.after_request_funcs.setdefault(None, []).insert(0, function)


def test_page_is_untouched(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    page(host, lambda: f"page {sorted(request.args.items())}")
    plain = browser(host).get("/page?x=1")
    answer = browser(host).get(f"/page?ref={code.lower()}&x=1")
    assert answer.get_data(as_text=True) == f"page [('ref', '{code.lower()}'), ('x', '1')]"
    assert answer.status_code == plain.status_code == 200
    assert set_cookie(answer) is not None
    assert set_cookie(plain) is None
    assert "Cache-Control" not in plain.headers
    [row] = clicks(host)
    assert row.referral_code == code


def test_statement_budget(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    page(host, lambda: "page")
    client = browser(host)
    with host.statements() as first:
        client.get(f"/page?ref={code}")
    with host.statements() as again:
        client.get(f"/page?ref={code}")
    assert (len(first), len(again)) == (1, 0)
    assert len(clicks(host)) == 1


def test_other_parameter_name(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_QUERY_PARAM="via")
    _, code = add_referrer(host)
    page(host, lambda: "page")
    assert set_cookie(browser(host).get(f"/page?ref={code}")) is None
    assert set_cookie(browser(host).get(f"/page?via={code}")) is not None


def test_link_route_ignores_the_parameter(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    _, other = add_referrer(host)
    browser(host).get(f"/r/{code}?ref={other}")
    assert [row.referral_code for row in clicks(host)] == [code]


@pytest.mark.parametrize("code", ["ZZZZZZZZ", "x", "", "%00%0d%0a", "K" * 100_000])
def test_unknown_code(make_sqlite: MakeHost, code: str) -> None:
    host = make_sqlite()
    page(host, lambda: "page")
    answer = browser(host).get(f"/page?ref={code}")
    assert (answer.status_code, answer.data) == (200, b"page")
    assert set_cookie(answer) is None
    assert clicks(host) == []


def test_what_is_no_visit(make_sqlite: MakeHost, tmp_path: Path) -> None:
    host = make_sqlite()
    host.app.static_folder = str(tmp_path)
    (tmp_path / "style.css").write_text("/* style */")
    referrer, code = add_referrer(host)
    host.app.add_url_rule("/page", view_func=lambda: "page", methods=["GET", "POST"])
    page(host, lambda: ("broken", 500), "/broken")
    client = browser(host)
    url = f"/page?ref={code}"
    answers = [
        client.post(url),
        client.head(url),
        client.options(url),
        client.get(url, headers={"Sec-Purpose": "prefetch"}),
        client.get(url, headers={"Sec-Fetch-Dest": "script"}),
        client.get(url, headers={"User-Agent": CRAWLER}),
        client.get(f"/nowhere?ref={code}"),
        client.get(f"/broken?ref={code}"),
        client.get(f"/static/style.css?ref={code}"),
        client.get(f"/api/referral/codes/{code}?ref={code}"),
    ]
    host.current_user = referrer
    answers.append(client.get(url))
    assert [set_cookie(answer) for answer in answers] == [None] * len(answers)
    assert clicks(host) == []
    for answer in answers:
        answer.close()


def test_redirecting_page(make_sqlite: MakeHost) -> None:
    # A page behind a log-in sends visitors on, often without the parameter.
    host = make_sqlite()
    _, code = add_referrer(host)
    page(host, lambda: redirect("/login"))
    assert set_cookie(browser(host).get(f"/page?ref={code}")) is not None


def test_failing_database(make: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make(SQLALCHEMY_ENGINE_OPTIONS=TIGHT)
    _, code = add_referrer(host)
    user = host.add_user(name="Ada")

    def view() -> str:
        return host.db.session.get(host.User, user).name

    def late(response: Response) -> Response:
        query = sa.select(host.User.name).filter_by(id=user)
        response.headers["X-Name"] = host.db.session.scalar(query)
        return response

    page(host, view)
    run_after_us(host, late)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE referral_clicks RENAME TO away")
    answer = browser(host).get(f"/page?ref={code}")
    assert (answer.status_code, answer.data) == (200, b"Ada")
    # The session that the host goes on using is as good as before.
    assert answer.headers["X-Name"] == "Ada"
    assert set_cookie(answer) is None
    assert code in caplog.text


@pytest.mark.parametrize("cache", ["public, max-age=600, s-maxage=900", "max-age=60", None])
def test_no_shared_cache_keeps_the_page(make_sqlite: MakeHost, cache: str | None) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)

    def view() -> Response:
        response = make_response("page")
        if cache:
            response.headers["Cache-Control"] = cache
        return response

    page(host, view)
    client = browser(host)
    for answer in (
        client.get(f"/page?ref={code}"),
        client.get(f"/page?ref={code}"),
        client.get(f"/page?ref={code}", headers={"User-Agent": CRAWLER}),
    ):
        assert answer.cache_control.private
        assert not answer.cache_control.public
        assert answer.cache_control.s_maxage is None
        assert "Cookie" in answer.vary
    assert client.get("/page").headers.get("Cache-Control") == cache


class TestHostsTransaction:
    """``db.session`` when the capture comes, with a pool of one connection."""

    @pytest.fixture
    def host(self, make: MakeHost) -> Host:
        return make(SQLALCHEMY_ENGINE_OPTIONS=TIGHT)

    @pytest.fixture
    def code(self, host: Host) -> str:
        return add_referrer(host)[1]

    def visit(self, host: Host, code: str, path: str = "/page") -> None:
        answer = browser(host).get(f"{path}?ref={code}")
        assert answer.status_code == 200
        assert set_cookie(answer) is not None
        answer.close()

    def test_read_only(self, host: Host, code: str) -> None:
        user = host.add_user(name="Ada")
        page(host, lambda: host.db.session.get(host.User, user).name)
        self.visit(host, code)
        assert len(clicks(host)) == 1

    def test_objects_stay_loaded(self, host: Host, code: str) -> None:
        user = host.add_user(name="Ada")
        kept: list[t.Any] = []

        def view() -> str:
            kept.append(host.db.session.get(host.User, user))
            return "page"

        page(host, view)
        self.visit(host, code)
        # After the session has gone; an expired object could not say it any more.
        assert kept[0].name == "Ada"

    def test_pending_object_is_not_stored(self, host: Host, code: str) -> None:
        def view() -> str:
            host.db.session.add(host.User(name="never committed"))
            return "page"

        page(host, view)
        self.visit(host, code)
        assert "never committed" not in names(host)

    def test_flushed_row_is_not_committed(self, host: Host, code: str) -> None:
        def view() -> str:
            host.db.session.add(host.User(name="never committed"))
            host.db.session.flush()
            return "page"

        page(host, view)
        self.visit(host, code)
        assert "never committed" not in names(host)

    def test_plain_sql_is_not_committed(self, host: Host, code: str) -> None:
        def view() -> str:
            host.db.session.execute(sa.text("UPDATE users SET name = 'overwritten'"))
            return "page"

        page(host, view)
        self.visit(host, code)
        assert "overwritten" not in names(host)

    @pytest.mark.parametrize("flush", [True, False])
    @pytest.mark.parametrize("after_us", [True, False])
    def test_commit_after_the_view(
        self, host: Host, code: str, flush: bool, after_us: bool
    ) -> None:
        def commit(response: Response) -> Response:
            host.db.session.commit()
            return response

        def view() -> str:
            host.db.session.add(host.User(name="committed later"))
            if flush:
                host.db.session.flush()
            if not after_us:
                after_this_request(commit)
            return "page"

        page(host, view)
        if after_us:
            run_after_us(host, commit)
        self.visit(host, code)
        assert "committed later" in names(host)
        assert len(clicks(host)) == 1

    def test_committed_in_the_view(self, host: Host, code: str) -> None:
        def view() -> str:
            host.db.session.add(host.User(name="committed"))
            host.db.session.commit()
            return "page"

        page(host, view)
        self.visit(host, code)
        assert "committed" in names(host)
        assert len(clicks(host)) == 1

    def test_failed_statement(
        self, host: Host, code: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def view() -> str:
            with pytest.raises(sa.exc.DBAPIError):
                host.db.session.execute(sa.text("SELECT no_such_column FROM users"))
            return "page"

        page(host, view)
        answer = browser(host).get(f"/page?ref={code}")
        assert (answer.status_code, answer.data) == (200, b"page")

    def test_open_savepoint(self, host: Host, code: str) -> None:
        def view() -> str:
            host.db.session.begin_nested()
            host.db.session.add(host.User(name="never committed"))
            host.db.session.flush()
            return "page"

        page(host, view)
        self.visit(host, code)
        assert "never committed" not in names(host)

    def test_logged_in_visitor(self, host: Host, code: str) -> None:
        user = host.add_user(name="Ada")
        host.referral.identity_loader(lambda: host.db.session.get(host.User, user))
        page(host, lambda: "page")
        self.visit(host, code)
        browser(host).get(f"/r/{code}", headers={"User-Agent": "another"})
        assert len(clicks(host)) == 2

    def test_work_before_the_link_route(self, host: Host, code: str) -> None:
        @host.app.before_request
        def remember() -> None:
            host.db.session.add(host.User(name="never committed"))
            host.db.session.flush()

        answer = browser(host).get(f"/r/{code}")
        assert answer.status_code == 302
        assert "never committed" not in names(host)

    def test_stream_that_reads(self, host: Host, code: str) -> None:
        for number in range(20):
            host.add_user(name=f"user {number:02}")

        def view() -> Response:
            host.db.session.execute(sa.text("SELECT 1"))

            def lines() -> t.Iterator[str]:
                for name in host.db.session.scalars(sa.select(host.User.name)):
                    yield f"{name}\n"

            return Response(stream_with_context(lines()))

        page(host, view)
        answer = browser(host).get(f"/page?ref={code}")
        assert set_cookie(answer) is not None
        assert len(answer.get_data(as_text=True).splitlines()) == 21
        answer.close()
        assert len(clicks(host)) == 1

    def test_stream_of_an_unknown_code(self, host: Host) -> None:
        def view() -> Response:
            host.db.session.execute(sa.text("SELECT 1"))
            return Response(stream_with_context(iter("page")))

        page(host, view)
        answer = browser(host).get("/page?ref=ZZZZZZZZ")
        assert (answer.data, set_cookie(answer)) == (b"page", None)
        answer.close()
        assert clicks(host) == []

    def test_stream_without_database(self, host: Host, code: str) -> None:
        page(host, lambda: Response(iter("page")))
        answer = browser(host).get(f"/page?ref={code}")
        assert len(clicks(host)) == 1
        assert answer.data == b"page"

    @pytest.mark.parametrize("reads", [True, False])
    def test_signal(self, host: Host, code: str, reads: bool) -> None:
        user = host.add_user(name="Ada")
        page(host, lambda: host.db.session.get(host.User, user).name if reads else "page")
        told: list[t.Any] = []

        def receive(app: Flask, **values: t.Any) -> None:
            # The one connection is free again.
            told.append((values, len(clicks(host))))

        with signals.click_recorded.connected_to(receive):
            self.visit(host, code)
            browser(host).get(f"/page?ref={code}")
        [row] = clicks(host)
        assert told == [({"click_id": row.id, "code": code}, 1)]

    def test_no_signal_of_what_the_host_drops(self, host: Host, code: str) -> None:
        def view() -> str:
            host.db.session.execute(sa.text("UPDATE users SET name = 'overwritten'"))
            return "page"

        page(host, view)
        told: list[t.Any] = []

        def receive(app: Flask, **values: t.Any) -> None:
            told.append(values)

        with signals.click_recorded.connected_to(receive):
            self.visit(host, code)
        assert told == clicks(host) == []

    def test_many_at_once(self, host: Host, code: str) -> None:
        # Eight threads share one connection; each holds it when our turn comes.
        user = host.add_user(name="Ada")
        page(host, lambda: host.db.session.get(host.User, user).name)
        statuses: list[tuple[int, bool]] = []

        def run(number: int) -> None:
            answer = host.client().get(
                f"/page?ref={code}", headers={"User-Agent": f"Browser {number}"}
            )
            statuses.append((answer.status_code, set_cookie(answer) is not None))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [(200, True)] * 8
        assert len(clicks(host)) == 8

    def test_one_checkout(self, host: Host, code: str) -> None:
        user = host.add_user(name="Ada")
        page(host, lambda: host.db.session.get(host.User, user).name)
        page(host, lambda: "page", "/plain")
        taken: list[int] = []
        with host.app.app_context():
            event.listen(host.db.engine, "checkout", lambda *args: taken.append(1))
        self.visit(host, code)
        assert len(taken) == 1
        self.visit(host, make_code(host, user), "/plain")
        assert len(taken) == 3  # one of them for make_code()


def test_stream_with_a_cursor_on_the_server(make: MakeHost) -> None:
    # A commit would close the cursor, so the visit is recorded when the stream has ended.
    host = make()
    _, code = add_referrer(host)
    for number in range(20):
        host.add_user(name=f"user {number:02}")

    def view() -> Response:
        result = host.db.session.execute(
            sa.select(host.User.name), execution_options={"yield_per": 2}
        )
        return Response(f"{name}\n" for (name,) in result)

    page(host, view)
    # The test's own context keeps the session alive while the stream is read.
    with host.app.app_context():
        answer = browser(host).get(f"/page?ref={code}")
        assert set_cookie(answer) is not None
        assert len(answer.get_data(as_text=True).splitlines()) == 21
        answer.close()
    assert len(clicks(host)) == 1


@pytest.mark.parametrize("reads", [True, False])
def test_session_that_was_joined_to_a_transaction(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    # As hosts' test suites do: all is rolled back when the test is over.
    host = make()
    user = host.add_user(name="Ada")
    page(host, lambda: host.db.session.get(host.User, user).name if reads else "page")
    with host.app.app_context(), host.db.engine.connect() as connection:
        outer = connection.begin()
        session = orm.Session(connection, join_transaction_mode="create_savepoint")
        monkeypatch.setattr(host.db, "session", orm.scoped_session(lambda: session))
        code = host.referral.get_or_create_code(user).code
        session.commit()
        assert set_cookie(browser(host).get(f"/page?ref={code}")) is not None
        click = host.referral.models.ReferralClick
        assert session.scalar(sa.select(sa.func.count(click.id))) == 1
        session.close()
        outer.rollback()
    assert clicks(host) == []
