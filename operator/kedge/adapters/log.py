"""Log lines, as text for people or as an object a line, written by a thread of their own.

Who logs only puts the record into a queue: no write to a slow terminal or disk, and no formatting, is on the signaling
thread. A line that concerns a call or a relay says so in fields of its own (``CONTEXT``), given as ``extra``.
"""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Final, TextIO

from kedge.api.settings import Log, LogFormat
from kedge.ports.records import EventRecord

CONTEXT: Final = ("relay_set", "relay", "call", "call_id", "event")
"""Fields of a line beside its message: of these those that are given and not empty."""
_events = logging.getLogger("kedge.events")


class TextFormatter(logging.Formatter):
    """``TIME LEVEL MESSAGE field=value ...``, the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _context(record))
        line = f"{_time(record)} {record.levelname.lower():7} {_one_line(record.getMessage())}{fields}"
        return line + _traceback(self, record)


class JsonFormatter(logging.Formatter):
    """An object a line: ``time``, ``level``, ``logger``, ``message``, the fields, and ``error`` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **dict(_context(record)),
        }
        traceback = _traceback(self, record)
        if traceback:
            line["error"] = traceback.strip()
        return json.dumps(line, ensure_ascii=False)


_TALKATIVE: Final = ("aiohttp", "asyncio", "kopf")
"""Libraries that tell at ``info`` what only their makers want to know."""
_EXPECTED: Final = "OS signals are ignored"
"""kopf's warning of what is meant to be so: signals are the main thread's."""


def _is_news(record: logging.LogRecord) -> bool:
    """Say whether a record is worth a line."""
    if record.name.partition(".")[0] not in _TALKATIVE:
        return True
    return record.levelno != logging.INFO and not str(record.msg).startswith(_EXPECTED)


class _Handler(QueueHandler):
    """Puts records into the queue as they are: what is logged is immutable, and formatting is for the other side."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


@contextmanager
def logging_to(stream: TextIO, settings: Log) -> Iterator[Callable[[Log], None]]:
    """Log to ``stream`` while the context lasts; at its end, what was logged is written.

    It gives a function that takes other settings.
    """
    output = logging.StreamHandler(stream)
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = QueueListener(lines, output)
    handler = _Handler(lines)
    handler.addFilter(_is_news)
    root = logging.getLogger()
    level = root.level

    def take(settings: Log) -> None:
        output.setFormatter(JsonFormatter() if settings.format is LogFormat.JSON else TextFormatter())
        root.setLevel(settings.level.value.upper())

    take(settings)
    root.addHandler(handler)
    listener.start()
    try:
        yield take
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        listener.stop()


def event_logger(call_id_of: Callable[[str], str]) -> Callable[[EventRecord], None]:
    """Return a listener for ``Bookkeeper.on_event`` that logs each event.

    ``call_id_of`` gives the SIP Call-ID for Kedge's name of a call, or an empty string; it is called there too.
    """

    def log(event: EventRecord) -> None:
        _events.log(
            logging.WARNING if event.warning else logging.INFO,
            event.message,
            extra={
                "event": event.reason,
                "relay_set": event.relay_set,
                "relay": event.relay,
                "call": event.call,
                "call_id": call_id_of(event.call) if event.call else "",
            },
        )

    return log


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _context(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    for name in CONTEXT:
        value = getattr(record, name, "")
        if value:
            yield name, str(value)


def _one_line(message: str) -> str:
    """Return ``message`` with what is not printable escaped: who is named in it shall not write lines of his own."""
    if message.isprintable():
        return message
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)


def _quoted(value: str) -> str:
    return value if value.isprintable() and " " not in value and '"' not in value else json.dumps(value)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""
    return text + ("\n" + formatter.formatStack(record.stack_info) if record.stack_info else "")
