"""baresip, a real softphone with a SIP stack of its own (libre): calls, answers, holds, plays and hears a tone.

It is driven by its ``ctrl_tcp`` module (JSON in netstrings). It speaks a tone from a WAV file, and ``sndfile`` writes
what it has decoded to another: as long as that grows, it hears.
"""

import json
import math
import re
import socket
import struct
import subprocess
import time
import wave
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kit.ports import free_port, free_ports
from tests.kit.processes import dying_with_parent, end
from tests.kit.wire import Address

MODULES = Path("/usr/lib/baresip/modules")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class BaresipError(Exception):
    """baresip did not do as asked; the message has the end of its log."""


class Baresip:
    """One softphone on one address. A context manager."""

    def __init__(
        self,
        folder: Path,
        ip: str,
        *,
        user: str,
        port: int = 0,
        codec: str = "PCMU",
        tone: int = 440,
        encryption: str = "",
    ) -> None:
        """Choose addresses and write its configuration; nothing runs yet.

        Args:
            folder: for configuration, log and what it says and hears.
            ip: for SIP, RTP and control.
            user: user part of its address of record.
            port: for SIP; 0 takes a free one.
            codec: the only audio codec that it offers.
            tone: frequency in Hz that it sends.
            encryption: ``srtp-mand`` for SRTP with keys in SDP (RFC 4568) and nothing else, ``srtp`` for SRTP or RTP
                as the other side offers; empty for RTP alone.
        """
        self.folder = folder
        self.user = user
        self.sip: Address = (ip, port or free_port(ip))
        self._control: Address = (ip, free_ports(1, ip))
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        first_rtp = free_ports(20, ip, tcp=False)
        (folder / "config").write_text(
            f"sip_listen {ip}:{self.sip[1]}\nctrl_tcp_listen {ip}:{self._control[1]}\n"
            f"rtp_ports {first_rtp}-{first_rtp + 19}\njitter_buffer_type off\n"
            f"audio_source aufile,{folder / 'tone.wav'}\naudio_player aubridge,{user}\naudio_alert aubridge,{user}\n"
            f"audio_buffer 20-160\nnet_interface {ip}\nmodule_path {MODULES}\nsnd_path {folder}\n"
            "module g711.so\nmodule srtp.so\nmodule aubridge.so\nmodule aufile.so\nmodule sndfile.so\n"
            "module_app account.so\nmodule_app ctrl_tcp.so\nmodule_app menu.so\n"
        )
        (folder / "accounts").write_text(
            f"<sip:{user}@{ip};transport=udp>;regint=0;answermode=auto;audio_codecs={codec}/8000/1"
            f"{f';mediaenc={encryption}' if encryption else ''}\n"
        )
        (folder / "contacts").write_text("")
        write_tone(folder / "tone.wav", tone)

    @property
    def log(self) -> str:
        """What it has printed."""
        path = self.folder / "log"
        return _ANSI.sub("", path.read_text(errors="replace")) if path.exists() else ""

    def start(self, *, within: float = 10.0) -> Self:
        """Start it and wait until it can be driven."""
        with (self.folder / "log").open("wb") as log:
            command = dying_with_parent(["baresip", "-f", str(self.folder)])
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + within
        while True:
            try:
                self._socket = socket.create_connection(self._control, timeout=within)
                return self
            except ConnectionRefusedError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise BaresipError(f"it did not start: {self.log[-1500:]}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            end(self._process)
            self._process = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; a failure takes the log along."""
        if error is not None:
            error.add_note(f"baresip {self.user} printed:\n{self.log[-3000:]}")
        self.stop()

    def dial(self, uri: str) -> None:
        """Call somebody, and wait for the answer."""
        self.do("dial", uri)
        self.wait_for("CALL_ESTABLISHED")

    def do(self, command: str, params: str = "", *, within: float = 5.0) -> str:
        """Give a command of its menu (``dial``, ``hangup``, ``hold``, ``resume``, ``reginfo``); return its answer."""
        if self._socket is None:
            raise BaresipError("it does not run")
        text = json.dumps({"command": command, "params": params, "token": command}).encode()
        self._socket.sendall(b"%d:%b," % (len(text), text))
        return str(self._read(lambda one: bool(one.get("response")), within).get("data", ""))

    def wait_for(self, kind: str, *, within: float = 10.0) -> dict[str, Any]:
        """Wait for an event (``CALL_ESTABLISHED``, ``CALL_CLOSED``...), also one that has come already; take it."""
        for index, one in enumerate(self.events):
            if one.get("type") == kind:
                return self.events.pop(index)
        found = self._read(lambda one: one.get("type") == kind, within)
        self.events.remove(found)
        return found

    def _read(self, wanted: Any, within: float) -> dict[str, Any]:
        deadline = time.monotonic() + within
        while True:
            for message in self._messages():
                if message.get("event"):
                    self.events.append(message)
                if wanted(message):
                    return message
            self._receive(deadline)

    def _messages(self) -> list[dict[str, Any]]:
        found = []
        while match := re.match(rb"(\d+):", self._buffer):
            start, length = match.end(), int(match[1])
            if len(self._buffer) <= start + length:
                break
            found.append(json.loads(self._buffer[start : start + length]))
            self._buffer = self._buffer[start + length + 1 :]
        return found

    def _receive(self, deadline: float) -> None:
        assert self._socket is not None
        left = deadline - time.monotonic()
        if left <= 0:
            raise BaresipError(f"no answer in time; events: {[one.get('type') for one in self.events]}")
        self._socket.settimeout(left)
        try:
            self._buffer += self._socket.recv(65536)
        except TimeoutError:
            raise BaresipError(f"no answer in time; events: {[one.get('type') for one in self.events]}") from None

    def heard_bytes(self) -> int:
        """Return how much audio it has decoded and written: 16 bytes a millisecond while it hears something."""
        return sum(one.stat().st_size for one in self.folder.glob("*-dec.wav"))


def write_tone(path: Path, frequency: int) -> None:
    """Write a minute of a tone."""
    rate, seconds = 8000, 60
    period = [round(8000 * math.sin(2 * math.pi * frequency * n / rate)) for n in range(rate)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{rate}h", *period) * seconds)
