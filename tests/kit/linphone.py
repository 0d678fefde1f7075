"""linphonec, a real softphone with a SIP stack of its own (belle-sip): calls, answers, pauses, plays and hears a tone.

It is driven by lines on its standard input, and tells by lines what it does. Instead of a sound card it has files: it
speaks a tone from one, and writes what it hears to another; as long as that grows, it hears.
"""

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kit.baresip import write_tone
from tests.kit.ports import free_port, free_ports
from tests.kit.processes import dying_with_parent, end
from tests.kit.wire import Address


class LinphoneError(Exception):
    """linphonec did not do as asked; the message has the end of what it printed."""


class Linphone:
    """One softphone on one address; it answers by itself. A context manager."""

    def __init__(self, folder: Path, ip: str, *, user: str, encryption: str = "none", video: bool = False) -> None:
        """Choose addresses and write its configuration; nothing runs yet.

        Args:
            folder: for configuration, database, log and what it says and hears.
            ip: for SIP and RTP.
            user: user part of its address of record.
            video: it offers video as well, although it has none to show.
            encryption: ``srtp`` for SRTP with keys in SDP (RFC 4568) in the calls that it makes; ``none``.
        """
        self.folder = folder
        self._video = video
        self.sip: Address = (ip, free_port(ip))
        self._process: subprocess.Popen[bytes] | None = None
        (folder / ".local" / "share" / "linphone").mkdir(parents=True)
        first_rtp = free_ports(20, ip, tcp=False)
        sections: dict[str, dict[str, object]] = {
            "sip": {
                "sip_port": self.sip[1], "sip_tcp_port": 0, "sip_tls_port": 0, "bind_address": ip,
                "contact": f"<sip:{user}@{ip}:{self.sip[1]}>", "media_encryption": encryption,
                "media_encryption_mandatory": int(encryption != "none"), "guess_hostname": 0,
                "register_only_when_network_is_up": 0, "keepalive_period": 0,
            },
            "rtp": {
                "audio_rtp_port": f"{first_rtp}-{first_rtp + 9}",
                "video_rtp_port": f"{first_rtp + 10}-{first_rtp + 19}",
            },
            "video": {"capture": 0, "display": 0},
            "sound": {"echocancellation": 0},
        }  # fmt: skip
        (folder / "linphonerc").write_text(
            "".join(
                f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in values.items())
                for name, values in sections.items()
            )
        )
        write_tone(folder / "tone.wav", 660)

    @property
    def log(self) -> str:
        """What it has printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        """Start it, and wait until it takes calls."""
        command = [
            "linphonec",
            "-a",
            *(["-C"] if self._video else []),
            "-c",
            str(self.folder / "linphonerc"),
            "-d",
            "0",
        ]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_parent(command), stdin=subprocess.PIPE, stdout=log, stderr=log,
                env={**os.environ, "HOME": str(self.folder)},
            )  # fmt: skip
        self.do("soundcard use files")
        self.do(f"play {self.folder / 'tone.wav'}")
        self.do(f"record {self.folder / 'heard.wav'}")
        self.do("ports")
        self.wait_for("sip port = ")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it; a failure takes the log along."""
        if error is not None:
            error.add_note(f"linphonec printed:\n{self.log[-3000:]}")
        if self._process is not None:
            end(self._process)

    def dial(self, uri: str) -> None:
        """Call somebody, and wait for the answer."""
        self.do(f"call {uri}")
        self.wait_for("Media streams established")

    def do(self, command: str) -> None:
        """Give a command: ``call URI``, ``terminate``, ``pause``, ``resume``."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def wait_for(self, text: str, *, within: float = 10.0) -> None:
        """Wait until it has printed this."""
        deadline = time.monotonic() + within
        while text not in self.log:
            if time.monotonic() > deadline:
                raise LinphoneError(f"no {text!r} in time:\n{self.log[-2000:]}")
            time.sleep(0.02)

    def heard_bytes(self) -> int:
        """Return how much audio it has decoded and written: 16 bytes a millisecond or more, by the codec."""
        path = self.folder / "heard.wav"
        return path.stat().st_size if path.exists() else 0
