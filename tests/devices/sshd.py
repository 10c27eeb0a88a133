"""A real sshd on loopback with keys, port and configuration of its own; nothing of the machine's is read or changed."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
MISSING = next(
    (
        what
        for what, path in (("sshd (apt-get install openssh-server)", SSHD), ("ssh", shutil.which("ssh")))
        if not path
    ),
    None,
)

needs_sshd = pytest.mark.skipif(MISSING is not None, reason=f"{MISSING} is not installed")

SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv {environment}
{extra}
"""

CLIENT = """
Host *
  User {user}
  IdentityFile {folder}/client_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  BatchMode yes
"""


class Server:
    """A running sshd; `url` names it, `ssh` is what SOTTOVOCE_SSH takes, `root` is where files sent to it are kept."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"ssh://127.0.0.1:{port}"
        self.ssh = f"ssh -F {folder}/client_config"
        self.root = folder / "cache" / "sottovoce"

    def trust(self, port: int) -> None:
        """Make the server's key known at `port` too."""
        key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        with (self.folder / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{port} {key}\n")


def new_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    folder: Path, extra: str = "", wrapper: tuple[str, ...] = (), environment: str | None = None
) -> Iterator[Server]:
    """An sshd with its files in `folder`.

    `extra` are lines of configuration, `wrapper` words before the command, `environment` is that of sessions.
    """
    import getpass

    environment = environment or f"XDG_CACHE_HOME={folder}/cache"
    port = free_port()
    new_key(folder / "host_key")
    new_key(folder / "client_key")
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder, extra=extra, environment=environment))
    (folder / "client_config").write_text(CLIENT.format(folder=folder, user=getpass.getuser()))
    server = Server(folder, port)
    server.trust(port)
    with suppress(PermissionError):
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD
    command = [*wrapper, SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")]
    daemon = subprocess.Popen(command)
    try:
        wait_for(port)
        yield server
    finally:
        daemon.terminate()
        daemon.wait()


def wait_for(port: int) -> None:
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("sshd does not answer")


class Cutter:
    """A way to `port` whose first connections are cut when so many bytes went towards it."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.target, self.cuts, self.connections = port, cuts, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                limit = self.cuts[self.connections] if self.connections < len(self.cuts) else None
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._pass, args=(client, server, limit), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, None), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if limit is not None and (limit := limit - len(data)) < 0:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other thread closes the other one
