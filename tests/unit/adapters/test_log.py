"""Log lines: both forms, the fields of calls and relays, and which thread writes them."""

from __future__ import annotations

import io
import json
import logging
import threading
from datetime import datetime

import pytest

from kedge.adapters.log import event_logger, logging_to
from kedge.api.settings import Log, LogFormat, LogLevel
from kedge.ports.records import EventRecord

TEXT, JSON = Log(format=LogFormat.TEXT), Log(format=LogFormat.JSON)
logger = logging.getLogger("kedge.test")


def event(*, warning: bool, call: str = "") -> EventRecord:
    return EventRecord(
        at=1.0,
        warning=warning,
        reason="CallNotMoved",
        message="it stays",
        relay_set="default/voice",
        relay="r1",
        call=call,
    )


def test_a_line_of_text_ends_with_its_fields() -> None:
    out = io.StringIO()
    with logging_to(out, TEXT):
        logger.warning("cannot move %s", "it", extra={"relay": "r1", "call_id": "a b@x", "call": ""})

    time, rest = out.getvalue().rstrip("\n").split(" ", 1)
    assert datetime.fromisoformat(time).tzinfo is not None
    assert rest == 'warning cannot move it relay=r1 call_id="a b@x"'


def test_a_line_of_json_has_them_as_members() -> None:
    out = io.StringIO()
    with logging_to(out, JSON):
        logger.info('say "hi"', extra={"relay": "r1"})

    line = json.loads(out.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "logger": "kedge.test", "message": 'say "hi"', "relay": "r1"}


def test_other_settings_hold_from_the_next_line_on() -> None:
    out = io.StringIO()
    with logging_to(out, TEXT) as take:
        logger.debug("not told")
        take(Log(level=LogLevel.DEBUG, format=LogFormat.JSON))
        logger.debug("told")
        take(Log(level=LogLevel.ERROR, format=LogFormat.JSON))
        logger.warning("not told either")

    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["told"]


@pytest.mark.parametrize("settings", [TEXT, JSON], ids=["text", "json"])
def test_what_others_put_into_a_message_makes_no_line_of_its_own(settings: Log) -> None:
    out = io.StringIO()
    with logging_to(out, settings):
        logger.info("from %s", "sip:a\n2026-01-01T00:00:00.000Z error forged", extra={"call_id": "x\ny"})

    assert len(out.getvalue().splitlines()) == 1


def test_a_traceback_is_kept() -> None:
    text, lines = io.StringIO(), io.StringIO()
    for out, settings in ((text, TEXT), (lines, JSON)):
        with logging_to(out, settings):
            try:
                raise RuntimeError("boom")
            except RuntimeError:
                logger.exception("it failed")

    assert text.getvalue().rstrip().endswith("RuntimeError: boom")
    assert json.loads(lines.getvalue())["error"].endswith("RuntimeError: boom")


def test_the_level_is_the_settings_one_and_afterwards_what_it_was() -> None:
    out, before = io.StringIO(), logging.getLogger().level
    with logging_to(out, Log(level=LogLevel.ERROR)):
        logger.warning("not this")
        logger.error("this")

    assert "not this" not in out.getvalue()
    assert "this" in out.getvalue()
    assert logging.getLogger().level == before


def test_libraries_tell_their_troubles_only() -> None:
    out = io.StringIO()
    with logging_to(out, TEXT):
        logging.getLogger("kopf.objects").info("Handler succeeded.")
        logging.getLogger("kopf._core.reactor.running").warning(
            "OS signals are ignored: running not in the main thread."
        )
        logging.getLogger("kopf.clients").warning("the watch failed")

    assert [line.split("warning ")[1] for line in out.getvalue().splitlines()] == ["the watch failed"]


class Stream(io.StringIO):
    """Remembers who wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[int] = set()

    def write(self, text: str) -> int:
        self.writers.add(threading.get_ident())
        return super().write(text)


def test_who_logs_does_not_write() -> None:
    out = Stream()
    with logging_to(out, TEXT):
        logger.info("a line")

    assert out.getvalue().rstrip().endswith("a line")
    assert threading.get_ident() not in out.writers


def test_events_are_logged_with_the_call_id_of_their_call() -> None:
    out = io.StringIO()
    with logging_to(out, JSON):
        log = event_logger({"c1": "abc@x"}.__getitem__)
        log(event(warning=True, call="c1"))
        log(event(warning=False))

    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["level"], first["call"], first["call_id"], first["relay"]) == ("warning", "c1", "abc@x", "r1")
    assert (second["level"], second["event"], second.get("call_id")) == ("info", "CallNotMoved", None)
