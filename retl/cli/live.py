"""Live progress bars, with rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from retl.cli.event_text import event_line
from retl.cli.render import clean
from retl.model import events
from retl.model import report as reports
from retl.model.duration import format_duration
from retl.model.errors import RetlError


class _Facts(ProgressColumn):
    """Rows, rate and time left, as the engine counts them."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        progress: reports.Progress | None = task.fields["progress"]
        if progress is None:
            return Text("planning")
        of = "" if progress.rows_planned is None else f" of {progress.rows_planned:,}"
        left = progress.seconds_left
        rest = "" if left is None else f", {format_duration(round(left))} left"
        return Text(f"{progress.rows:,}{of} rows, {progress.rate:,.0f}/s{rest}")


class LiveView:
    """A bar for each running scan; the lines of finished ones scroll by above."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._bars: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), _Facts())
        self._progress = Progress(*columns, console=self._console, transient=True, refresh_per_second=10)
        self._progress.start()

    def show(self, event: events.Event) -> None:
        match event:
            case events.ScanStarted(table=table):
                place = f"{event.pipeline}.{table}"
                self._remove(place)  # a retried scan starts again without having ended
                self._bars[place] = self._progress.add_task(clean(place), total=None, progress=None)
            case events.ScanPlanned(table=table, rows=rows):
                self._update(f"{event.pipeline}.{table}", total=rows)
            case (
                events.RowsMoved(table=table, progress=progress) | events.SliceCommitted(table=table, progress=progress)
            ):
                self._update(f"{event.pipeline}.{table}", completed=progress.rows, progress=progress)
            case events.ScanFinished(report=report) | events.ScanFailed(report=report):
                self._remove(f"{report.pipeline}.{report.table}")
        line = event_line(event)
        if line is not None:
            failed = isinstance(event, events.ScanFailed | events.RunFailed)
            self._console.print(clean(line), style="red" if failed else None)

    def _update(self, place: str, **values: Any) -> None:
        if place in self._bars:
            self._progress.update(self._bars[place], **values)

    def _remove(self, place: str) -> None:
        if place in self._bars:
            self._progress.remove_task(self._bars.pop(place))

    def info(self, text: str) -> None:
        self._console.print(clean(text))

    def warn(self, text: str) -> None:
        self._console.print(clean(f"warning: {text}"), style="yellow")

    def error(self, error: RetlError) -> None:
        self._console.print(clean(f"{error.pipeline or 'retl'}: FAILED {error.message}"), style="red")
        if error.remedy:
            self._console.print(clean(f"    What to do: {error.remedy}"))

    def close(self) -> None:
        self._progress.stop()
