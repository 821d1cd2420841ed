"""What has changed: the listing and the manifest, two streams in the order of names, compared as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple

from retl.connectors.files.formats.options import unpacked_name
from retl.connectors.files.selection import Selection, Verdict
from retl.connectors.files.store import FileInfo
from retl.connectors.manifest.pairs import pairs
from retl.model.errors import TransientError
from retl.model.manifest import ManifestEntry


class Difference(NamedTuple):
    """One file that is not as the manifest says. Without ``file`` it has vanished."""

    file: FileInfo | None
    entry: ManifestEntry | None
    """What the manifest says of it; ``None`` where it is new."""

    @property
    def name(self) -> str:
        if self.file is not None:
            return self.file.name
        assert self.entry is not None
        return self.entry.name


_MOST_NAMED = 3
_MOST_ENDINGS = 100


@dataclass
class Counts:
    """How many files of a listing are what, and how many rows of them the target holds."""

    listed: int = 0
    selected: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    vanished: int = 0
    vanished_rows: int = 0
    known: int = 0
    known_rows: int = 0
    waiting: int = 0
    archived: int = 0
    archived_names: list[str] = field(default_factory=list)
    """The first of them: those that the target does not hold as they are."""
    links: int = 0
    """Links that are not followed."""
    link_names: list[str] = field(default_factory=list)
    textless: Counter[str] = field(default_factory=Counter)
    """Files of kinds without a text, by the ending of their names."""

    def leave_out(self, link: str) -> None:
        """Count a link that is not followed."""
        self.links += 1
        if len(self.link_names) < _MOST_NAMED:
            self.link_names.append(link)

    def leave_out_kind(self, name: str) -> None:
        """Count a file whose kind has no text."""
        last = unpacked_name(name).rpartition("/")[2].lower()
        ending = f".{last.rpartition('.')[2]}"
        known = ending in self.textless or len(self.textless) < _MOST_ENDINGS
        self.textless[ending if known else "others"] += 1

    @property
    def warnings(self) -> list[str]:
        """What people should know of files that are not read."""
        told = []
        if self.archived_names:
            named = _named(self.archived_names, self.archived)
            told.append(
                f"{self.archived:,} files are archived and cannot be read before they are restored in the store: {named}"
            )
        if self.links:
            named = _named(self.link_names, self.links)
            told.append(
                f"{self.links:,} links lead out of the root, in a circle or nowhere, and are not followed: {named}"
            )
        if self.textless:
            kinds = [f"{count:,} {ending}" for ending, count in self.textless.most_common(_MOST_NAMED)]
            told.append(
                f"files of kinds without a text are not read: {_named(kinds, len(self.textless))} "
                f"({self.textless.total():,} in all). Name them in ignore, and they are passed over in silence."
            )
        return told

    @property
    def text(self) -> str:
        """The same for people."""
        names = ("new", "changed", "unchanged", "vanished", "waiting", "archived")
        links = [f"{self.links:,} links not followed"] if self.links else []
        textless = [f"{self.textless.total():,} without a text"] if self.textless else []
        return ", ".join([*(f"{getattr(self, name):,} {name}" for name in names), *links, *textless])


def _named(names: Sequence[str], count: int) -> str:
    return f"{', '.join(names)}{', ...' if count > len(names) else ''}"


async def compare(
    listing: AsyncGenerator[list[FileInfo], None],
    manifest: AsyncIterator[ManifestEntry],
    selection: Selection,
    counts: Counts,
    *,
    everything: bool = False,
    strict: bool = True,
) -> AsyncGenerator[list[Difference], None]:
    """What is new, changed or vanished, page by page; holds no more than a page of either stream.

    A file that is listed and not selected has not vanished. ``everything``: unchanged files are given too; with ``strict``
    one that is in the manifest and cannot be read is an error.
    """
    async with aclosing(pairs(listing, manifest)) as pages:
        async for page in pages:
            found: list[Difference] = []
            for file, known in page:
                if known is not None:
                    counts.known += 1
                    counts.known_rows += known.rows
                if file is None:
                    assert known is not None
                    found.append(_vanished(known, counts))
                    continue
                counts.listed += 1
                verdict = selection.verdict(file)
                if _differs(file, known, verdict, counts) or (everything and verdict is Verdict.READ):
                    found.append(Difference(file, known))
                elif everything and strict and known is not None and verdict in (Verdict.WAITING, Verdict.ARCHIVED):
                    raise _cannot_be_read(file)
            yield found


def _cannot_be_read(file: FileInfo) -> TransientError:
    """The error of a table that is replaced as a whole, and would lose the rows of one file."""
    why = "is archived" if file.archived else "may still be written to"
    return TransientError(
        f"the table is replaced as a whole, and the file {file.name!r}, whose rows it holds, {why}.",
        remedy="restore it, or wait until it is finished; or leave it out with ignore.",
    )


def _vanished(entry: ManifestEntry, counts: Counts) -> Difference:
    counts.vanished += 1
    counts.vanished_rows += entry.rows
    return Difference(None, entry)


def _differs(file: FileInfo, known: ManifestEntry | None, verdict: Verdict, counts: Counts) -> bool:
    """Whether a file is to be read."""
    if verdict is Verdict.WAITING:
        counts.waiting += 1
    elif verdict is Verdict.TEXTLESS:
        counts.leave_out_kind(file.name)
    elif verdict is Verdict.ARCHIVED:
        counts.archived += 1
        if (known is None or known.identity != file.identity) and len(counts.archived_names) < _MOST_NAMED:
            counts.archived_names.append(file.name)
    elif verdict is Verdict.READ:
        counts.selected += 1
        if known is None:
            counts.new += 1
            return True
        if known.identity != file.identity:
            counts.changed += 1
            return True
        counts.unchanged += 1
    return False
