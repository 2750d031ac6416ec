"""Where visitors came from: cleaned, told apart, and summed up to the very totals."""

from __future__ import annotations

import datetime as dt
import typing as t

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from flask_referral import sources
from flask_referral.clicks import clean_referrer
from flask_referral.results import Stats
from flask_referral.sources import Tags

from .conftest import MakeHost
from .history import execute
from .history import NOON
from .history import rank
from .history import Referrer
from .hosts import Host
from .visiting import add_referrer
from .visiting import browser
from .visiting import clicks
from .visiting import Clock

DAY = dt.timedelta(days=1)


@pytest.fixture
def at_noon(clock: Clock) -> Clock:
    clock.time = NOON
    return clock


class TestClean:
    @pytest.mark.parametrize(
        ("text", "cleaned"),
        [
            (None, None),
            ("", None),
            ("  \t\n ", None),
            ("Summer  Sale", "Summer  Sale"),
            (" x ", "x"),
            ("a\0b\x1b\r\n", "ab"),
            ("\u202eevil\u202c\u2066\u200f", "evil"),
            ("in\u200bvis\u00adible\ufeff\u3164\u034f\ufe0f", "invisible"),
            ("\ud800\udfff", None),
            ("\u200b\u3164", None),
            ("\N{SNOWMAN} \u65e5\u672c", "\N{SNOWMAN} \u65e5\u672c"),
            ("x" * 64 + "y", "x" * 64),
            ("x" * 63 + " y", "x" * 63),
            ("<script>alert('1')</script>", "<script>alert('1')</script>"),
        ],
    )
    def test_what_can_be_seen_stays(self, text: str | None, cleaned: str | None) -> None:
        assert sources.clean(text) == cleaned

    def test_upper_and_lower_case_are_one_source(self) -> None:
        found = sources.tags("NewsLetter", "E-Mail", "Summer 2026")
        assert found == Tags("newsletter", "e-mail", "Summer 2026")
        # A letter may become two.
        assert sources.clean("\N{LATIN SMALL LETTER SHARP S}" * 64, is_folded=True) == "s" * 64

    @given(st.text(), st.booleans())
    def test_no_text_is_too_long_unseen_or_cleaned_twice(self, text: str, is_folded: bool) -> None:
        cleaned = sources.clean(text, is_folded=is_folded)
        if cleaned is not None:
            assert 0 < len(cleaned) <= sources.LENGTH
            assert cleaned.isprintable()
            assert cleaned == cleaned.strip()
            cleaned.encode()


class TestSource:
    @pytest.mark.parametrize(
        ("tag", "referrer", "source"),
        [
            (None, None, None),
            ("mail", None, "mail"),
            ("mail", "https://blog.example/post", "mail"),
            (None, "https://blog.example/post", "blog.example"),
            (None, "https://WWW.Blog.Example:8443/", "blog.example"),
            (None, "https://www.example.www.org", "example.www.org"),
            (None, "http://[2001:db8::1]:80/x", "[2001:db8::1]"),
            (None, "android-app://com.google.android.gm/", "com.google.android.gm"),
            (None, "https://user:secret@t.example/", "t.example"),
            (None, "https://our.example/page", None),
            (None, "about:blank", None),
            (None, f"https://{'a' * 300}.example/", "a" * 255),
        ],
    )
    def test_the_tag_goes_before_the_site(
        self, tag: str | None, referrer: str | None, source: str | None
    ) -> None:
        cleaned = clean_referrer(referrer, "our.example")
        assert sources.of_visit(Tags(source=tag), cleaned) == source

    @pytest.mark.parametrize("word", sorted(sources.RESERVED))
    def test_no_link_passes_itself_off_as_one_of_our_own_words(self, word: str) -> None:
        tags = sources.tags(f" {word.upper()}", None, None)
        assert sources.of_visit(tags, "https://blog.example/") == "blog.example"
        assert sources.of_visit(tags, None) is None
        assert sources.of_visit(sources.NO_TAGS, f"http://{word}/") is None

    @given(st.text(), st.sampled_from(("https", "http", "android-app")))
    def test_no_referring_page_breaks_a_visit(self, text: str, scheme: str) -> None:
        source = sources.of_visit(
            sources.NO_TAGS, clean_referrer(f"{scheme}://{text}", "our.example")
        )
        assert source is None or (source.isprintable() and 0 < len(source) <= 255)


def of(found: Stats) -> dict[str | None, tuple[int, int, int, int]]:
    return {
        row.source: (row.clicks, row.signups, row.conversions, row.earned_cents)
        for row in found.sources
    }


def stats(host: Host, user: t.Any) -> Stats:
    with host.app.test_request_context():
        return host.referral.stats(user)


class TestStatistics:
    def test_a_visitors_way_from_the_link_to_the_bonus(self, make: MakeHost) -> None:
        """The source of the visit is that of the sign-up, of each payment, and of the renewal."""
        host = make(REFERRAL_RENEWALS=1, REFERRAL_HOLD_DAYS=0)
        referrer, code = add_referrer(host)
        client = browser(host)
        client.get(f"/r/{code}?utm_source=News&utm_campaign=May")
        for address, site in (("192.0.2.2", "https://www.blog.example/"), ("192.0.2.3", "")):
            other = browser(host)
            other.environ_base["REMOTE_ADDR"] = address
            other.get(f"/r/{code}", headers={"Referer": site})
        cookie = client.get_cookie("virtuna_referral")
        assert cookie is not None
        buyer, typist = host.add_user(), host.add_user()
        with host.app.test_request_context(headers={"Cookie": f"{cookie.key}={cookie.value}"}):
            assert host.referral.attribute(buyer).reason == "attributed"
            host.db.session.commit()
        with host.app.test_request_context():
            assert host.referral.attribute(typist, code).reason == "attributed"
            for payment, bonus in (("first", 700), ("second", 300)):
                host.referral.convert(buyer, "mem", payment_id=payment, bonus_cents=bonus)
            host.referral.convert(typist, "other", bonus_cents=50)
            host.db.session.commit()
        expected = {
            "news": (1, 1, 1, 1000),
            sources.CODE: (1, 1, 1, 50),
            "blog.example": (1, 0, 0, 0),
            None: (1, 0, 0, 0),
        }
        assert of(stats(host, referrer)) == expected
        host.cli("erase", str(buyer), "--yes")
        assert of(stats(host, referrer)) == expected

    def test_a_second_person_of_the_same_browser_came_the_same_way(self, make: MakeHost) -> None:
        host = make()
        referrer, code = add_referrer(host)
        client = browser(host)
        client.get(f"/r/{code}?utm_source=news")
        cookie = client.get_cookie("virtuna_referral")
        assert cookie is not None
        for user in (host.add_user(), host.add_user()):
            with host.app.test_request_context(headers={"Cookie": f"{cookie.key}={cookie.value}"}):
                assert host.referral.attribute(user).reason == "attributed"
                host.db.session.commit()
        assert of(stats(host, referrer)) == {"news": (2, 2, 0, 0)}

    def test_another_persons_code_that_is_typed_is_no_visit(self, make: MakeHost) -> None:
        """Though the browser remembers a visit through a third one's."""
        host = make()
        _, visited = add_referrer(host)
        typed_by, typed = add_referrer(host)
        client = browser(host)
        client.get(f"/r/{visited}?utm_source=news")
        cookie = client.get_cookie("virtuna_referral")
        assert cookie is not None
        user = host.add_user()
        with host.app.test_request_context(headers={"Cookie": f"{cookie.key}={cookie.value}"}):
            assert host.referral.attribute(user, typed).reason == "attributed"
            host.db.session.commit()
        assert of(stats(host, typed_by)) == {sources.CODE: (1, 1, 0, 0)}

    def test_more_sources_than_are_listed(self, make: MakeHost, at_noon: Clock) -> None:
        """The twenty largest, and all others as one: nothing is left out of the sums."""
        host = make()
        referrer = Referrer(host)
        for number in range(30):
            referrer.click(*[NOON] * (number % 7 + 1), source=f"s{number:02}")
        referrer.convert(NOON, "credited", 100, source="s00")
        referrer.convert(NOON, "credited", 10)
        expected = referrer.expected(NOON, 1)["sources"]
        assert len(expected) == 31
        for _ in range(2):
            *listed, other = referrer.stats(1)["sources"]
            assert listed == expected[:20]
            rest = expected[20:]
            assert other == {"source": sources.OTHER} | {
                key: sum(row[key] for row in rest) for key in other if key != "source"
            }
            assert other["earned_cents"] == 110
            host.cli("rollup")
            at_noon.turn(days=2)

    def test_the_sums_are_the_totals_whatever_the_past(
        self, make: MakeHost, at_noon: Clock
    ) -> None:
        """Clicks and rewards of before there were sources are of none, also when rolled up."""
        host = make()
        referrer = Referrer(host)
        referrer.click(*[NOON] * 5)
        host.cli("rollup")
        at_noon.turn(days=2)
        host.cli("rollup")
        referrer.click(*[at_noon.time] * 3, source="news")
        referrer.earn(at_noon.time, "credited", 30)
        referrer.earn(at_noon.time, "void", 30, 30, source="gone")
        for _ in range(3):
            found = referrer.stats(1)
            for name in ("clicks", "signups", "conversions", "earned_cents"):
                assert found["totals"][name] == sum(row[name] for row in found["sources"])
            assert [row["source"] for row in found["sources"]] == [None, "news"]
            assert found["sources"] == sorted(found["sources"], key=rank)
            at_noon.turn(days=2)
            host.cli("rollup")
            host.cli("purge", "--clicks-older-than", "1", "--delete", "--yes")
        assert clicks(host) == []

    def test_a_nobody_has_no_sources(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        assert stats(host, host.add_user()).sources == ()
        user, _ = add_referrer(host)
        assert stats(host, user).sources == ()

    def test_statistics_survive_json(self, make_sqlite: MakeHost, at_noon: Clock) -> None:
        host = make_sqlite()
        referrer = Referrer(host)
        referrer.click(NOON, source="news")
        found = stats(host, referrer.id)
        assert Stats.of(found.to_dict()) == found
        assert found.to_dict()["sources"] == [
            {"source": "news", "clicks": 1, "signups": 0, "conversions": 0, "earned_cents": 0}
        ]

    def test_what_the_command_shows(self, make_sqlite: MakeHost, at_noon: Clock) -> None:
        host = make_sqlite()
        referrer = Referrer(host)
        referrer.click(NOON, NOON, source="news")
        referrer.click(NOON)
        text = host.cli("stats", str(referrer.id)).stdout
        assert text.endswith(
            "   Clicks  Sign-ups  Conversions  Earned cents  Source\n"
            "        2         0            0             0  news\n"
            "        1         0            0             0  (direct)\n"
        )

    def test_index_only_and_no_row_of_a_closed_day(
        self, make_postgresql: MakeHost, at_noon: Clock
    ) -> None:
        """Whatever a referrer's past, by source nothing but ranges of indexes is read."""
        host = make_postgresql()
        for _ in range(20):
            referrer = Referrer(host)
            for source in ("news", "blog.example", None):
                referrer.click(*(NOON - DAY * number for number in range(60)), source=source)
        host.cli("rollup")
        with host.app.app_context(), host.db.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in ("referral_clicks", "referral_daily_sources"):
                connection.exec_driver_sql(f"VACUUM ANALYZE {table}")
        plans: list[str] = []
        with host.app.app_context():
            engine = host.db.engine

        def explain(
            connection: t.Any, cursor: t.Any, statement: str, parameters: t.Any, *rest: t.Any
        ) -> None:
            with connection.connection.cursor() as other:
                other.execute(f"EXPLAIN {statement}", parameters)
                plans.append("\n".join(row[0] for row in other.fetchall()))

        sa.event.listen(engine, "before_cursor_execute", explain)
        referrer.stats()
        sa.event.remove(engine, "before_cursor_execute", explain)
        [plan] = plans
        assert "Index Only Scan using idx_referral_clicks_sources" in plan, plan
        assert "Index Only Scan using idx_referral_clicks_signup_sources" in plan, plan
        assert "referral_daily_sources_pkey" in plan, plan
        assert "Seq Scan on referral_clicks" not in plan, plan
        assert "Seq Scan on referral_daily_sources" not in plan, plan


def test_a_source_that_is_too_long_is_refused_by_the_database(make: MakeHost) -> None:
    host = make()
    referrer = Referrer(host)
    for name, length in (("utm_source", 64), ("utm_medium", 64), ("utm_campaign", 64)):
        referrer.click(NOON, **{name: "x" * length})
        with pytest.raises(sa.exc.IntegrityError, match=f"referral_clicks_{name}_check"):
            referrer.click(NOON, **{name: "x" * (length + 1)})
    with pytest.raises(sa.exc.IntegrityError, match="referral_clicks_source_check"):
        referrer.click(NOON, source="x" * 256)
    execute(host, sa.delete(host.referral.models.ReferralClick))
