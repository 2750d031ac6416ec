"""What a link is tagged with: read where a visit is recorded, cleaned, and never in the way."""

from __future__ import annotations

import typing as t

import pytest

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks

SITE = {"Referer": "https://www.blog.example/post"}


def with_pages(host: Host) -> Host:
    host.app.add_url_rule("/page", view_func=lambda: "page")
    return host


def tags(row: t.Any) -> tuple[str | None, ...]:
    return row.utm_source, row.utm_medium, row.utm_campaign, row.source


@pytest.mark.parametrize("path", ["/r/{code}?{tags}", "/page?ref={code}&{tags}"])
@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (
            "utm_source=News&utm_medium=E-Mail&utm_campaign=Summer+2026",
            ("news", "e-mail", "Summer 2026", "news"),
        ),
        ("utm_campaign=x", (None, None, "x", "blog.example")),
        ("utm_medium=x&amp;utm_source=y", ("y", "x", None, "y")),
        (
            "utm_source=&utm_source=%20&utm_source=third&utm_source=z",
            ("third", None, None, "third"),
        ),
        ("utm_source=code", ("code", None, None, "blog.example")),
        ("utm_source=%E2%80%AEx%00%E2%80%8B%ED%A0%80", ("x\ufffd\ufffd\ufffd", None, None, None)),
        ("utm_sourc=x&utm_source&UTM_SOURCE=x&utm_=x", (None, None, None, "blog.example")),
        ("utm_source=" + "x" * 9000, ("x" * 64, None, None, "x" * 64)),
        ("utm_term=a&gclid=b", (None, None, None, "blog.example")),
        ("", (None, None, None, "blog.example")),
    ],
)
def test_what_is_kept_of_a_link(
    make: MakeHost, path: str, query: str, kept: tuple[str | None, ...]
) -> None:
    host = with_pages(make())
    _, code = add_referrer(host)
    answer = browser(host).get(path.format(code=code, tags=query), headers=SITE)
    assert answer.status_code in (200, 302)
    [row] = clicks(host)
    assert tags(row) == (*kept[:3], kept[3] or kept[0])


def test_a_click_with_tags_is_one_statement(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    with host.statements() as seen:
        browser(host).get(f"/r/{code}?utm_source=x&utm_medium=y&utm_campaign=z", headers=SITE)
    assert len(seen) == 1


def test_the_landing_page_gets_the_tags_too(make_sqlite: MakeHost) -> None:
    """The host's own analytics need them; the visit is counted once."""
    host = with_pages(make_sqlite(REFERRAL_LANDING_URL="/page"))
    _, code = add_referrer(host)
    client = browser(host)
    answer = client.get(f"/r/{code}?utm_source=x")
    assert answer.headers["Location"] == "/page?utm_source=x"
    client.get(answer.headers["Location"])
    assert len(clicks(host)) == 1


def test_a_repeated_click_keeps_what_the_first_said(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    for source in ("first", "second"):
        browser(host).get(f"/r/{code}?utm_source={source}")
    [row] = clicks(host)
    assert row.source == "first"


def test_a_sign_up_in_its_own_request(make: MakeHost) -> None:
    """A form's POST whose address has code and tags, from a browser without cookies."""
    host = make()
    _, code = add_referrer(host)

    def sign_up() -> str:
        user = host.User()
        host.db.session.add(user)
        host.db.session.flush()
        reason = host.referral.attribute(user).reason
        host.db.session.commit()
        return reason

    host.app.add_url_rule("/signup", view_func=sign_up, methods=["POST"])
    for number in range(2):
        # The second one's click is the first one's already.
        answer = browser(host).post(f"/signup?ref={code}&utm_source=Ads&utm_campaign=c")
        assert answer.text == "attributed"
        assert [row.source for row in clicks(host)] == ["ads"] * (number + 1)
    assert sorted(tags(row) for row in clicks(host) if row.utm_source) == [
        ("ads", None, "c", "ads")
    ]


def test_a_page_without_our_parameter_reads_no_tags(
    make_sqlite: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = with_pages(make_sqlite())
    _, code = add_referrer(host)

    def read() -> t.NoReturn:
        raise AssertionError("read")

    monkeypatch.setattr("flask_referral.web.query.tags", read)
    assert browser(host).get("/page?utm_source=x").status_code == 200
    assert browser(host).get(f"/page?utm_source=x&code={code}").status_code == 200
    assert clicks(host) == []
