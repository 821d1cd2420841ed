"""The pre-actions of full scans, and the action blacklist."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from retl.model.errors import ConfigError


class PreAction(StrEnum):
    """What happens to the target table when a full scan refreshes it."""

    NONE = "none"
    TRUNCATE = "truncate"
    RENAME_AND_CREATE = "rename_and_create"
    SWAP = "swap"
    MIRROR = "mirror"

    @property
    def has_shadow(self) -> bool:
        """Whether rows are loaded into a table that nobody sees before the end."""
        return self in (PreAction.SWAP, PreAction.MIRROR)


class Action(StrEnum):
    """One kind of DML or DDL statement that can be blacklisted."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    TRUNCATE = "TRUNCATE"
    RENAME = "RENAME"
    CREATE = "CREATE"
    ALTER = "ALTER"
    DROP = "DROP"


class Write(StrEnum):
    """How rows reach a table that is not replaced as a whole."""

    UPSERT = "upsert"
    APPEND = "append"


_NEEDED: dict[PreAction, frozenset[Action]] = {
    PreAction.NONE: frozenset(),
    PreAction.TRUNCATE: frozenset({Action.TRUNCATE, Action.INSERT}),
    PreAction.RENAME_AND_CREATE: frozenset({Action.RENAME, Action.CREATE, Action.INSERT}),
    PreAction.SWAP: frozenset({Action.CREATE, Action.RENAME, Action.DROP, Action.INSERT}),
    PreAction.MIRROR: frozenset({Action.INSERT, Action.UPDATE, Action.DELETE}),
}


def check_blacklist(
    blacklist: frozenset[Action],
    pre_action: PreAction,
    write: Write,
    *,
    keep_archives: int | None,
    by_file: bool = False,
) -> None:
    """Raise ``ConfigError`` where a table could not work without a blacklisted action.

    ``by_file``: truncating deletes the rows of one file, so it needs no TRUNCATE.

    The effect of a blacklist that *can* work: without INSERT only rows that exist in
    the target are updated; without UPDATE only new rows are added; without CREATE a
    missing table is an error; without ALTER new source columns are not added.
    """
    needed = set(_NEEDED[pre_action]) - ({Action.TRUNCATE} if by_file else set())
    if write is Write.APPEND:
        needed.add(Action.INSERT)
    if pre_action is PreAction.RENAME_AND_CREATE and keep_archives is not None:
        needed.add(Action.DROP)
    clash = sorted(needed & blacklist)
    if clash:
        word = f'pre_action = "{pre_action}"' if pre_action is not PreAction.NONE else f'write = "{write}"'
        raise ConfigError(
            f"{word} cannot work without {', '.join(clash)}, which the blacklist forbids.",
            remedy=f"take {', '.join(clash)} off the blacklist or choose another way to write{_instead(pre_action)}.",
        )
    if pre_action is PreAction.NONE and write is Write.UPSERT and {Action.INSERT, Action.UPDATE} <= blacklist:
        raise ConfigError(
            "the blacklist forbids both INSERT and UPDATE, so no row could ever be written.",
            remedy="take one of them off the blacklist.",
        )


def _instead(pre_action: PreAction) -> str:
    if pre_action is not PreAction.MIRROR:
        return ""
    return ': pre_action = "none" deletes nothing, and pre_action = "swap" replaces the table as a whole'


def parse_actions(names: Iterable[str]) -> frozenset[Action]:
    """Read a blacklist in any letter case; raises ``ConfigError`` for an unknown action."""
    actions = set()
    for name in names:
        try:
            actions.add(Action(name.upper()))
        except ValueError:
            raise ConfigError(
                f"the blacklist names an unknown action, {name!r}.",
                remedy="use some of " + " ".join(Action) + ".",
            ) from None
    return frozenset(actions)
