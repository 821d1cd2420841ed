"""Connectors by their name, from the entry-point groups that third parties and retl itself use."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from retl.connectors.base import Connector
from retl.model.errors import ConfigError
from retl.model.typed import did_you_mean

Role = Literal["source", "target"]
GROUPS: dict[Role, str] = {"source": "retl.sources", "target": "retl.targets"}


def connector_types(role: Role) -> dict[str, EntryPoint]:
    """What is installed, by the name that ``type`` takes."""
    found = entry_points(group=GROUPS[role])
    return {point.name: point for point in sorted(found, key=lambda point: point.name)}


def find_connector(role: Role, name: str) -> type[Connector]:
    """The options class of a connector. Raises ``ConfigError`` where it or its driver is missing."""
    known = connector_types(role)
    if name not in known:
        other: Role = "target" if role == "source" else "source"
        if name in connector_types(other):
            raise ConfigError(f"{name} cannot be a {role}, only a {other}. {_there_are(role, known)}")
        raise ConfigError(f"unknown {role} type {name!r}{did_you_mean(name, known) or '.'} {_there_are(role, known)}")
    try:
        found = known[name].load()
    except ImportError as error:
        raise missing_driver(known[name], error) from None
    except AttributeError:
        found = None
    if not (isinstance(found, type) and issubclass(found, Connector)):
        raise ConfigError(
            f"the installed {role} {name!r} ({known[name].value}) is not a retl.connectors.base.Connector.",
            remedy="tell the authors of the package that brought it.",
        )
    return found


def _there_are(role: Role, known: Iterable[str]) -> str:
    names = ", ".join(known)
    if names:
        return f"Installed {role}s are {names}."
    return f"No {role} is installed at all: install the retl package with pip."


def missing_driver(point: EntryPoint, error: ImportError) -> ConfigError:
    """A connector whose module cannot be imported."""
    package = point.dist.name if point.dist is not None else "retl"
    missing = f"the Python package {error.name!r} that it needs is not installed" if error.name else str(error)
    return ConfigError(
        f"{point.name} cannot be used: {missing}.",
        remedy=f"pip install '{package}[{point.name}]'",
    )
