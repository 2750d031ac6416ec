"""Functions of the host's may be ``async def``: their answers are waited for."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import typing as t

import pytest

from flask_referral import AttributionReason
from flask_referral import Reward
from flask_referral import WebhookEvent

from ..conftest import MakeHost
from ..hosts import Host
from ..memory import assert_json_error
from ..memory import GENERATE
from ..money import amounts
from ..money import refer
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import set_cookie
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment


def later(answer: t.Any) -> t.Callable[..., t.Any]:
    async def load(*args: t.Any) -> t.Any:
        await asyncio.sleep(0)
        return answer

    return load


class Later:
    def __init__(self, answer: t.Any) -> None:
        self.answer = answer

    async def __call__(self) -> t.Any:
        return self.answer


@pytest.fixture
def host(make_sqlite: MakeHost) -> Host:
    host = make_sqlite(**CONFIG)
    host.app.add_url_rule("/page", view_func=lambda: "page")
    return host


def visit(host: Host, code: str) -> bool:
    return set_cookie(browser(host).get(f"/page?ref={code}")) is not None


@pytest.mark.parametrize("answer", [False, True])
def test_consent_is_what_the_function_says(host: Host, answer: bool) -> None:
    _, code = add_referrer(host)
    says = later(answer)
    assert host.referral.consent_loader(says) is says
    assert visit(host, code) is answer
    assert len(clicks(host)) == answer


@pytest.mark.parametrize(
    "wrap",
    [Later, lambda no: lambda: later(no)(), None],
    ids=["object", "lambda", "partial"],
)
def test_consent_that_no_signature_shows_to_be_async(host: Host, wrap: t.Any) -> None:
    _, code = add_referrer(host)
    host.referral.consent_loader(wrap(False) if wrap else functools.partial(later(False), "x"))
    assert visit(host, code) is False
    assert clicks(host) == []


def test_program_is_what_the_function_says(host: Host) -> None:
    _, code = add_referrer(host)
    host.referral.bot_detector(later(True))
    assert visit(host, code) is False
    host.referral.bot_detector(later(False))
    assert visit(host, code) is True


def test_current_user_is_waited_for(host: Host) -> None:
    user = host.add_user()
    host.referral.identity_loader(later(user))
    assert host.client().post(GENERATE).status_code == 200
    host.referral.identity_loader(later(None))
    assert_json_error(host.client().post(GENERATE), 401)


def test_buyer_and_delivery_are_waited_for(host: Host) -> None:
    referrer = host.add_user()
    host.referral.whop_user_loader(later(refer(host, referrer)))
    assert outcome(host, payment("nobody")) == "converted"
    host.referral.webhook("shop")(later(WebhookEvent(id="1", kind="ignored", reason="quiet")))
    answer = host.client().post("/api/referral/webhooks/shop", data=b"{}")
    assert answer.get_json() == {"outcome": "quiet"}


@pytest.mark.parametrize("is_async_view", [False, True])
def test_policy_is_waited_for(make_sqlite: MakeHost, is_async_view: bool) -> None:
    host = make_sqlite(reward_policy=later(Reward(referrer_cents=700)))
    referrer = host.add_user()
    buyer = refer(host, referrer)

    def buy() -> str:
        host.referral.convert(buyer, "mem_1")
        host.db.session.commit()
        return "bought"

    async def buy_within_a_loop() -> str:
        return buy()

    host.app.add_url_rule("/buy", "buy", buy_within_a_loop if is_async_view else buy)
    assert host.client().get("/buy").text == "bought"
    assert amounts(host, referrer) == [700]


def test_every_function_that_a_host_names_may_be_async(host: Host) -> None:
    """A loader that is added later cannot be forgotten."""
    named = [name for name in dir(host.referral) if name.endswith(("_loader", "_detector"))]
    assert len(named) >= 4
    before = functions(host)
    for name in named:
        register = getattr(host.referral, name)
        # Those of a provider that the host names itself.
        register = register("shop") if name == "user_loader" else register
        register(later(name))
    kept = [function for function in functions(host) if function not in before]
    assert len(kept) == len(named)
    with host.app.app_context():
        for function in kept:
            assert not inspect.isawaitable(function()), function


def functions(host: Host) -> list[t.Any]:
    """Return all that the host has named, those of providers included."""
    found = []
    for value in vars(host.referral.state.loaders).values():
        found += value.values() if isinstance(value, dict) else [value]
    return [each for each in found if each is not None]


def test_async_function_without_what_awaits_it_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, code = add_referrer(host)
    monkeypatch.setitem(sys.modules, "asgiref.sync", None)
    host.referral.identity_loader(later(1))
    assert "was logged" in assert_json_error(host.client().post(GENERATE), 500)
    assert "flask[async]" in caplog.text
    caplog.clear()
    # Who cannot be asked has not agreed.
    host.referral.consent_loader(later(True))
    assert visit(host, code) is False
    assert clicks(host) == []
    assert "flask[async]" in caplog.text


def test_sign_up_in_an_async_view_is_attributed(host: Host) -> None:
    _, code = add_referrer(host)
    newcomer = host.add_user()

    async def sign_up() -> str:
        reason = host.referral.attribute(newcomer).reason
        host.db.session.commit()
        return str(reason)

    host.app.add_url_rule("/sign-up", view_func=sign_up)
    client = browser(host)
    client.get(f"/page?ref={code}", base_url="https://localhost")
    answer = client.get("/sign-up", base_url="https://localhost")
    assert answer.text == AttributionReason.attributed
