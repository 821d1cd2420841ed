"""Ways to deliver a notice: a function of the user's, and a webhook."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import anyio.to_thread

from retl.model.alerts import Alert, Notice, Send
from retl.model.errors import ConfigError


def sender_of(alert: Alert) -> Send:
    """What delivers the notices of an alert. Raises ``ConfigError`` where a webhook lacks its package."""
    if alert.call is not None:
        return _calling(alert.call)
    try:
        from retl.alerts.webhook import Webhook
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a webhook needs the package {error.name!r}, which is not installed.", remedy="pip install 'retl[alerts]'"
        ) from None
    return Webhook(alert).post


def _calling(call: Callable[[Notice], object]) -> Send:
    async def send(notice: Notice) -> None:
        if inspect.iscoroutinefunction(call):
            await call(notice)
            return
        found = await anyio.to_thread.run_sync(call, notice, abandon_on_cancel=True)
        if inspect.isawaitable(found):
            await found

    return send
