"""What ``flask_referral.testing`` gives to the tests of hosts."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from flask_referral import clock
from flask_referral import ReferralError
from flask_referral import testing

from .conftest import MakeHost
from .hosts import Host
from .money import amounts
from .money import mature
from .money import refer
from .visiting import add_referrer
from .visiting import clicks
from .whop import CONFIG
from .whop import payment

ROOT = Path(__file__).parent.parent
Visit = t.Callable[..., t.Any]


def sign_up(host: Host, client: t.Any) -> str:
    """Sign a new user up with what the client's cookies say; return the reason."""
    cookie = client.get_cookie("virtuna_referral")
    headers = {"Cookie": f"virtuna_referral={cookie.value}"} if cookie else {}
    user = host.add_user(created_at=clock.now())
    with host.app.test_request_context("/", headers=headers):
        reason = host.referral.attribute(user).reason
        host.db.session.commit()
    return reason.value


@pytest.mark.parametrize("path", [None, "/pricing"])
def test_a_visit_counts_and_its_client_signs_up(
    make: MakeHost, referral_visit: Visit, path: str | None
) -> None:
    host = make()
    host.app.add_url_rule("/pricing", view_func=lambda: "the prices")
    _, code = add_referrer(host)
    client = host.client()
    answer = referral_visit(client, code, path=path, headers={"Referer": "https://blog.example/"})
    assert answer.status_code == (302 if path is None else 200)
    (click,) = clicks(host)
    assert (click.referral_code, click.referrer_url) == (code, "https://blog.example/")
    assert sign_up(host, client) == "attributed"
    assert sign_up(host, host.client()) == "no_visit"


def test_links_that_the_host_mounted_elsewhere(make_sqlite: MakeHost) -> None:
    host = make_sqlite(register_blueprint=False)
    host.app.register_blueprint(host.referral.links, url_prefix="/join")
    _, code = add_referrer(host)
    assert testing.referral_visit(host.client(), code).status_code == 302
    assert len(clicks(host)) == 1


def test_time_travels_over_the_window_and_comes_back(
    make: MakeHost, travel: testing.Travel
) -> None:
    host = make()
    _, code = add_referrer(host)
    early, late = host.client(), host.client()
    for client in (early, late):
        testing.referral_visit(client, code)
    before = clock.now()
    assert travel(days=29) - before >= dt.timedelta(days=29)
    assert sign_up(host, early) == "attributed"
    travel(days=2)
    assert sign_up(host, late) == "window_over"
    travel.end()
    assert clock.now() - before < dt.timedelta(days=1)


def test_a_hold_is_over_in_the_block(make: MakeHost) -> None:
    host = make(REFERRAL_HOLD_DAYS=14)
    referrer = host.add_user()
    buyer = refer(host, referrer)
    with host.app.app_context():
        host.referral.convert(buyer, "mem_1")
        host.db.session.commit()
    home = clock.now
    with testing.travel(days=13) as journey:
        assert not mature(host, clock.now())
        journey(days=1)
        assert mature(host, clock.now()) == 1
    assert amounts(host, referrer) == [1000]
    with pytest.raises(ZeroDivisionError), testing.travel(days=1):
        1 / 0  # noqa: B018
    assert clock.now == home


def test_a_whop_payment_is_delivered(make: MakeHost, signed_delivery: t.Any, travel: t.Any) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    event = payment(refer(host, referrer))
    travel(days=400)
    with host.app.app_context():
        first, again = (signed_delivery("whop", event) for _ in range(2))
        forged = signed_delivery("whop", event, secret="another")
        late = signed_delivery("whop", event, at=clock.now() - dt.timedelta(minutes=6))
    client = host.client()
    outcomes = [client.post(**each).get_json()["outcome"] for each in (first, first, again)]
    assert outcomes == ["converted", "duplicate", "already_converted"]
    assert [client.post(**each).status_code for each in (forged, late)] == [401, 401]
    assert amounts(host, referrer) == [1000]


def test_whop_is_signed_as_the_reference_library_reads(make_sqlite: MakeHost) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    host = make_sqlite(REFERRAL_WHOP_WEBHOOK_SECRET=[secret, "ws_old"])
    with host.app.app_context():
        delivery = testing.signed_delivery("whop", {"type": "a"}, id="msg_7")
    assert Webhook(secret).verify(delivery["data"], delivery["headers"]) == {"type": "a"}
    assert delivery["headers"]["webhook-id"] == "msg_7"


def test_stripe_is_signed_as_its_documentation_says() -> None:
    """https://docs.stripe.com/webhooks#verify-manually: HMAC-SHA256 of "timestamp.body"."""
    at = dt.datetime(2025, 10, 9, 8, 53, 20, tzinfo=dt.UTC)
    found = testing.signature("stripe", b'{"id": "evt_1"}', secret="whsec_test", at=at)
    # By: printf '1760000000.{"id": "evt_1"}' | openssl dgst -sha256 -hmac whsec_test
    hexadecimal = "88e27bad59013ce23d5e84af12638b657ad8b02d081d08cf6d13bc6e5d439857"
    assert found == {"Stripe-Signature": f"t=1760000000,v1={hexadecimal}"}


def test_what_cannot_be_signed_says_so(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    with host.app.app_context():
        with pytest.raises(ReferralError, match="set REFERRAL_WHOP_WEBHOOK_SECRET, or pass secret"):
            testing.signed_delivery("whop", {})
        with pytest.raises(ReferralError, match="whop, stripe"):
            testing.signed_delivery("paypal", {}, secret="x")  # type: ignore[arg-type]


HOSTS_TESTS = """
def test_fixtures(referral_visit, signed_delivery, travel):
    from flask_referral import clock
    assert callable(referral_visit) and callable(signed_delivery)
    assert travel(days=1000).year > {year}

def test_time_is_home_again():
    from flask_referral import clock
    assert clock.now().year <= {year} + 1
"""


def test_a_host_asks_for_it_and_nobody_else_gets_it(tmp_path: Path) -> None:
    (tmp_path / "test_host.py").write_text(HOSTS_TESTS.format(year=time.gmtime().tm_year))
    pytest_ = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]

    def run() -> tuple[int, str]:
        done = subprocess.run(
            pytest_,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout

    status, said = run()
    assert status == 1 and "fixture 'referral_visit' not found" in said
    (tmp_path / "conftest.py").write_text(
        'import flask_referral.testing\npytest_plugins = ["flask_referral.testing"]\n'
    )
    status, said = run()
    assert status == 0, said


def test_without_pytest_the_functions_are_there() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None; del sys.modules['pytest']\n"
        "from flask_referral.testing import referral_visit, signed_delivery, travel\n"
        "assert 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
