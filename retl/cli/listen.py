"""``retl run --listen``: probes and metrics over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from retl.model.errors import ConfigError
from retl.pipeline import Pipeline


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``HOST:PORT``, or a port of the loopback interface. Raises ``ConfigError``."""
    given = f"127.0.0.1:{text}" if text.isdigit() else text
    try:
        parts = urlsplit(f"//{given}")
        if parts.hostname and parts.port is not None and parts.netloc == given and "@" not in given:
            return Address(parts.hostname, parts.port)
    except ValueError:  # the port is no number, or too large
        pass
    raise ConfigError(f"--listen {text}: this is no address.", remedy="write HOST:PORT, such as 127.0.0.1:8080.")


@asynccontextmanager
async def listening(
    address: Address | None, pipelines: Mapping[str, Pipeline], tell: Callable[[str], None]
) -> AsyncIterator[Callable[[Sequence[Pipeline]], None]]:
    """Answer ``/live``, ``/ready`` and ``/metrics`` for the length of the block. Raises ``ConfigError`` where it cannot.

    The probes look at what is in ``pipelines`` when they are asked. What is given counts others from then on.
    """
    if address is None:
        yield lambda _: None
        return
    try:
        from retl.cli import endpoint  # its packages come with an extra
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--listen needs the package {error.name!r}, which is not installed.", remedy="pip install 'retl[listen]'"
        ) from None
    async with endpoint.serving(pipelines) as (runner, metrics):
        try:
            await endpoint.bind(runner, address.host, address.port)
        except OSError as error:
            raise ConfigError(
                f"--listen {address}: it cannot listen there ({error.strerror or error}).",
                remedy="see which program has the port (`ss -tlnp`), or name another one.",
            ) from None
        tell(f"listening on {', '.join(f'http://{Address(*found[:2])}' for found in runner.addresses)}")
        yield metrics.follow
