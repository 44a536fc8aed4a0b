"""Servers of Milvus for tests: children of their own, which go with them.

Milvus itself listens on all addresses and cannot be told otherwise, so that it runs in a network
of its own, in which there is only itself; a socket in a folder leads there. milvus-lite is a small
server in Python, which listens on 127.0.0.1.
"""

import asyncio
import atexit
import ctypes
import fcntl
import functools
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SECONDS = 120
_PORT = 19530
# From Linux's headers.
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_PR_SET_PDEATHSIG = 1


class MilvusServer:
    """A server in a temporary folder that can be killed and started again.

    "core" is Milvus 2.3.5, "guarded" the same with users and passwords, "lite" milvus-lite.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.token = "root:Milvus" if kind == "guarded" else ""
        self._folder = Path(tempfile.mkdtemp(prefix="imgembed-milvus-"))
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        """The address."""
        if self.kind == "lite":
            return f"http://127.0.0.1:{self._port}"
        return f"unix:{self._folder / 'socket'}"

    @property
    def pid(self) -> int:
        """The process of the server."""
        if self.kind == "lite":
            assert self._process is not None
            return self._process.pid
        return int((self._folder / "pid").read_text())

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            # No preexec_fn: gRPC, which is in this process, may hang in a fork.
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, cwd=self._folder
            )
        end = time.monotonic() + _SECONDS
        while not self._answers():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait(_SECONDS)  # what leads to it ends with it

    def pause(self) -> None:
        """Let the server answer nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder)

    def _command(self) -> list[str]:
        how = str(self._port) if self.kind == "lite" else str(_unpacked())
        return [sys.executable, __file__, self.kind, str(self._folder), how]

    def _answers(self) -> bool:
        from pymilvus import MilvusClient, MilvusException

        try:
            client = MilvusClient(self.uri, token=self.token, timeout=2, dedicated=True)
        except MilvusException:
            return False
        try:
            client.list_collections(timeout=2)
        except MilvusException:
            return False
        finally:
            client.close()
        return True


@functools.cache
def _unpacked() -> Path:
    """Milvus's programs, unpacked once for all servers of these tests."""
    import milvus

    folder = Path(tempfile.mkdtemp(prefix="imgembed-milvus-bin-"))
    atexit.register(shutil.rmtree, folder)
    milvus._initialize_data_files(str(folder))
    return folder / "bin"


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


# What runs as a program of its own: milvus-lite, or the core of Milvus in a network of its own.


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run_lite(folder: Path, port: str) -> None:
    from milvus_lite.cmdline import main

    place = ["--data-dir", str(folder / "data"), "--host", "127.0.0.1"]
    sys.argv = ["milvus-lite", "server", *place, "--port", port]
    main()


def _leave_the_network() -> None:
    """Enter a network in which there is only this process and its children."""
    flags = _CLONE_NEWNET | (0 if os.geteuid() == 0 else _CLONE_NEWUSER)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _start_core(kind: str, folder: Path, programs: Path) -> subprocess.Popen[bytes]:
    import milvus

    config = milvus.MilvusServerConfig(data_dir=str(folder))
    # Strongly consistent reads wait for the next tick, which is 200 ms where nothing is set.
    config.set("proxy.timeTickInterval", 20)
    config.set("common.security.authorizationEnabled", str(kind == "guarded").lower())
    config.resolve()
    environment = os.environ | {
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": "9091",
        "MILVUS_RUN_DIR": str(folder / "run"),
        "LD_LIBRARY_PATH": str(programs),
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [programs / "milvus", "run", "standalone"],
            env=environment, stdout=log, stderr=log, cwd=folder, preexec_fn=_die_with_parent,
        )  # fmt: skip


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 18):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _led_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there, back = await asyncio.open_connection("127.0.0.1", _PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_pumped(reader, back), _pumped(there, writer))


async def _serve(folder: Path, server: subprocess.Popen[bytes]) -> None:
    place = folder / "socket"
    place.unlink(missing_ok=True)
    await asyncio.start_unix_server(_led_on, place)
    while server.poll() is None:
        await asyncio.sleep(0.02)


def _main(kind: str, folder: Path, how: str) -> None:
    _die_with_parent()
    if kind == "lite":
        _run_lite(folder, how)
        return
    _leave_the_network()
    server = _start_core(kind, folder, Path(how))
    (folder / "pid").write_text(str(server.pid))
    asyncio.run(_serve(folder, server))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
