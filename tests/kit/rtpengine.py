"""A real rtpengine as a child process: started, killed, frozen, restarted, and asked over its ng port."""

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kit.ports import free_ports
from tests.kit.processes import dying_with_parent, end
from tests.kit.wire import Address

_cookies = (f"kit{os.getpid()}_{os.urandom(3).hex()}_{number}" for number in itertools.count())


class RtpengineError(Exception):
    """rtpengine did not start or did not answer; its log follows."""


class Rtpengine:
    """One relay. ``start`` waits until it answers; as a context manager it starts and stops."""

    def __init__(
        self, ip: str = "127.0.0.1", *, ng_port: int = 0, media_ports: int = 400, first_media_port: int = 0
    ) -> None:
        """Choose addresses; nothing runs yet.

        Args:
            ip: for control and media.
            ng_port: of the ng protocol; the two ports after it are for HTTP and CLI. 0 takes free ones.
            media_ports: how many; a call takes four.
            first_media_port: 0 takes a free range.
        """
        self.ip = ip
        control = ng_port or free_ports(3, ip)
        self.ng: Address = (ip, control)
        self.http: Address = (ip, control + 1)
        self.cli: Address = (ip, control + 2)
        self.first_media_port = first_media_port or free_ports(media_ports, ip, tcp=False)
        self.last_media_port = self.first_media_port + media_ports - 1
        self._log = Path(tempfile.mkstemp(prefix="kedge-rtpengine-", suffix=".log")[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return 0 if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        """What it has logged since the first start."""
        return self._log.read_text(errors="replace")

    def start(self, *, within: float = 10.0) -> Self:
        """Start it, and wait for its first pong.

        Raises:
            RtpengineError: no pong ``within`` seconds, or the process ended.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent(self._command()), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.ping(within=0.1):
                return self
        self.kill()
        raise RtpengineError(f"rtpengine on {self.ng[0]}:{self.ng[1]} does not answer:\n{self.log[-4000:]}")

    def ping(self, *, within: float = 1.0) -> bool:
        """Send one ng ping, and say whether the pong came ``within`` seconds."""
        return self._ask(b"d7:command4:pinge", within) == b"d6:result4:ponge"

    def sessions(self) -> int:
        """Return how many calls it holds.

        Raises:
            RtpengineError: it does not answer.
        """
        return len(self.session_names())

    def session_names(self) -> list[str]:
        """Return the Call-IDs of the calls that it holds.

        Raises:
            RtpengineError: it does not answer.
        """
        reply = self._ask(b"d7:command4:list5:limiti100000ee", 2.0)
        if reply is None:
            raise RtpengineError(f"rtpengine on {self.ng[0]}:{self.ng[1]} does not answer")
        calls = reply.partition(b"5:callsl")[2].partition(b"e6:result")[0]
        names: list[str] = []
        while calls:
            length, _, rest = calls.partition(b":")
            names.append(rest[: int(length)].decode())
            calls = rest[int(length) :]
        return names

    def make_session(self, name: str) -> None:
        """Offer it a call with this Call-ID, as some other user of the relay would.

        Raises:
            RtpengineError: it does not take it.
        """
        sdp = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
        command = b"d7:call-id%d:%b7:command5:offer8:from-tag1:a3:sdp%d:%be" % (
            len(name), name.encode(), len(sdp), sdp,
        )  # fmt: skip
        reply = self._ask(command, 2.0)
        if reply is None or b"6:result2:ok" not in reply:
            raise RtpengineError(f"rtpengine refuses the session {name}: {reply!r}")

    def kill(self) -> float:
        """Kill it with SIGKILL, and return the monotonic time of it."""
        at = time.monotonic()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        return at

    def freeze(self) -> float:
        """Stop it with SIGSTOP (alive, its ports open, silent), and return the monotonic time of it."""
        at = time.monotonic()
        self._signal(signal.SIGSTOP)
        if self._process is not None and self._process.poll() is None:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # a moment later, when its last thread has stopped
        return at

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._signal(signal.SIGCONT)

    def restart(self) -> float:
        """Kill it and start it at the same addresses: its sessions are lost. Return the monotonic time of the kill."""
        at = self.kill()
        self.start()
        return at

    def stop(self) -> None:
        """End it in peace, whatever its state, and remove its log."""
        if self._process is not None:
            end(self._process)
            self._process = None
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _command(self) -> list[str]:
        def at(address: Address) -> str:
            return f"{address[0]}:{address[1]}"

        return [
            "rtpengine", "--config-file=none", "--foreground", "--log-stderr", "--log-level=5", "--table=-1",
            f"--interface={self.ip}", f"--listen-ng={at(self.ng)}", f"--listen-cli={at(self.cli)}",
            f"--listen-http={at(self.http)}",
            f"--port-min={self.first_media_port}", f"--port-max={self.last_media_port}",
            "--delete-delay=0", "--poller-per-thread", "--num-threads=2",
        ]  # fmt: skip

    def _ask(self, command: bytes, within: float) -> bytes | None:
        cookie = next(_cookies).encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(self.ng)
            with contextlib.suppress(ConnectionRefusedError):
                sock.send(cookie + b" " + command)
                if select.select([sock], [], [], within)[0]:
                    reply_cookie, _, reply = sock.recv(65535).partition(b" ")
                    return reply if reply_cookie == cookie else None
        time.sleep(0.01)  # refused at once: do not spin while it starts
        return None
