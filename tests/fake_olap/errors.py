"""How StarRocks and Doris refuse: their codes, SQL states and sentences.

StarRocks: ``fe/fe-core/.../common/ErrorCode.java`` and ``QueryQueueManager.java``; analysis errors as its users quote
them ("Getting analyzing error. Detail message: ..."). Doris: ``errCode = 2, detailMessage = ...`` with code 1105 for
nearly everything, as its own regression tests and its users quote it. Versions word them differently: a client goes by
the code where there is one of its own, and by a few words where there is not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Refusal(Exception):
    """An ERR packet to be."""

    code: int
    state: str
    message: str

    def __str__(self) -> str:
        return f"({self.code}, {self.message!r})"


class StarRocksErrors:
    """Refusals of StarRocks 3.5."""

    def _analysis(self, message: str, code: int = 1064, state: str = "HY000") -> Refusal:
        return Refusal(code, state, f"Getting analyzing error. Detail message: {message}.")

    def syntax(self, found: str, line: int, column: int) -> Refusal:
        where = f"Getting syntax error at line {line}, column {column}."
        return Refusal(1064, "HY000", f"{where} Detail message: Unexpected input '{found}'.")

    def access_denied(self, user: str, with_password: bool) -> Refusal:
        return _login(user, with_password)

    def unknown_database(self, name: str) -> Refusal:
        return self._analysis(f"Unknown database '{name}'", 5501, "3F000")

    def no_database(self) -> Refusal:
        return self._analysis("No database selected", 1046, "3D000")

    def unknown_table(self, database: str, table: str) -> Refusal:
        return self._analysis(f"Unknown table '{database}.{table}'", 5502, "42602")

    def nothing_to_show(self, database: str, table: str) -> Refusal:
        return self.unknown_table(database, table)

    def table_exists(self, table: str) -> Refusal:
        return Refusal(1050, "42S01", f"Table '{table}' already exists")

    def unknown_column(self, name: str) -> Refusal:
        return self._analysis(f"Column '{name}' cannot be resolved")

    def unknown_function(self, name: str) -> Refusal:
        return self._analysis(f"No matching function with signature: {name}()")

    def unknown_partition(self, partition: str, table: str) -> Refusal:
        return self._analysis(f"Unknown partition '{partition}' in table '{table}'", 1735)

    def unknown_variable(self, name: str) -> Refusal:
        return self._analysis(f"Unknown system variable '{name}', the most similar variables are {{}}", 1193)

    def wrong_value(self, name: str, value: str) -> Refusal:
        return Refusal(1231, "42000", f"Variable '{name}' can't be set to the value of '{value}'")

    def unknown_time_zone(self, name: str) -> Refusal:
        return Refusal(1298, "HY000", f"Unknown or incorrect time zone: '{name}'")

    def unknown_thread(self, number: int) -> Refusal:
        return Refusal(1094, "HY000", f"Unknown thread id: {number}")

    def unknown_query(self, name: str) -> Refusal:
        return Refusal(1365, "42000", f"Unknown query id: {name}")

    def query_timeout(self, seconds: int) -> Refusal:
        help_ = "please increase the 'query_timeout' session variable and retry"
        return Refusal(5024, "53400", f"Query reached its timeout of {seconds} seconds, {help_}")

    def queue_timeout(self, seconds: int) -> Refusal:
        help_ = "you could modify the session variable [query_queue_pending_timeout_second] to pending more time"
        return Refusal(1064, "HY000", f"Failed to allocate resource to query: pending timeout [{seconds}], {help_}")

    def killed(self) -> Refusal:
        return Refusal(1064, "HY000", "Cancelled by user")

    def backend_lost(self) -> Refusal:
        return Refusal(5077, "XX000", "Query cancelled by crash of backends.")

    def no_backend(self) -> Refusal:
        return Refusal(1064, "HY000", "Backend node not found. Check if any backend node is down.")

    def compacted(self) -> Refusal:
        return Refusal(1064, "HY000", "version already been compacted. tablet_id: 10091, version: 7")

    def rowset_gone(self) -> Refusal:
        return Refusal(1064, "HY000", "fail to find rowset of version 7 in tablet 10091: BE:10003")

    def no_replica(self) -> Refusal:
        return Refusal(
            1064, "HY000", "Getting analyzing error. Detail message: no queryable replica found in tablet 10091."
        )

    def memory(self) -> Refusal:
        return Refusal(1064, "HY000", "[MEM_LIMIT_EXCEEDED] Memory of query_pool exceed limit: BE:10003")

    def unheard(self) -> Refusal:
        return Refusal(1064, "HY000", "Something went wrong of which nobody has heard")

    def privilege(self, privilege: str, kind: str, name: str) -> Refusal:
        needed = f"Access denied; you need (at least one of) the {privilege} privilege(s) on {kind}{name}"
        hint = (
            "Please ask the admin to grant permission(s) or try activating existing roles using <set [default] role>."
        )
        roles = "Current role(s): NONE. Inactivated role(s): NONE."
        return Refusal(5203, "42000", f"{needed} for this operation. {hint} {roles}")

    def bad_value(self, message: str) -> Refusal:
        return self._analysis(message)

    def filtered(self, table: str) -> Refusal:
        return Refusal(5610, "22000", f"Insert has filtered data : txn_id = 1, table = {table}")


class DorisErrors:
    """Refusals of Doris 3."""

    def _detail(self, message: str, code: int = 1105, state: str = "HY000") -> Refusal:
        return Refusal(code, state, f"errCode = 2, detailMessage = {message}")

    def syntax(self, found: str, line: int, column: int) -> Refusal:
        return self._detail(f"\nmismatched input '{found}'(line {line}, pos {max(column - 1, 0)})\n")

    def access_denied(self, user: str, with_password: bool) -> Refusal:
        return _login(user, with_password)

    def unknown_database(self, name: str) -> Refusal:
        return self._detail(f"Unknown database '{name}'", 1049, "42000")

    def no_database(self) -> Refusal:
        return self._detail("No database selected", 1046, "3D000")

    def unknown_table(self, database: str, table: str) -> Refusal:
        return self._detail(f"Table [{table}] does not exist in database [{database}].")

    def nothing_to_show(self, database: str, table: str) -> Refusal:
        return self._detail(f"Unknown table '{table}'", 1051, "42S02")

    def table_exists(self, table: str) -> Refusal:
        return self._detail(f"Table '{table}' already exists", 1050, "42S01")

    def unknown_column(self, name: str) -> Refusal:
        return self._detail(f"Unknown column '{name}' in 'table list'")

    def unknown_function(self, name: str) -> Refusal:
        return self._detail(f"Can not found function '{name}'")

    def unknown_partition(self, partition: str, table: str) -> Refusal:
        return self._detail(f"partition: {partition} is not exists on table: {table}")

    def unknown_variable(self, name: str) -> Refusal:
        return self._detail(f"Unknown system variable '{name}',the similar variables are {{}}", 1193)

    def wrong_value(self, name: str, value: str) -> Refusal:
        return self._detail(f"Variable '{name}' can't be set to the value of '{value}'", 1231, "42000")

    def unknown_time_zone(self, name: str) -> Refusal:
        return self._detail(f"Unknown or incorrect time zone: '{name}'", 1298)

    def unknown_thread(self, number: int) -> Refusal:
        return self._detail(f"Unknown thread id: {number}", 1094)

    def unknown_query(self, name: str) -> Refusal:
        return self._detail(f"Unknown query id: {name}", 1097)

    def query_timeout(self, seconds: int) -> Refusal:
        return self._detail("Timeout")

    def queue_timeout(self, seconds: int) -> Refusal:
        return self._detail(f"query queue timeout, timeout: {seconds * 1000} ms")

    def killed(self) -> Refusal:
        return self._detail("cancel query by user from 127.0.0.1:0")

    def backend_lost(self) -> Refusal:
        return self._detail("Backend 10003 has been lost or restarted, query is cancelled")

    def no_backend(self) -> Refusal:
        return self._detail("There is no scanNode Backend available.[10003: not alive]")

    def compacted(self) -> Refusal:
        return self._detail("(127.0.0.1)[E-3003]version already been compacted, tablet_id: 10091")

    def rowset_gone(self) -> Refusal:
        return self._detail("(127.0.0.1)[E-230]fail to find rowset of version 7, tablet=10091")

    def no_replica(self) -> Refusal:
        return self._detail("no queryable replica found in tablet 10091. replicas: [10092: missing version]")

    def memory(self) -> Refusal:
        return self._detail("(127.0.0.1)[MEM_LIMIT_EXCEEDED]PreCatch error code:11, ")

    def unheard(self) -> Refusal:
        return self._detail("(127.0.0.1)[RUNTIME_ERROR]something of which nobody has heard")

    def privilege(self, privilege: str, kind: str, name: str) -> Refusal:
        return self._detail(
            f"{privilege} command denied to user 'reader'@'127.0.0.1' for {kind.lower()} '{name}'", 1142
        )

    def bad_value(self, message: str) -> Refusal:
        return self._detail(message)

    def filtered(self, table: str) -> Refusal:
        return self._detail(f"Insert has filtered data in strict mode, table = {table}")


Errors = StarRocksErrors | DorisErrors


def _login(user: str, with_password: bool) -> Refusal:
    used = "YES" if with_password else "NO"
    return Refusal(1045, "28000", f"Access denied for user '{user}' (using password: {used})")
