"""Results leave the process: as JSON, and through the queues of Celery and RQ."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import sys
import typing as t

import flask
import kombu.serialization
import pytest
import sqlalchemy as sa
from flask.json.provider import DefaultJSONProvider
from flask_sqlalchemy import SQLAlchemy

from flask_referral import ReferralCodeMixin
from flask_referral import Reward

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import refer
from .visiting import browser
from .visiting import make_code

PLAIN = {str, int, bool, float, type(None), list, dict}


def everything(host: Host, metadata: t.Any = None) -> dict[str, t.Any]:
    """Return an answer of each kind, as a job returns it: committed, its session gone."""
    referrer = host.add_user()
    code = make_code(host, referrer)
    visitor = browser(host)
    visitor.get(f"/r/{code}", headers={"Referer": "https://news.example/"})
    with host.app.test_request_context("/"):
        attributed = host.referral.attribute(host.add_user(), code=code)
        host.db.session.commit()
    buyer = refer(host, referrer)
    with host.app.app_context():
        converted = host.referral.convert(buyer, "mem_1", paid_cents=3000, metadata=metadata)
        host.db.session.commit()
    with host.app.app_context():
        reversed_ = host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
    with host.app.app_context():
        stats = host.referral.stats(referrer, days=2)
    return {
        "attribution": attributed,
        "conversion": converted,
        "reversal": reversed_,
        "stats": stats,
    }


def kinds(value: t.Any) -> set[type]:
    found = {type(value)}
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        found |= {kind for each in inside for kind in kinds(each)}
    return found


@pytest.mark.parametrize("key", KEYS)
def test_jsonify_writes_what_to_dict_says(make: MakeHost, key: str) -> None:
    host = make(key=key, reward_policy=lambda purchase: Reward(1000, 500))
    answers = everything(host, metadata={"campaign": "spring"})
    with host.app.test_request_context():
        for answer in answers.values():
            told = answer.to_dict()
            assert kinds(told) <= PLAIN
            assert flask.jsonify(answer).get_json() == told
            assert json.loads(host.app.json.dumps([answer])) == [told]
        # What Flask writes by itself stays as it is.
        assert flask.jsonify(dt.date(2026, 3, 2)).get_json() == "Mon, 02 Mar 2026 00:00:00 GMT"


def test_an_answer_tells_ids_amounts_and_utc_times(make: MakeHost) -> None:
    host = make(key="uuid", reward_policy=lambda purchase: Reward(1000, 500))
    answers = everything(host)
    conversion = answers["conversion"].to_dict()
    rewards = conversion["rewards"]
    assert (conversion["reason"], conversion["created"]) == ("converted", True)
    assert conversion["conversion"]["id"] == rewards[0]["id"]
    assert [(each["role"], each["cents"]) for each in rewards] == [
        ("referrer", 1000),
        ("referred", 500),
    ]
    for answer in (conversion, answers["reversal"].to_dict()):
        at = dt.datetime.fromisoformat(answer["conversion"]["converted_at"])
        assert at.utcoffset() == dt.timedelta(0)
    attribution = answers["attribution"].to_dict()
    assert attribution["reason"] == "attributed"
    assert attribution["click"]["referrer_user_id"] == attribution["referrer_id"]
    assert not {"ip_hash", "user_agent", "referrer_url"} & set(attribution["click"])
    assert answers["reversal"].to_dict()["reversed_cents"] == 1000


def test_celery_gets_plain_values(make: MakeHost) -> None:
    """Its default serializer is kombu's JSON."""
    host = make(key="uuid")
    for answer in everything(host).values():
        content_type, encoding, body = kombu.serialization.dumps(answer, serializer="json")
        back = kombu.serialization.loads(body, content_type, encoding)
        assert back == answer.to_dict()


@pytest.mark.parametrize("key", KEYS)
def test_rq_gets_the_answer_itself(make: MakeHost, key: str) -> None:
    """RQ, and Celery where it is told so, pickle; whoever reads it may have no application."""
    host = make(key=key)
    for name, answer in everything(host).items():
        back = pickle.loads(pickle.dumps(answer))
        assert type(back) is type(answer)
        assert back.to_dict() == answer.to_dict()
        assert getattr(back, "reason", None) is getattr(answer, "reason", None)
        again = pickle.loads(pickle.dumps(back))
        assert again.to_dict() == back.to_dict()
        if name == "conversion":
            assert back.conversion.bonus_cents == back.rewards[0].cents == 1000
            assert back.conversion.converted_at == back.rewards[0].credited_at


def test_a_mapped_object_crosses_a_queue(make: MakeHost) -> None:
    host = make()
    user = host.add_user()
    with host.app.app_context():
        code = host.referral.get_or_create_code(user)
        host.db.session.commit()
        # It is read again, as its attributes would be.
        data = pickle.dumps(code)
        text = code.code
    back = pickle.loads(data)
    assert (back.code, back.user_id) == (text, user)
    assert back.to_dict()["code"] == text
    assert pickle.loads(pickle.dumps(back)).code == text


def test_a_class_of_the_hosts_own_comes_back_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    db = SQLAlchemy()

    class User(db.Model):  # type: ignore[name-defined,misc]
        id = sa.Column(sa.Integer, primary_key=True)

    class MyCode(ReferralCodeMixin, db.Model):  # type: ignore[name-defined,misc]
        __user_model__ = User
        __qualname__ = "MyCode"

        def shouted(self) -> str:
            return f"{self.code}!"

    monkeypatch.setattr(sys.modules[__name__], "MyCode", MyCode, raising=False)
    back = pickle.loads(pickle.dumps(MyCode(code="K7M2PQ9X")))
    assert isinstance(back, MyCode) and back.shouted() == "K7M2PQ9X!"


def test_the_hosts_own_json_goes_on_writing_what_it_wrote(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    taught = host.app.json
    assert isinstance(taught, DefaultJSONProvider)
    with pytest.raises(TypeError, match="not JSON serializable"):
        taught.dumps(object())
