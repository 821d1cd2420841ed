"""The driver beneath a connection: its errors, mapped, and what it does not show by itself."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg

from retl.connectors.net.tls import not_verified
from retl.connectors.postgres.login import Login
from retl.model.errors import ConfigError, ConnectionFailed, RetlError

_PROBES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""After 90 seconds without an answer a server is gone, however long a statement may take.

Not TCP_USER_TIMEOUT: it would also cut a COPY whose rows the server takes no further while it waits for a lock.
"""


@contextmanager
def mapped(login: Login) -> Iterator[None]:
    """Map the errors of the driver and the system."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise login.explain(error.sqlstate or "08006", _said(error), login.role, login.place) from error
    except asyncpg.ClientConfigurationError as error:
        raise ConfigError(
            f"the address of {login.system} cannot be used: {error}.", remedy="correct url, or what it names."
        ) from error
    except (OSError, TimeoutError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise _unreachable(error, login) from error


def _unreachable(error: Exception, login: Login) -> RetlError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return not_verified(error.verify_message, login.place)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return ConfigError(
            f"the server at {login.place} does not offer TLS.",
            remedy='have it offer TLS, or use tls = "off" in a network that you trust.',
        )
    return ConnectionFailed(
        f"the connection to {login.place} failed: {str(error).rstrip('.') or 'no answer in time'}.",
        remedy="check address, network and server; the scan is tried again.",
    )


def _said(error: asyncpg.PostgresError) -> str:
    """The server's message, and where in the data it happened."""
    told = [str(error.args[0] if error.args else error), getattr(error, "detail", None)]
    where = str(getattr(error, "context", None) or "").split("\n")
    told += [line for line in where if line.startswith("COPY ")][:1]
    return "; ".join(part.rstrip(".") for part in told if part)


def count(done: str) -> int:
    """The rows that a command has changed, by its tag: ``INSERT 0 5``, ``COPY 5``."""
    last = done.rsplit(" ", 1)[-1]
    return int(last) if last.isdigit() else 0


@contextmanager
def heard(driver: Any) -> Iterator[list[str]]:
    """The notices that the server sends in this block."""
    heard: list[str] = []

    def hear(_: Any, notice: Any) -> None:
        heard.append(notice.message)

    driver.add_log_listener(hear)
    try:
        yield heard
    finally:
        driver.remove_log_listener(hear)


def keep_alive(driver: Any) -> None:
    """Have the system notice a server that is gone while a statement runs, or is waited for."""
    channel = driver._transport.get_extra_info("socket")
    if channel is None or channel.family not in (socket.AF_INET, socket.AF_INET6):
        return
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        option = getattr(socket, name, None)
        if option is not None:
            with suppress(OSError):
                channel.setsockopt(socket.IPPROTO_TCP, option, value)


def write_on(driver: Any) -> None:
    """Have a COPY that waits for the server to take more go on where the connection is lost: the driver would wait for ever."""
    protocol = driver._protocol
    driver.add_termination_listener(lambda _: protocol.resume_writing())


def fetch(driver: Any) -> None:
    """Fetch the exception that the driver may leave, or the event loop would tell the host of it.

    A COPY on a connection that the server has just said to end leaves a future that nobody awaits.
    """
    for held in gc.get_referents(driver._protocol):
        if isinstance(held, asyncio.Future):
            held.add_done_callback(lambda future: future.cancelled() or future.exception())


def take_cancels(driver: Any) -> set[asyncio.Task[Any]]:
    """The driver's requests to cancel, which it no longer ends itself: cut while it asks for TLS, one may leave an exception."""
    cancels = set(driver._cancellations)
    driver._cancellations.clear()
    return cancels


def modifiers(prepared: Any) -> list[int]:
    """The type modifiers of a result, such as the digits of a numeric: the driver has them, but does not show them."""
    for held in gc.get_referents(prepared._state):
        if isinstance(held, list) and held and isinstance(held[0], tuple) and len(held[0]) == 7:
            return [int(column[5]) for column in held]
    return []


def state_of(error: RetlError) -> str:
    """The SQLSTATE under which the server reported an error; empty if it did not."""
    return str(getattr(error.__cause__, "sqlstate", None) or getattr(error, "state", ""))
