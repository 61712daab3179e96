"""Shows slices of online training: a table that is updated in place on a terminal, otherwise a line for each slice."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ml.sync.receiver import Receiver
from ml.sync.status import ReceiverStatus

Columns = Sequence[tuple[str, int]]
"""Title and width of each column. All but the first are aligned to the right."""
ROWS = 20
"""Slices in the table; at most what the terminal has room for."""
SECONDS = 30.0
"""Time over which events a second are averaged."""
OUTSIDE = 7  # lines of a terminal that are not slices: title, header, borders and summary


def line_of(columns: Columns, cells: Sequence[str]) -> str:
    """Format the cells of a row as a line."""
    pairs = list(zip(columns, cells, strict=True))
    return " ".join(f"{text:{width}}" if not n else f"{text:>{width}}" for n, ((_, width), text) in enumerate(pairs))


def number(value: float | None) -> str:
    """Format a metric; a dash if it is undefined."""
    return "–" if value is None else f"{value:.4f}"


class SliceTable:
    """The last slices, and a summary that is computed whenever it is drawn.

    Args:
        columns: The columns.
        title: Title of the table.
        receiver: The receiver whose lag is shown.
        height: Lines of the terminal.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        columns: Columns,
        title: str,
        receiver: Receiver,
        height: int = 40,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._columns, self._title, self._receiver, self._clock = columns, title, receiver, clock
        self._slices: deque[Sequence[str]] = deque(maxlen=max(min(ROWS, height - OUTSIDE), 1))
        self._arrived: deque[tuple[float, int]] = deque()
        self._began, self._events, self._rows, self._bytes = clock(), 0, 0, 0

    def add(self, cells: Sequence[str], events: int, rows: int, nbytes: int) -> None:
        """Add a slice: its cells, and the numbers of its events, of the rows and of the bytes that were published."""
        self._slices.append(cells)
        self._arrived.append((self._clock(), events))
        self._events, self._rows, self._bytes = self._events + events, self._rows + rows, self._bytes + nbytes

    @property
    def events_per_second(self) -> float:
        """Events of the last `SECONDS` a second of wall-clock time."""
        now = self._clock()
        while self._arrived and now - self._arrived[0][0] > SECONDS:
            self._arrived.popleft()
        return sum(count for _, count in self._arrived) / max(min(now - self._began, SECONDS), 1e-9)

    def summary(self, status: ReceiverStatus) -> str:
        """Describe the totals, and the state of the receiver."""
        event_lag = "" if status.lag_event_seconds is None else f", {status.lag_event_seconds:,.0f} s of events"
        version = "–" if status.version is None else status.version
        return (
            f"{self._events:,} events, {self.events_per_second:,.0f} a second; "
            f"{self._rows:,} rows and {self._bytes / 1e6:,.1f} MB sent; receiver at version {version}, "
            f"lag {status.lag_wall_seconds:.1f} s{event_lag}, {status.rollbacks} rollbacks; Ctrl-C stops"
        )

    def __rich__(self) -> Group:
        table = Table(title=self._title, title_justify="left")
        for place, (title, width) in enumerate(self._columns):
            table.add_column(title, justify="right" if place else "left", min_width=min(width, len(title)), no_wrap=True)
        for cells in self._slices:
            table.add_row(*cells)
        return Group(table, Text(self.summary(self._receiver.status)))


Show = Callable[[Sequence[str], int, int, int], None]
"""Shows a slice; takes the arguments of `SliceTable.add`."""


@contextmanager
def slices_shown(console: Console, columns: Columns, title: str, receiver: Receiver) -> Iterator[Show]:
    """Yield a function that shows a slice, in the way that suits the console."""
    if not console.is_terminal:
        console.print(line_of(columns, [name for name, _ in columns]))
        yield lambda cells, events, rows, nbytes: console.print(line_of(columns, cells))
        return
    table = SliceTable(columns, title, receiver, console.height)
    with Live(table, console=console, refresh_per_second=4):
        yield table.add
