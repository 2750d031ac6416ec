"""A delivery of Stripe's is read only if one of the secrets signed exactly it, now."""

from __future__ import annotations

import hashlib
import hmac
import random
import typing as t

import pytest
import stripe

from flask_referral.errors import ConfigurationError
from flask_referral.errors import InvalidSignature
from flask_referral.payments.signatures import verify_stripe
from flask_referral.settings import Settings

NOW = 1_760_000_000
SECRET = "whsec_5f1c3a9b8e7d4f60a1b2c3d4e5f60718"
OTHER = "whsec_of_another_endpoint"
KEY, OTHER_KEY = SECRET.encode(), OTHER.encode()
BODY = '{"id": "evt_1", "object": "event", "név": "ű"}'.encode()


def signature(body: bytes = BODY, *, secret: str = SECRET, moment: t.Any = NOW) -> str:
    return hmac.digest(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hex()


def header(*, moment: t.Any = NOW, **options: t.Any) -> str:
    return f"t={moment},v1={signature(moment=moment, **options)}"


def accepts(
    given: t.Any, *, body: bytes = BODY, keys: t.Sequence[bytes] = (KEY,), now: float = NOW
) -> bool:
    try:
        verify_stripe(body, {"stripe-signature": given}, keys, now=now)
    except InvalidSignature:
        return False
    return True


def library_accepts(given: str, body: bytes) -> bool:
    try:
        # Without a tolerance: it reads the clock itself.
        stripe.WebhookSignature.verify_header(body.decode(), given, SECRET, None)
    except stripe.SignatureVerificationError:
        return False
    return True


def test_agrees_with_stripes_library_on_10_000_deliveries() -> None:
    rng = random.Random(8)
    told = set()
    for number in range(10_000):
        body = "".join(rng.choices('{}[]":,.\\ aé€😀\n\x00', k=rng.randrange(60))).encode()
        good = signature(body)
        junk = ["v1=", "v0=" + good, "v2=" + good, "v1=" + good[:-1], "x", f"v1={'0' * 64}"]
        parts = rng.choices(junk, k=rng.randrange(4)) + rng.choices([f"v1={good}", "v1"], k=1)
        rng.shuffle(parts)
        given = ",".join([f"t={NOW}", *parts])
        # It stumbles over a part that has no value.
        parts = [part for part in parts if "=" in part]
        expected = library_accepts(",".join([f"t={NOW}", *parts]), body)
        assert accepts(given, body=body) is expected, (number, given)
        told.add(expected)
    assert told == {True, False}


def test_accepts_what_the_library_accepts() -> None:
    assert library_accepts(header(), BODY)
    assert accepts(header())
    assert not library_accepts(header(secret=OTHER), BODY)
    assert not accepts(header(secret=OTHER))


def test_any_of_several_signatures_and_secrets_will_do() -> None:
    rolled = (
        f"t={NOW},v1={signature(secret=OTHER)},v1={signature()},v0=6ffbb59b2300aae63f272406069a9788"
    )
    assert accepts(rolled)
    assert accepts(rolled, keys=[OTHER_KEY])
    assert accepts(header(), keys=[OTHER_KEY, KEY])
    assert not accepts(header(), keys=[OTHER_KEY])
    assert not accepts(header(), keys=[])


def test_the_clocks_may_differ_by_300_seconds_and_not_by_one_more() -> None:
    for now in (NOW - 300, NOW, NOW + 300, NOW + 299.999):
        assert accepts(header(), now=now)
    for now in (NOW - 301, NOW + 301, NOW + 300.001, 0, float("inf"), float("nan")):
        assert not accepts(header(), now=now)


@pytest.mark.parametrize(
    "given",
    [
        *(
            None,
            "",
            "t",
            "t=",
            f"t={NOW}",
            f"v1={signature()}",
            f"t={NOW},v1={signature().upper()}",
        ),
        f"t={NOW},t={NOW},v1={signature()}",
        f"t={NOW}\n,v1={signature()}",
        f"t= {NOW},v1={signature()}",
        f"t={chr(0x660) * 10},v1={signature()}",
        f"t={NOW},v1={signature()} ",
        f"t={NOW},v0={signature()}",
        f"t={NOW};v1={signature()}",
        f"t={NOW + 1},v1={signature()}",
        f"t={NOW},v1=ű",
        f"t={NOW},v1={signature()}," + "v1=x," * 300,
        header(moment=f"{NOW}.0"),
        header(moment=f"+{NOW}"),
    ],
)
def test_what_is_written_otherwise_is_refused(given: t.Any) -> None:
    assert not accepts(given)


def test_a_change_of_any_byte_is_refused() -> None:
    given = header()
    for place in range(len(BODY)):
        changed = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        assert not accepts(given, body=changed)
    for extra in (BODY + b"\n", b" " + BODY, b""):
        assert not accepts(given, body=extra)


@pytest.mark.parametrize("around", ["{}", " {}", "{}\n", "\t{}\r\n"])
def test_a_secret_may_have_blanks_around_it(around: str) -> None:
    settings = Settings.from_config({"REFERRAL_STRIPE_WEBHOOK_SECRET": around.format(SECRET)})
    assert accepts(header(), keys=settings.stripe_webhook_secret)
    many = [around.format(OTHER), around.format(SECRET)]
    settings = Settings.from_config({"REFERRAL_STRIPE_WEBHOOK_SECRET": many})
    assert settings.stripe_webhook_secret == (OTHER_KEY, KEY)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("sk_live_hush-hush", "'sk_...' is an API key"),
        (" rk_test_hush-hush\n", "'rk_...' is an API key"),
        ("pk_live_hush-hush", "'pk_...' is an API key"),
        ("we_hush-hush", "'we_...' is the id of an endpoint"),
        ("v1,whsec_hush-hush", "'v1...' is a signature"),
        ("t=1,v1=hush-hush", "'t=...' is a signature"),
    ],
)
def test_what_is_no_signing_secret_is_refused_by_name(given: str, named: str) -> None:
    for value in (given, [SECRET, given]):
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_config({"REFERRAL_STRIPE_WEBHOOK_SECRET": value})
        told = str(caught.value)
        assert told.startswith(
            "REFERRAL_STRIPE_WEBHOOK_SECRET takes the signing secret that Stripe"
        )
        assert named in told
        assert "hush-hush" not in told


@pytest.mark.parametrize("value", ["", " \n", [], [SECRET, ""], 5, b"whsec_x"])
def test_a_secret_is_a_string_or_a_list_of_strings(value: t.Any) -> None:
    with pytest.raises(ConfigurationError, match=r"_SECRET takes None, a string or a list of str"):
        Settings.from_config({"REFERRAL_STRIPE_WEBHOOK_SECRET": value})
