"""A PostgreSQL of the tests' own: a new cluster in a temporary folder, on loopback, gone afterwards."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, None where there is none."""
    on_path = shutil.which("initdb")
    places = [Path(on_path).resolve().parent] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in places if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def _other_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: arguments of `subprocess` to run it as `postgres` then."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("postgres")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class PostgresServer:
    """A context manager. hang, go_on: SIGSTOP and SIGCONT to all its processes."""

    def __init__(self, programs: Path) -> None:
        self._programs, self._as = programs, _other_user()
        self._folder = Path(tempfile.mkdtemp(prefix="calico-postgres-"))
        if self._as:
            os.chown(self._folder, self._as["user"], self._as["group"])
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._numbers = itertools.count()

    def new_database(self) -> str:
        """The URL of a database without tables."""
        name = f"calico_{next(self._numbers)}"
        engine = sa.create_engine(self._url_of("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url_of(name)

    def _url_of(self, database: str) -> str:
        return f"postgresql+psycopg://calico@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> PostgresServer:
        data = self._folder / "data"
        command = [str(self._programs / "initdb"), "-D", str(data), "-U", "calico", "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._as)
        self._log = (self._folder / "log.txt").open("wb")
        self.start()
        return self

    def start(self) -> None:
        """Again after `kill`, with what was committed."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options],
            stdout=self._log, stderr=self._log, cwd=self._folder, start_new_session=True, **self._as,
        )  # fmt: skip
        until = time.monotonic() + 60
        while True:
            try:
                sa.create_engine(self._url_of("postgres"), poolclass=sa.NullPool).connect().close()
                return
            except sa.exc.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    told = (self._folder / "log.txt").read_text(errors="replace")[-1000:]
                    self.__exit__()
                    raise RuntimeError(f"PostgreSQL did not start: {told}") from None
                time.sleep(0.1)

    def kill(self) -> None:
        """All of it at once, as when the machine's power goes."""
        self._send(signal.SIGKILL, [self._process.pid, *self._children()])
        self._process.wait(20)
        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _children(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self._process.pid:
                found.append(int(path.parent.name))
        return found

    def hang(self) -> None:
        self._send(signal.SIGSTOP, [self._process.pid, *self._children()])

    def go_on(self) -> None:
        self._send(signal.SIGCONT, [*self._children(), self._process.pid])

    @staticmethod
    def _send(number: signal.Signals, pids: list[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # a connection's, which ended meanwhile
                os.kill(pid, number)

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.go_on()
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            self._process.wait(20)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)
