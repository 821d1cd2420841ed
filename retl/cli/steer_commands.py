"""``trigger``, ``pause``, ``resume`` and ``stop``: they reach the process that runs a pipeline, wherever it is."""

from __future__ import annotations

import argparse

from retl.cli.exit_codes import FAILED, OK, worst
from retl.cli.fan_out import fan_out, having, selected
from retl.cli.render import print_json, say
from retl.model.steering import CommandWord, Sent

_DONE: dict[CommandWord, str] = {
    "trigger": "triggered",
    "pause": "paused",
    "resume": "resumed",
    "stop": "stopped",
}


def steer(arguments: argparse.Namespace) -> int:
    """Send one command to every selected pipeline; returns the exit code."""
    word: CommandWord = arguments.word
    table: str | None = arguments.table if word == "trigger" else None
    pipelines = having(selected(arguments), [] if table is None else [table])
    answers, code = fan_out(pipelines, lambda pipeline: pipeline.send(word, table))
    found = [answer.value for answer in answers]
    if arguments.json:
        print_json(found)
    else:
        for sent in found:
            say(f"{sent.pipeline}: {_text(sent)}")
    return worst((code, FAILED if any(map(_failed, found)) else OK))


def _failed(sent: Sent) -> bool:
    """Whether nothing comes of it. A pause holds for the next owner too, and who does not run need not be stopped."""
    return not sent.heard and (sent.command == "trigger" or (sent.command == "stop" and sent.owner is not None))


def _text(sent: Sent) -> str:
    what = _DONE[sent.command] + (f" {sent.table}" if sent.table is not None else "")
    if sent.heard:
        return f"{what}; {sent.owner} has heard it"
    if sent.owner is not None:
        silent = f"{sent.owner}, which runs it, has not heard it in time"
        return f"not {what}: {silent}" if _failed(sent) else f"{what}, and so is the next owner; {silent}"
    if sent.command == "trigger":
        return f"not {what}: no process runs it; `retl run --once` scans it now"
    if sent.command == "stop":
        return "no process runs it"
    return f"{what}; no process runs it now, and the next one will find it so"
