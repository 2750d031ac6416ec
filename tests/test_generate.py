"""``POST /api/referral/generate``: one code for each user, whatever happens."""

from __future__ import annotations

import threading

import pytest

from flask_referral import codes

from .conftest import MakeHost
from .host import KEYS

URL = "/api/referral/generate"


@pytest.mark.parametrize("key", KEYS)
def test_same_code_each_time(make: MakeHost, key: str) -> None:
    host = make(key=key)
    host.current_user = host.add_user()
    answers = [host.client().post(URL) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    found = {answer.get_json()["code"] for answer in answers}
    assert len(found) == 1
    assert codes.normalize_code(found.pop()) is not None
    assert answers[0].get_json().keys() == {"code"}


def test_nobody_is_logged_in(make: MakeHost) -> None:
    answer = make().client().post(URL)
    assert answer.status_code == 401
    assert answer.get_json().keys() == {"error"}


def test_statement_budget(make: MakeHost) -> None:
    host = make()
    host.current_user = host.add_user()
    with host.statements() as first:
        host.client().post(URL)
    assert len(first) == 2
    with host.statements() as second:
        host.client().post(URL)
    assert len(second) == 1


def test_sixteen_threads_get_one_code(make: MakeHost) -> None:
    host = make()
    host.current_user = host.add_user()
    barrier = threading.Barrier(16)
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        client = host.client()
        barrier.wait()
        answer = client.post(URL)
        answers.append((answer.status_code, answer.get_data(as_text=True)))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    assert {status for status, _ in answers} == {200}
    assert len({body for _, body in answers}) == 1
