"""``${NAME}`` and ``${file:PATH}`` inside the texts of a job file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from retl.model.errors import ConfigError
from retl.model.hidden import hide
from retl.model.secret import Secret, env, secret_file

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class References:
    """Resolves references at once, and keeps their values out of messages.

    A relative path of ``${file:...}`` is taken from ``folder``. ``$${`` stands for ``${``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def text(self, raw: str) -> str:
        """The text with every reference replaced. Raises ``ConfigError`` for one that cannot be resolved."""
        return _REFERENCE.sub(lambda match: "${" if match[0] == "$${" else self._look_up(match), raw)

    def secret(self, raw: str) -> Secret:
        """The same as a ``Secret``; a reference that cannot be resolved is found now, not at the first use."""
        self.text(raw)
        whole = _REFERENCE.fullmatch(raw)
        if whole is None or whole[1] is None:
            return Secret(lambda: self.text(raw), "the job file", identity=(str(self._folder), raw))
        if whole[1].startswith("file:"):
            return secret_file(self._path(whole[1]))
        return env(whole[1])

    def has_reference(self, raw: str) -> bool:
        """Whether the text holds a reference, and not only ``$${``."""
        return any(match[0] != "$${" for match in _REFERENCE.finditer(raw))

    def _look_up(self, match: re.Match[str]) -> str:
        name = match[1]
        if name is None or not (name.startswith("file:") or _NAME.fullmatch(name)):
            raise ConfigError(
                f"{match[0]} is not a reference.",
                remedy="write ${NAME} for an environment variable, ${file:PATH} for a file, or $${ for the two characters.",
            )
        if name.startswith("file:"):
            value = secret_file(self._path(name)).reveal()
        elif name in os.environ:
            value = os.environ[name]
        else:
            raise ConfigError(f"the environment variable {name} is not set.", remedy=f"set {name} before starting.")
        hide(value, match[0])
        return value

    def _path(self, name: str) -> Path:
        try:
            return self._folder / Path(name.removeprefix("file:")).expanduser()
        except RuntimeError:  # unknown home directory
            return self._folder / name.removeprefix("file:")
