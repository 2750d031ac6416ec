"""A whole life of a referral program, by its pages, methods and commands."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask_admin import Admin
from flask_babel import Babel

from flask_referral.contrib.admin import add_views
from flask_referral.db import qualified

from ..hosts import Host
from ..money import pay
from ..money import refund
from ..visiting import add_referrer
from ..visiting import browser


def live(host: Host) -> t.Any:
    """Go through all stations and commands, and return the referrer, who has been paid once."""
    settings = host.referral.state.settings
    if settings.outbox:

        @host.referral.on("user_attributed")
        def fail(event: t.Any) -> None:
            raise RuntimeError("not today")

    Babel(host.app)
    add_views(Admin(host.app), host.referral, base=Operators)
    referrer, code = add_referrer(host)
    client = browser(host)
    assert client.get(f"/r/{code}").headers["Set-Cookie"]
    host.current_user = referrer
    assert client.post("/api/referral/generate").json == {"code": code}
    user = host.add_user(name="buyer")
    sign_up(host, user, code)
    assert pay(host, user, "mem_1", paid_cents=900) == "converted"
    other = host.add_user(name="other")
    sign_up(host, other, code)
    assert pay(host, other, "mem_2") == "converted"
    assert refund(host, "mem_2")[1] == 1000
    figures: t.Any = client.get("/api/referral/stats").json
    assert figures["totals"]["signups"] == 2
    work_at_the_desk(host, user, code)
    for command in (
        ("backfill",),
        ("code", str(user)),
        ("stats", str(referrer)),
        ("mature",),
        ("rollup",),
        ("purge", "--clicks-older-than", "1", "--yes"),
        ("purge", "--clicks-older-than", "1", "--delete", "--yes"),
        ("events", "list"),
        ("export", str(referrer)),
        ("export", str(other)),
        ("reattribute", str(host.add_user()), code, "--yes"),
        ("erase", str(other), "--yes"),
        ("erase", str(referrer), "--yes"),
        *((("deliver",), ("deliver", "--again")) if settings.outbox else ()),
    ):
        host.cli(*command)
    answer = host.app.test_cli_runner().invoke(args=["referral", "doctor", "--json"])
    assert answer.exit_code in (0, 1) and "trapped" not in answer.output, answer.output
    return referrer


class Operators:
    """Everybody is one."""

    def is_accessible(self) -> bool:
        return True

    def operator_name(self) -> str:
        return "ada@example.com"


def work_at_the_desk(host: Host, user: t.Any, code: str) -> None:
    """Open each page of the desk, search each list, and do what changes nothing in the end."""
    client, form = host.client(), {"user": str(user), "reason": "to see"}
    for act in ("disable", "enable"):
        sent = client.post(f"/admin/referral_disabled/{act}", data=form)
        assert sent.status_code == 303, sent.text
    for view in ("codes", "referrals", "rewards", "deliveries", "disabled", "history"):
        for text in ("", str(user), code, "mem_1"):
            for page in ("", "export.csv"):
                address = f"/admin/referral_{view}/{page}"
                assert client.get(address, query_string={"q": text}).status_code == 200
    assert client.get("/admin/referral_rewards/?status=held").status_code == 200
    assert client.get("/admin/referral_overview/").status_code == 200
    found = client.get("/admin/referral_rewards/export.csv?q=mem_1").text.splitlines()[1]
    reward = f"/admin/referral_rewards/{found.split(',')[0]}"
    assert client.get(reward).status_code == 200
    shown = client.get(f"{reward}/take-back?amount_cents=1")
    assert shown.status_code == 200 and "What will happen" in shown.text


def sign_up(host: Host, user: t.Any, code: str) -> None:
    with host.app.app_context():
        assert host.referral.attribute(user, code=code).reason == "attributed"
        host.db.session.commit()


def balance(host: Host, user: t.Any) -> int:
    """Return what is in a wallet, in cents."""
    total = sa.select(sa.func.sum(host.Wallet.amount_cents)).where(host.Wallet.user_id == user)
    with host.app.app_context(), host.db.engine.connect() as connection:
        return int(qualified.execute(connection, total).scalar() or 0)
