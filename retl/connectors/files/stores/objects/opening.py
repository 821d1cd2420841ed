"""From options to a store: here the driver is imported, and not before."""

from __future__ import annotations

from retl.connectors.files.store import FileStore
from retl.connectors.files.stores.objects.options import Location, Login, ObjectOptions
from retl.model.errors import ConfigError


def open_store(
    options: ObjectOptions, location: Location, login: Login, *, product: str = "S3", requester_pays: bool = False
) -> FileStore:
    """A store, not connected yet. Raises ``ConfigError`` where the driver is missing."""
    try:
        from retl.connectors.files.stores.objects.client import ObjectClient
        from retl.connectors.files.stores.objects.store import ObjectStore
    except ImportError as error:
        raise ConfigError(
            f"{options.type_name} needs the Python package {error.name!r}, which is not installed.",
            remedy=f"pip install 'retl[{options.type_name}]'",
        ) from error
    limits = options.limits()
    client = ObjectClient(location, login, limits, requester_pays)
    return ObjectStore(product, client, limits.parallel_parts)
