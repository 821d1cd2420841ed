"""What may be done to a target, and what follows from forbidding it."""

from __future__ import annotations

import itertools

import pytest

from retl.model.actions import Action, PreAction, Write, check_blacklist, parse_actions
from retl.model.errors import ConfigError

NEEDED = {
    PreAction.NONE: set(),
    PreAction.TRUNCATE: {"TRUNCATE", "INSERT"},
    PreAction.RENAME_AND_CREATE: {"RENAME", "CREATE", "INSERT"},
    PreAction.SWAP: {"CREATE", "RENAME", "DROP", "INSERT"},
    PreAction.MIRROR: {"INSERT", "UPDATE", "DELETE"},
}


def test_actions_are_read_in_any_letter_case() -> None:
    assert parse_actions(["delete", "Truncate", "DROP", "drop"]) == {Action.DELETE, Action.TRUNCATE, Action.DROP}
    assert parse_actions([]) == frozenset()


def test_an_unknown_action_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="names an unknown action, 'UPSERT'") as caught:
        parse_actions(["INSERT", "UPSERT"])
    assert caught.value.remedy == "use some of INSERT UPDATE DELETE TRUNCATE RENAME CREATE ALTER DROP."


@pytest.mark.parametrize(("pre_action", "action"), list(itertools.product(PreAction, Action)))
def test_a_pre_action_is_refused_without_what_it_needs(pre_action: PreAction, action: Action) -> None:
    blacklist = frozenset({action})
    if action.value not in NEEDED[pre_action]:
        check_blacklist(blacklist, pre_action, Write.UPSERT, keep_archives=None)
        return
    with pytest.raises(ConfigError) as caught:
        check_blacklist(blacklist, pre_action, Write.UPSERT, keep_archives=None)
    assert f'pre_action = "{pre_action}" cannot work without {action}' in str(caught.value)
    assert f"take {action} off the blacklist" in caught.value.remedy


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match="cannot work without CREATE, DROP, RENAME,"):
        check_blacklist(
            frozenset({Action.RENAME, Action.DROP, Action.CREATE}), PreAction.SWAP, Write.UPSERT, keep_archives=None
        )


def test_appending_needs_insert_and_says_so_by_its_own_name() -> None:
    with pytest.raises(ConfigError, match=r'^write = "append" cannot work without INSERT'):
        check_blacklist(frozenset({Action.INSERT}), PreAction.NONE, Write.APPEND, keep_archives=None)
    check_blacklist(frozenset(Action) - {Action.INSERT}, PreAction.NONE, Write.APPEND, keep_archives=None)


def test_pruning_archives_needs_drop() -> None:
    drop = frozenset({Action.DROP})
    check_blacklist(drop, PreAction.RENAME_AND_CREATE, Write.UPSERT, keep_archives=None)
    with pytest.raises(ConfigError, match='pre_action = "rename_and_create" cannot work without DROP'):
        check_blacklist(drop, PreAction.RENAME_AND_CREATE, Write.UPSERT, keep_archives=3)


def test_an_upsert_works_without_insert_or_without_update_but_not_without_both() -> None:
    for one in (Action.INSERT, Action.UPDATE):
        check_blacklist(frozenset({one}), PreAction.NONE, Write.UPSERT, keep_archives=None)
    with pytest.raises(ConfigError, match="no row could ever be written"):
        check_blacklist(frozenset({Action.INSERT, Action.UPDATE}), PreAction.NONE, Write.UPSERT, keep_archives=None)
