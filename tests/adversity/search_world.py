"""An index that changes, the one that follows it, and what must hold of the two whenever a scan is killed."""

from __future__ import annotations

import time
from collections import defaultdict
from random import Random
from typing import Any

import msgspec

from retl.model.checkpoint import Checkpoint
from tests.adversity.jobs import Job
from tests.servers.search import SearchServer

FIRST_DOCUMENTS = 100
SLICE_ROWS = 10
PATIENCE = 60.0
BEGINNING = 1_706_745_599_999_999_990
"""The nanoseconds of a moment whose digits all change with the next one."""
MODES: dict[str, dict[str, Any]] = {
    "incremental": {"cursor": "at", "settle": 0},
    "none": {},
    "truncate": {"pre_action": "truncate"},
    "swap": {"pre_action": "swap"},
}

Documents = dict[str, bytes]


def moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"


class SearchLook:
    """The indices of one test on a server: a source, its copy and the state, looked at from outside."""

    def __init__(self, server: SearchServer, prefix: str) -> None:
        self.server = server
        self.source, self.copy, self.state = f"{prefix}-t", f"{prefix}-copy", f".{prefix}-state"
        mappings = {"dynamic": False, "properties": {"at": {"type": "date_nanos"}}}
        server.ask(
            "PUT",
            f"/{self.source}",
            {"mappings": mappings, "settings": {"number_of_shards": 2, "number_of_replicas": 0}},
        )

    def job(self, mode: str, **words: Any) -> Job:
        return Job(
            source=self.server.url,
            target=self.server.url,
            table={"name": self.source, "to": self.copy, "slice_rows": SLICE_ROWS, **MODES[mode], **words},
            target_options={"state_index": self.state},
        )

    def write(self, documents: Documents, gone: tuple[str, ...] = ()) -> None:
        lines = [b'{"index":{"_id":"%b"}}\n%b\n' % (name.encode(), text) for name, text in documents.items()]
        lines += [b'{"delete":{"_id":"%b"}}\n' % name.encode() for name in gone]
        if lines:
            answer = self.server.ask("POST", f"/{self.source}/_bulk?refresh=true", b"".join(lines))
            assert not answer["errors"], answer

    def documents(self) -> Documents | None:
        """What the copy holds, each document once; ``None`` where there is no copy."""
        if "error" in self.server.ask("GET", f"/{self.copy}", allow=(404,)):
            return None
        return self.server.texts(self.copy)

    def indices(self) -> list[str]:
        """All indices that the target has made but the state: the copy, what an alias of that name leads to, others."""
        found = self.server.ask("GET", f"/{self.copy}*,retl-{self.copy}-*?expand_wildcards=all", allow=(404,))
        return sorted(found) if "error" not in found else []

    def alias(self) -> list[str]:
        """The indices that the copy's name stands for, as an alias."""
        found = self.server.ask("GET", f"/_alias/{self.copy}", allow=(404,))
        return sorted(found) if "error" not in found else []

    def leftovers(self) -> list[str]:
        """What nobody should see once a scan has ended."""
        return [name for name in self.indices() if name != self.copy and name not in self.alias()]

    def checkpoint(self) -> Checkpoint:
        if "error" in self.server.ask("GET", f"/{self.state}", allow=(404,)):
            return Checkpoint()
        for text in self.server.texts(self.state).values():
            document = msgspec.json.decode(text)
            for saved in document.get("checkpoints", ()) if document["kind"] == "pipeline" else ():
                return msgspec.json.decode(saved["body"], type=Checkpoint)
        return Checkpoint()

    def remove(self) -> None:
        """The target as it was before anything was written."""
        for name in [*self.indices(), self.state]:
            self.server.ask("DELETE", f"/{name}", allow=(404,))

    def settle(self) -> None:
        """Wait until the server does nothing any more for processes that are dead."""
        deadline = time.monotonic() + PATIENCE
        while left := self._writes():
            assert time.monotonic() < deadline, f"writes without a client: {left}"
            time.sleep(0.005)

    def _writes(self) -> list[str]:
        # A request that changes an index or its documents.
        actions = "indices:data/write/*,indices:admin/create*,indices:admin/delete*,indices:admin/aliases*"
        nodes = self.server.ask("GET", f"/_tasks?actions={actions}&detailed=true")["nodes"]
        prefix = self.copy.removesuffix("-copy")
        tasks = [task for node in nodes.values() for task in node["tasks"].values()]
        return [task["description"] for task in tasks if prefix in task.get("description", "")]


class SearchWorld:
    """A source that changes, its target, and all that is known of both."""

    def __init__(self, mode: str, look: SearchLook, random: Random) -> None:
        self.mode = mode
        self.random = random
        self._look = look
        self._now = BEGINNING
        self._next = 1
        self._times: dict[str, int] = {}
        self._documents: Documents = {}
        self._history: dict[str, set[bytes]] = defaultdict(set)
        self._good: Documents | None = None
        """The content that the last complete scan left."""
        self._scan_id: str | None = None
        self._write([self._name() for _ in range(FIRST_DOCUMENTS)])

    @property
    def job(self) -> Job:
        return self._look.job(self.mode)

    def hurries(self) -> bool:
        """Whether the next scan comes while the server may still be at work for the one that was killed."""
        # A request that such a one has sent may arrive late: versions refuse it, and a shadow has a name of its own.
        return self.mode in ("incremental", "swap") and self.random.random() < 0.3

    # Changes ----------------------------------------------------------------

    def go_on(self, *, ended: bool) -> None:
        if self.random.random() < (0.35 if ended else 0.1):
            self._look.remove()
            self._good = self._scan_id = None
        if self.random.random() < (0.9 if ended else 0.4):
            self.change()

    def change(self) -> None:
        """New documents, changed ones, some that are gone; many share a cursor value."""
        self._write([self._name() for _ in range(self.random.randint(1, 25))])
        gone = self.random.sample(sorted(self._documents), self.random.randint(0, 6))
        for name in gone:
            del self._documents[name], self._times[name]
        self._write(self.random.sample(sorted(self._documents), self.random.randint(1, 15)), tuple(gone))

    def _name(self) -> str:
        self._next += 1
        return f"{self._next:05}"

    def _write(self, names: list[str], gone: tuple[str, ...] = ()) -> None:
        self._now += 1
        chance = self.random.choice((0.03, 0.5, 1.0))
        for name in names:
            if self.random.random() < chance:
                self._now += self.random.choice((1, 7, 1_000_000_000))
            text = self.random.choice(("", "ä'\\\"\\n", "x" * self.random.randrange(40)))
            document = f'{{ "at":"{moment(self._now)}", "text":"{text}","n": {int(name)}.10 }}'.encode()
            self._times[name], self._documents[name] = self._now, document
            self._history[name].add(document)
        self._look.write({name: self._documents[name] for name in names}, gone)

    # What must hold ---------------------------------------------------------

    def check(self, *, ended: bool) -> None:
        self._look.settle()
        found, saved = self._look.documents(), self._look.checkpoint()
        if ended:
            self._check_end(found, saved)
        else:
            self._check_kill(found, saved)

    def _check_end(self, found: Documents | None, saved: Checkpoint) -> None:
        """The scan is complete: everything is there, to the byte, and nothing is left of what went wrong."""
        assert found is not None
        assert saved.refresh is None and saved.position is None
        assert self._look.leftovers() == []
        if self.mode in ("truncate", "swap"):
            assert found == self._documents
        else:
            self._check_known(found)
            assert {name: text for name, text in found.items() if name in self._documents} == self._documents
        if self.mode == "incremental":
            assert saved.watermark == moment(max(self._times.values())).replace("T", " ")
        self._good, self._scan_id = found, saved.scan_id

    def _check_kill(self, found: Documents | None, saved: Checkpoint) -> None:
        """Whatever is there is right, and the checkpoint does not claim more."""
        # A shadow, or the note of an index that is being created anew, waits for the next scan.
        assert len(self._look.leftovers()) <= 1
        if self.mode == "swap":
            # Readers see the old documents or the new ones.
            assert found == self._good or found == self._documents
            if found == self._documents and saved.refresh is None and saved.scan_id != self._scan_id:
                self._good, self._scan_id = found, saved.scan_id
            elif found == self._documents:
                self._good = found  # switched, and not noted
        self._check_known(found or {})
        if self.mode == "incremental" and saved.watermark is not None:
            assert found is not None
            missing = {
                name: (self._documents[name], found.get(name))
                for name, at in self._times.items()
                # Of those that share the watermark some may be to come: the next scan begins at it, not behind it.
                if moment(at).replace("T", " ") < saved.watermark and found.get(name) != self._documents[name]
            }
            assert not missing, f"not as in the source, although the watermark is {saved.watermark}: {missing}"
        if self.mode == "none":
            assert set(found or {}) >= set(self._good or {})

    def _check_known(self, found: Documents) -> None:
        """Every document is one that the source once had."""
        strangers = {name: text for name, text in found.items() if text not in self._history[name]}
        assert not strangers
