"""The command line as a stranger uses it: what it prints works as printed, and its exit codes say what happened."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from support.cli_process import Spawned, run
from support.gateway_process import free_port, until

OK, FAILED, USAGE, CONFIG, AUTH, NOT_FOUND, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
SECRET = "0123456789abcdef0123456789abcdef"
KEYS = {"PUSHWIRE_KEYS": json.dumps([{"kid": "main", "alg": "HS256", "secret": SECRET}])}


class Dev:
    """`pushwire serve --dev` and what it printed."""

    def __init__(self, folder, port=None):
        self.data = folder / "dev"
        self.ready_file = folder / "ready.json"
        self.port = port or free_port()
        self.process = Spawned(
            "serve", "--dev", "--data", str(self.data), "--port", str(self.port), "--ready-file", str(self.ready_file)
        )
        self.url = self.process.line("URL").split()[1]
        self.token = self.process.line("token").split()[1]
        self.exports = self.process.line("export PUSHWIRE_URL=").strip()
        self.consume = self.process.line().strip()
        self.curl = self.process.line("curl").strip().removesuffix("\\") + self.process.line("-H").strip()

    @property
    def env(self):
        return dict(word.split("=", 1) for word in shlex.split(self.exports)[1:])

    def sigterm(self):
        self.process.process.send_signal(signal.SIGTERM)
        return self.process.wait()


@pytest.fixture
def dev(tmp_path):
    gateway = Dev(tmp_path)
    yield gateway
    gateway.process.end()


def _curl(line):
    """Run the printed line in a shell; without curl on this machine, send what it would send."""
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    pytest.skip("curl is not installed here: the printed line cannot be run")


def test_what_serve_dev_prints_works_as_printed(dev):
    assert dev.url == f"http://127.0.0.1:{dev.port}"
    assert dev.env == {"PUSHWIRE_URL": dev.url, "PUSHWIRE_TOKEN": dev.token}
    (receipt,) = _curl(dev.curl)["receipts"]
    assert (receipt["seq"], receipt["duplicate"]) == (1, False)
    consumed = run(*shlex.split(dev.consume)[1:], "-n", "1", env=dev.env)
    assert consumed.returncode == OK, consumed.stderr
    line = json.loads(consumed.stdout)
    assert (line["id"], line["seq"], line["attempt"], line["data"]) == (receipt["id"], 1, 1, {"hello": "world"})


def test_the_ready_file_says_where_and_who(dev):
    ready = until(lambda: dev.ready_file.exists() and json.loads(dev.ready_file.read_bytes()), "the ready file")
    assert ready == {
        "url": dev.url,
        "port": dev.port,
        "pid": dev.process.process.pid,
    }


def test_publish_and_consume_through_the_shell(dev):
    one = run("publish", "orders", '{"n": 1}', "--id", "a-1", "--key", "k", "-H", "trace:x:y", env=dev.env)
    again = run("publish", "orders", '{"n": 1}', "--id", "a-1", "--key", "k", "-H", "trace:x:y", env=dev.env)
    assert json.loads(one.stdout) == {"id": "a-1", "seq": 1, "duplicate": False}
    assert json.loads(again.stdout) == {"id": "a-1", "seq": 1, "duplicate": True}
    many = run("publish", "orders", "-", env=dev.env, stdin='{"n": 2}\nplain text\n3\n')
    assert [json.loads(line)["seq"] for line in many.stdout.splitlines()] == [2, 3, 4]
    consumed = run("consume", "orders", "--group", "g", "-n", "3", env=dev.env)
    assert [json.loads(line)["data"] for line in consumed.stdout.splitlines()] == [{"n": 1}, {"n": 2}, "plain text"]
    # The three are acked, the fourth is not.
    rest = run("consume", "orders", "--group", "g", "-n", "1", env=dev.env)
    assert json.loads(rest.stdout)["data"] == 3
    assert (consumed.returncode, rest.returncode, many.returncode) == (OK, OK, OK)
    assert one.stderr == many.stderr == consumed.stderr == ""


def test_a_token_carries_just_the_rights_it_was_given(dev):
    made = run("token", "--dev", "--data", str(dev.data), "--sub", "ann", "--allow", "publish:orders", "--ttl", "60s")
    assert made.returncode == OK, made.stderr
    env = {**dev.env, "PUSHWIRE_TOKEN": made.stdout.strip()}
    assert run("publish", "orders", "1", env=dev.env).returncode == OK
    assert run("publish", "orders", "2", env=env).returncode == OK
    refused = run("publish", "other", "2", env=env)
    assert (refused.returncode, refused.stdout) == (AUTH, "")
    assert run("consume", "orders", "-n", "1", env=env).returncode == AUTH


def test_exit_codes_of_clients(dev):
    narrow = run(
        "token", "--dev", "--data", str(dev.data), "--sub", "a", "--allow", "publish:*", "--allow", "consume:*@*"
    )
    env = {**dev.env, "PUSHWIRE_TOKEN": narrow.stdout.strip()}
    bad = {**dev.env, "PUSHWIRE_TOKEN": dev.token[:-4] + "AAAA"}
    assert run("publish", "orders", "1", "--id", "x", env=dev.env).returncode == OK
    conflict = run("publish", "orders", "2", "--id", "x", env=dev.env)
    assert (conflict.returncode, conflict.stdout) == (FAILED, "")
    assert conflict.stderr.startswith("pushwire: ")
    assert run("publish", env=dev.env).returncode == USAGE
    assert run("publish", "orders", "-", "--id", "x", env=dev.env).returncode == USAGE
    assert run("consume", "orders", "-n", "0", env=dev.env).returncode == USAGE
    assert run("consume", "orders", "--prefetch", "many", env=dev.env).returncode == USAGE
    assert run("frobnicate", env=dev.env).returncode == USAGE
    assert run("publish", "orders", "1", env=bad).returncode == AUTH
    assert run("consume", "orders", "-n", "1", env=bad).returncode == AUTH
    assert run("publish", "nowhere", "1", env=env).returncode == NOT_FOUND
    assert run("consume", "nowhere", "-n", "1", env=env).returncode == NOT_FOUND
    assert run("consume", "orders", "--group", "nobody", "-n", "1", env=env).returncode == NOT_FOUND


def test_nobody_listening_is_said_while_it_tries_again():
    url = f"ws://127.0.0.1:{free_port()}"
    command = Spawned("publish", "orders", "1", "--url", url, "--token", "a.b.c")
    try:
        command.line("connecting: ")
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == INTERRUPTED
        assert not [line for line in command.lines if "Traceback" in line]
    finally:
        command.end()


def test_sigterm_drains_and_exits_0_and_a_consumer_comes_back_by_itself(dev, tmp_path):
    consumer = Spawned("consume", "orders", "-n", "2", env=dev.env)
    try:
        run("publish", "orders", "1", env=dev.env)
        assert json.loads(consumer.line("{"))["data"] == 1
        assert dev.sigterm() == OK
        assert not [line for line in dev.process.lines if "Traceback" in line]
        successor = Dev(tmp_path, dev.port)
        try:
            assert run("publish", "orders", "2", env=dev.env).returncode == OK
            assert json.loads(consumer.line("{"))["data"] == 2
            assert consumer.wait() == OK
        finally:
            successor.process.end()
    finally:
        consumer.end()


def test_the_dev_secret_is_private_and_survives_a_restart(dev, tmp_path):
    secret = dev.data / "dev-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(dev.data.stat().st_mode) == 0o700
    for file in dev.data.iterdir():
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file
    before = secret.read_bytes()
    assert dev.sigterm() == OK
    successor = Dev(tmp_path, dev.port)
    try:
        assert secret.read_bytes() == before
        assert run("publish", "orders", "1", env=dev.env).returncode == OK  # with the token of the first run
    finally:
        successor.process.end()


def test_ctrl_c_ends_a_consumer_with_130(dev):
    consumer = Spawned("consume", "orders", env=dev.env)
    try:
        run("publish", "orders", "1", env=dev.env)
        consumer.line("{")
        consumer.process.send_signal(signal.SIGINT)
        assert consumer.wait() == INTERRUPTED
        assert not [line for line in consumer.lines if "Traceback" in line]
    finally:
        consumer.end()


def test_sigterm_ends_a_consumer_with_130_and_without_a_word(dev):
    run("publish", "orders", "1", env=dev.env)
    consumer = Spawned("consume", "orders", "--settle", "hold", env=dev.env)
    try:
        consumer.line("{")
        consumer.process.send_signal(signal.SIGTERM)
        assert consumer.wait() == INTERRUPTED
        assert len(consumer.lines) == 1, consumer.lines
    finally:
        consumer.end()
    assert json.loads(run("consume", "orders", "-n", "1", env=dev.env).stdout)["redelivered"] is True


def _expired(dev):
    made = run("token", "--dev", "--data", str(dev.data), "--sub", "a", "--allow", "publish:*", "--ttl", "60s")
    head, claims, signature = made.stdout.strip().split(".")
    values = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    values["exp"] -= 3600
    return ".".join((head, base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("="), signature))


def _revoked(dev):
    made = run("token", "--dev", "--data", str(dev.data), "--sub", "gone", "--allow", "publish:*").stdout.strip()
    assert run("revoke", "--sub", "gone", env=dev.env).returncode == 0
    return made


def test_a_gateway_in_development_makes_copies_of_its_database(dev):
    done = run("backup", "monday.db", env=dev.env)
    assert done.returncode == 0, done.stderr
    assert (dev.data / "backups" / "monday.db").stat().st_size > 0
    checked = run("db", "check", str(dev.data / "backups" / "monday.db"))
    assert checked.returncode == 0, checked.stderr


def test_the_hint_for_a_topic_that_does_not_exist_fits_the_command(dev):
    maker = ("--allow", "publish:nowhere", "--allow", "consume:nowhere@g")
    narrow = run("token", "--dev", "--data", str(dev.data), "--sub", "a", *maker).stdout.strip()
    assert "create:nowhere" in run("publish", "nowhere", "1", "--token", narrow, env=dev.env).stderr
    asked = run("topic", "info", "nowhere", env=dev.env)
    assert "create" not in asked.stderr, asked.stderr
    assert "admin" not in asked.stderr, asked.stderr


def test_a_client_that_is_refused_says_what_can_be_done(dev):
    rights = ("--allow", "consume:orders@billing")
    narrow = run("token", "--dev", "--data", str(dev.data), "--sub", "a", *rights).stdout.strip()
    said = {
        "expired": run("publish", "orders", "1", "--token", _expired(dev), env=dev.env),
        "no token": run("publish", "orders", "1", "--token", "bad", env=dev.env),
        "for this gateway": run("publish", "orders", "1", "--token", dev.token[:-4] + "AAAA", env=dev.env),
        "publish:orders": run("publish", "orders", "1", "--token", narrow, env=dev.env),
        "consume:orders@default": run("consume", "orders", "--token", narrow, env=dev.env),
        "revoked?": run("publish", "orders", "1", "--token", _revoked(dev), env=dev.env),
    }
    for words, done in said.items():
        assert (done.returncode, done.stdout) == (AUTH, "")
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("publish", "orders", "1"), "PUSHWIRE_TOKEN"),
        (("publish", "orders", "1", "--token", "a.b.c", "--url", "127.0.0.1:1"), "ws://"),
    ],
)
def test_a_wrong_word_is_2_and_says_which(args, says):
    done = run(*args)
    assert (done.returncode, done.stdout) == (USAGE, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_that_no_gateway_would_take_is_not_made_and_one_without_rights_is_pointed_out():
    long = run("token", "--sub", "a", "--allow", "publish:*", "--ttl", "2h", env=KEYS)
    assert (long.returncode, long.stdout) == (CONFIG, "")
    assert "token_lifetime_s_max" in long.stderr
    idle = run("token", "--sub", "a", env=KEYS)
    assert idle.returncode == OK
    assert "--allow" in idle.stderr


def test_a_tls_file_that_cannot_be_used_is_named_by_check_config_and_serve(tmp_path):
    (tmp_path / "no.pem").write_text("nothing")
    for cert, mode, says in (
        ("none.pem", 0o600, "none.pem: No such file"),
        ("no.pem", 0o644, "no.pem can be read or changed by others"),
        ("no.pem", 0o600, "are no PEM chain"),
    ):
        (tmp_path / "no.pem").chmod(mode)
        env = {
            **KEYS,
            "PUSHWIRE_TLS_CERT_FILE": str(tmp_path / cert),
            "PUSHWIRE_TLS_KEY_FILE": str(tmp_path / "no.pem"),
            "PUSHWIRE_DATA": str(tmp_path / "data"),
        }
        for done in (run("check-config", env=env), run("serve", "--port", "0", env=env)):
            assert done.returncode == CONFIG
            assert says in done.stderr
            assert "Traceback" not in done.stderr


def test_without_its_extra_the_command_says_what_to_install(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No module named click', name='click')")
    done = run("--help", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (CONFIG, "")
    assert "pushwire[gateway]" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_config_shows_what_is_in_force_and_no_secret(tmp_path):
    config = tmp_path / "pushwire.toml"
    config.write_text(f'port = 7000\nprefetch = 64\nkeys = [{{kid = "a", alg = "HS256", secret = "{SECRET}"}}]\n')
    done = run("check-config", "--config", str(config), env={"PUSHWIRE_PORT": "7001"})
    assert done.returncode == OK, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["port"], shown["prefetch"], shown["ack_timeout_s"]) == (7001, 64, 30)
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("toml", "env", "says"),
    [
        ("port = 70000", {}, "port"),
        ("no_such_setting = 1", {}, "no_such_setting"),
        ("port = ", {}, "pushwire.toml"),
        ('keys = [{kid = "a", alg = "HS256", secret = "short"}]', {}, "32"),
        ('keys = [{kid = "a", alg = "RS256", secret = "0123456789abcdef0123456789abcdef"}]', {}, "pem_file"),
        ("", {}, "no keys"),
        ("", {"PUSHWIRE_PREFETCH": "2000"}, "prefetch"),
    ],
)
def test_a_bad_configuration_is_3_and_says_what_is_wrong(tmp_path, toml, env, says):
    config = tmp_path / "pushwire.toml"
    config.write_text(toml)
    for command in (["check-config"], ["serve", "--data", str(tmp_path / "data"), "--port", "0"]):
        args = command if "--port" not in command or "port" not in toml else command[:-2]
        done = run(*args, "--config", str(config), env=env)
        assert done.returncode == CONFIG, done.stdout + done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stderr


def test_strict_makes_unknown_variables_errors():
    env = {**KEYS, "PUSHWIRE_PREFECTH": "5"}
    lax, strict = run("check-config", env=env), run("check-config", "--strict", env=env)
    assert (lax.returncode, strict.returncode) == (OK, CONFIG)
    assert "PUSHWIRE_PREFECTH" in lax.stderr
    assert "PUSHWIRE_PREFECTH" in strict.stderr


def test_serve_says_why_it_cannot_start(dev, tmp_path):
    taken = run("serve", "--data", str(tmp_path / "a"), "--port", str(dev.port), env=KEYS)
    assert (taken.returncode, "in use" in taken.stderr) == (CONFIG, True), taken.stderr
    locked = run("serve", "--data", str(dev.data), "--port", "0", env=KEYS)
    assert (locked.returncode, str(dev.process.process.pid) in locked.stderr) == (CONFIG, True), locked.stderr
    outside = run("serve", "--dev", "--host", "0.0.0.0", "--data", str(tmp_path / "b"))
    assert (outside.returncode, "loopback" in outside.stderr) == (CONFIG, True)
    (tmp_path / "file").write_text("not a directory")
    nowhere = run("serve", "--data", str(tmp_path / "file"), "--port", "0", env=KEYS)
    assert nowhere.returncode == CONFIG, nowhere.stderr
    in_dev = run("serve", "--dev", "--data", str(tmp_path / "file"), "--port", "0")
    assert (in_dev.returncode, "cannot use the directory" in in_dev.stderr) == (CONFIG, True), in_dev.stderr
    for done in (taken, locked, nowhere, in_dev):
        assert "Traceback" not in done.stderr


def test_memory_keeps_nothing_and_works(tmp_path):
    gateway = Spawned("serve", "--dev", "--data", "memory:", "--port", str(free_port()), cwd=tmp_path)
    try:
        exports = gateway.line("export").strip()
        env = dict(word.split("=", 1) for word in shlex.split(exports)[1:])
        assert run("publish", "orders", "1", env=env).returncode == OK
        assert json.loads(run("consume", "orders", "-n", "1", env=env).stdout)["data"] == 1
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait() == OK
    finally:
        gateway.end()
    assert not list(tmp_path.iterdir())


def test_help_and_version():
    assert re.fullmatch(r"pushwire \d+\.\d+\.\d+, protocol pushwire\.v1\n", run("--version").stdout)
    for command in ([], ["serve"], ["token"], ["publish"], ["consume"], ["check-config"]):
        done = run(*command, "--help")
        assert done.returncode == OK
        assert "Usage:" in done.stdout


def test_the_gateway_of_serve_dev_is_only_on_loopback(dev):
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    local = [line.split()[1] for line in listening.splitlines() if line.split()[3] == "0A"]
    assert [address for address in local if address.endswith(f":{dev.port:04X}")] == [f"0100007F:{dev.port:04X}"]
