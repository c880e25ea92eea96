"""RabbitMQ with its web-STOMP plugin: the node's own virtual machine, started as the package's script starts it.

Owns two processes, the broker and Erlang's port mapper, which the broker would otherwise leave behind as a daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import peers
from bench.contestants.base import Installed
from bench.processes import LOOPBACK, ProcessFailed, Server, free_port, port_ready

PLUGINS = "usr/lib/rabbitmq/lib"
# As the start script of the package sets them.
VM_FLAGS = (
    "+W", "w", "+P", "1048576", "+t", "5000000", "+stbt", "db", "+zdbbl", "128000",
    "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
)  # fmt: skip
CONFIG = """
listeners.tcp = none
stomp.listeners.tcp = none
web_stomp.tcp.ip = {host}
web_stomp.tcp.port = {port}
"""


class RabbitMQ(Installed):
    name = "rabbitmq"
    program = "epmd"
    package = "rabbitmq-server"
    durable = (
        "durable queue, persistent messages, synced before the confirmation (1,100 messages: 1,061 syncs); "
        "pushed before the sync"
    )
    dialect = "stomp"
    subprotocol = "v12.stomp"
    path = "/ws"

    def __init__(self, folder: Path, cpu: int | None) -> None:
        super().__init__(folder, cpu)
        self._mapper: Server | None = None
        self._env: dict[str, str] = {}

    def missing(self) -> str | None:
        found = peers.folder(PLUGINS) and peers.folder("usr/lib/erlang")
        return super().missing() if found else "no rabbitmq-server here; make bench-peers fetches it"

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        erlang, home = peers.folder("usr/lib/erlang"), next((peers.folder(PLUGINS) or Path()).glob("rabbitmq_server-*"))
        if erlang is None:
            raise ProcessFailed("no Erlang")
        self.port = free_port()
        (data / "rabbitmq.conf").write_text(CONFIG.format(host=LOOPBACK, port=self.port))
        (data / "enabled_plugins").write_text("[rabbitmq_web_stomp].\n")
        plugins, binaries = home / "plugins", next(erlang.glob("erts-*")) / "bin"
        self._env = {
            "ROOTDIR": str(erlang), "BINDIR": str(binaries), "EMU": "beam", "PROGNAME": "erl", "HOME": str(data),
            "ERL_LIBS": str(plugins), "ERL_EPMD_PORT": str(free_port()), "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": "bench@localhost", "RABBITMQ_HOME": str(home), "RABBITMQ_PLUGINS_DIR": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq.conf"), "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(data / "mnesia"), "RABBITMQ_LOG_BASE": str(data),
        }  # fmt: skip
        self._start_mapper(data / "mapper", binaries / "epmd")
        code = next(plugins.glob("rabbit-*")) / "ebin"
        return [
            str(binaries / "erlexec"), "-noinput", "-s", "rabbit", "boot", "-boot", "start_sasl", *VM_FLAGS,
            "-pa", str(code), "-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false",
            "-kernel", "prevent_overlapping_partitions", "false", "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
            "-sname", "bench@localhost",
        ]  # fmt: skip

    def _start_mapper(self, folder: Path, program: Path) -> None:
        if self._mapper is not None:
            self._mapper.stop()
        folder.mkdir(exist_ok=True)
        self._mapper = Server("epmd", folder)
        port = self._env["ERL_EPMD_PORT"]
        self._mapper.start([str(program), "-port", port], self.env(), self._cpu, port_ready(int(port)))

    def env(self) -> dict[str, str]:
        return {**super().env(), **self._env}

    def stop(self) -> None:
        super().stop()
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            mapper.stop()
