"""SIGTERM and SIGINT as a wish: the run ends where nothing is lost."""

import signal
import threading


class Interrupted(SystemExit):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved what it has. Exit status 128 + signal."""


class StopRequest:
    """In its `with` block, the first SIGTERM or SIGINT is only noted in `signal`; a second one ends at once.

    Outside of the main thread, where Python lets no handler be set, signals act as ever.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        in_main_thread = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
        self._handlers = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._handlers[self.signal])
