"""How routes of the JSON API are declared, for the blueprint and the OpenAPI document alike."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from flask import abort
from flask import Blueprint
from flask import request
from flask.typing import ResponseReturnValue

from ..errors import ReferralError
from ..settings import Settings
from ..words import told
from .errors import error_response
from .errors import ErrorCode
from .errors import FAILURES
from .shapes import Schema

T = t.TypeVar("T")
#: ASCII digits only: ``int()`` reads many other scripts' digits, signs and underscores.
NUMBER = re.compile(r"[0-9]{1,9}")


@dataclasses.dataclass(frozen=True, eq=False)
class Query(t.Generic[T]):
    """A parameter in the query string, which may be left out.

    :param name: what it is called.
    :param default: what it is where it is left out.
    :param form: what is a value's text; any other is left as it is, for the check to refuse.
    :param read: makes a value of such a text.
    :param check: raises a :class:`ReferralError` for a value that cannot be.
    :param refusal: what that error is, for programs.
    :param schema: what values may be, but for the default.
    :param description: what it does, for readers of the document.
    """

    name: str
    default: T
    form: re.Pattern[str]
    read: t.Callable[[str], T]
    check: t.Callable[[t.Any], object]
    refusal: ErrorCode
    schema: Schema
    description: str

    def asked(self) -> T:
        """Return what this request asks for, or abort it."""
        text = request.args.get(self.name)
        if text is None:
            return self.default
        value: t.Any = self.read(text) if self.form.fullmatch(text) else text
        try:
            self.check(value)
        except ReferralError as error:
            abort(error_response(told(error), FAILURES[self.refusal].status, self.refusal))
        asked: T = value
        return asked


@dataclasses.dataclass(frozen=True, eq=False)
class Variable:
    """A variable of a route's path.

    :param name: as in the path.
    :param schema: what it may be.
    :param description: what it is, for readers of the document.
    """

    name: str
    schema: Schema
    description: str


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """What is sent in the body, as JSON.

    :param shape: a type that a schema is made of; None: an object that is not described.
    :param description: what it is, where the type does not say it.
    """

    shape: type | None
    description: str = ""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Route:
    """A route of the JSON API, declared once.

    Its summary and description are the view's docstring.

    :param method: in capitals.
    :param paths: below the prefix, in Flask's notation; the document names the first.
    :param view: answers it.
    :param endpoint: default: the view's name.
    :param answer: the type whose JSON a 200 has; None: a JSON object that is not described.
    :param codes: the errors that it may answer, besides those that every route may.
    :param is_personal: whether it is about the user who is logged in, and 401 without one.
    :param queries: its parameters in the query string.
    :param variables: its parameters in the path.
    :param body: what it takes, or None.
    :param is_kept: whether its answers may be kept: they have an ``ETag``.
    :param is_on: whether the settings switch it on; where not, the document leaves it out.
    """

    method: str
    paths: tuple[str, ...]
    view: t.Callable[..., ResponseReturnValue]
    endpoint: str | None = None
    answer: t.Any = None
    codes: tuple[ErrorCode, ...] = ()
    is_personal: bool = False
    queries: tuple[Query[t.Any], ...] = ()
    variables: tuple[Variable, ...] = ()
    body: Body | None = None
    is_kept: bool = False
    is_on: t.Callable[[Settings], bool] = lambda settings: True

    @property
    def name(self) -> str:
        """What the route is called within the blueprint."""
        return self.endpoint or self.view.__name__

    def add_to(self, blueprint: Blueprint) -> None:
        """Let the blueprint answer it; nothing of this declaration is run for a request."""
        for path in self.paths:
            blueprint.add_url_rule(path, self.name, self.view, methods=[self.method])
