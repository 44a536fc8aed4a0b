"""ClickHouse for tests: a child that answers over HTTP as a server does, and goes with them.

No package brings the server of ClickHouse. chDB brings its engine; the child puts it behind the
part of ClickHouse's HTTP interface that clickhouse-connect uses, so that the driver, the network
between, and the death of a process are real.
"""

import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_SECONDS = 60
USER, PASSWORD = "tester", "very-secret-word"
# What an address says besides settings.
_OF_HTTP = re.compile(
    "query|database|query_id|session_id|wait_end_of_query|compress|buffer_size|role|.*http.*"
    "|client_protocol_version|default_format"
)
_INSERT = re.compile(
    rb"\s*(INSERT INTO .*? FORMAT (RowBinaryWithNamesAndTypes|Native))\n", re.DOTALL
)


class ClickHouseServer:
    """A server on 127.0.0.1, in a temporary folder, that can be killed and started again.

    Parameters
    ----------
    version : str, optional
        What it says that it is.
    """

    def __init__(self, version: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="imgembed-clickhouse-"))
        self._version = version
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def dsn(self) -> str:
        """The address, with the password."""
        return f"clickhouse://{USER}:{PASSWORD}@127.0.0.1:{self.port}/default"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self._folder / "data", str(self.port), self._version],
                stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        end = time.monotonic() + _SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < end, "it does not start"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it answer nothing, and keep its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder)

    def execute(self, statement: str) -> list[list[Any]]:
        """Run a statement as the owner of all."""
        words = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/?default_format=JSONCompact",
            statement.encode(),
            {"Authorization": f"Basic {words}"},
        )
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            text = response.read()
        return json.loads(text)["data"] if text.startswith(b"{") else []


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


# What the child does.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is one packet, or the client waits for its second one.
    wbufsize, disable_nagle_algorithm = 2**16, True
    folder = version = ""
    engine: Any = None
    settings: dict[str, str] | None = None

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        body = asked.get("query", "").encode() + b"\n" + self._body()
        words = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers["Authorization"] != f"Basic {words}":
            self._refuse(403, "516", f"Code: 516. {USER}: Authentication failed.")
            return
        try:
            answer = self._answer(body.strip(b"\n") if b"RowBinary" not in body else body, asked)
        except RuntimeError as error:
            found = re.search(r"Code: (\d+)\.", str(error))
            self._refuse(500, found[1] if found else "1002", str(error))
        else:
            self._send(200, answer, {})

    def _answer(self, statement: bytes, asked: dict[str, str]) -> bytes:
        connection = self._connected(asked)
        if self.version and b"version()" in statement:
            statement = statement.replace(b"version()", f"'{self.version}'".encode())
        inserted = _INSERT.match(statement)
        if inserted is not None:
            return _inserted(connection, inserted, statement[inserted.end() :])
        form = asked.get("default_format", "TabSeparated")
        answer: bytes = connection.query(statement.decode(), form).bytes()
        return answer

    def _connected(self, asked: dict[str, str]) -> Any:
        """The engine with the settings of a request: mostly those of the one before."""
        import chdb

        settings = {name: asked[name] for name in asked if not _OF_HTTP.fullmatch(name)}
        settings["database"] = asked.get("database", "default")
        if settings != self.settings:
            self.finish_engine()
            self.engine, self.settings = chdb.connect(self.folder), settings
            self.engine.query(f"USE `{settings['database']}`")
            for name in sorted(settings.keys() - {"database"}, key="readonly".__eq__):
                self.engine.query(f"SET {name} = '{settings[name]}'")
        return self.engine

    def finish_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()

    def finish(self) -> None:
        self.finish_engine()
        super().finish()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _refuse(self, status: int, code: str, told: str) -> None:
        self._send(status, told.encode(), {"X-ClickHouse-Exception-Code": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-ClickHouse-Format", "TabSeparated")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        pass


def _inserted(connection: Any, inserted: re.Match[bytes], rows: bytes) -> bytes:
    """Insert rows, which chDB takes from a file."""
    target, form = inserted[1].decode().rsplit(" FORMAT ", 1)
    with tempfile.NamedTemporaryFile() as file:
        file.write(rows)
        file.flush()
        connection.query(f"{target} FROM INFILE '{file.name}' FORMAT {form}")
    return b""


def _serve(folder: str, port: int, version: str) -> None:
    import chdb

    _Handler.folder, _Handler.version = folder, version
    kept = chdb.connect(folder)  # the engine ends with its last connection
    kept.query("SELECT 1")
    ThreadingHTTPServer(("127.0.0.1", port), _Handler).serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
