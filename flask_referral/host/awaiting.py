"""Functions that a host may write with ``async def``, though nobody here is asynchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import typing as t

from flask import current_app

from ..errors import ConfigurationError

Function = t.Callable[..., t.Any]


def awaited(function: Function) -> Function:
    """Return the function, so that the answer of an ``async def`` is waited for.

    A coroutine that nobody awaits is true, whatever it would have said. It is awaited as the
    application awaits its views, with ``app.ensure_sync``.

    :raises ConfigurationError: from the call, where nothing is installed that awaits.
    """

    @functools.wraps(function)
    def call(*args: t.Any) -> t.Any:
        answer = function(*args)
        return _wait_for(answer) if inspect.iscoroutine(answer) else answer

    return call


def _wait_for(coroutine: t.Coroutine[t.Any, t.Any, t.Any]) -> t.Any:
    async def answer() -> t.Any:
        return await coroutine

    try:
        wait = current_app.ensure_sync(answer)
    except RuntimeError as error:
        coroutine.close()
        raise ConfigurationError(
            "A function that was given to flask-referral is an async def, and nothing is installed "
            "that awaits it: pip install 'flask[async]', or write it with a plain def."
        ) from error
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return wait()
    # The loop of an async view is running in this thread, which takes no second one.
    context = contextvars.copy_context()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(context.run, wait).result()
