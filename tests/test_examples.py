"""The examples of a service, of compose and of Kubernetes: checked by the programs and schemas that they are for.

The unit is really run by `make systemd-test`. There is neither docker nor Kubernetes here: what their files say is held
against their schemas, and against what ringserve needs; the seccomp profile and HAProxy's configuration are used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Serving
from wire import Wire, eventually, get

from ringserve.config.file import load
from ringserve.config.settings import Config
from ringserve.processes.machine import READY_S
from ringserve.version import __version__

HOME = Path(__file__).resolve().parent.parent
EXAMPLES = HOME / "examples"
SYSTEMD = EXAMPLES / "systemd"
DOCKER = EXAMPLES / "docker"
KUBERNETES = EXAMPLES / "kubernetes"
RINGSERVE = str(Path(sys.executable).with_name("ringserve"))
WAIT_S = 60
DEFAULTS = Config()


def run(*command: str) -> tuple[int, str]:
    """Status and output of a command. One that is not there is a failure: what was not checked is not tested."""
    if shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.fail(f"there is no {command[0]} on this machine; `make test` installs it", pytrace=False)
    environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_S,
        env=environment, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def seconds(text: str) -> float:
    """`15s` of compose, or systemd's plain number."""
    return float(text.removesuffix("s"))


# -- systemd ----------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """What a unit says, by key, in its order."""
    said: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _equals, value = line.partition("=")
            said.setdefault(key, []).append(value)
    return said


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy in which the program is one that exists: systemd-analyze looks."""
    directory = tmp_path / "units"
    shutil.copytree(SYSTEMD, directory)
    service = directory / "ringserve.service"
    service.write_text(service.read_text().replace("/opt/ringserve/bin/ringserve", RINGSERVE))
    return directory


def verify(units: Path) -> tuple[int, str]:
    return run(
        "systemd-analyze", "verify", "--man=no", str(units / "ringserve.service"), str(units / "ringserve.socket")
    )


@pytest.mark.parametrize("socket_activated", [False, True])
def test_systemd_has_nothing_to_say_against_the_units(units: Path, socket_activated: bool) -> None:
    if not socket_activated:
        shutil.rmtree(units / "ringserve.service.d")
    assert verify(units) == (0, "")


def test_systemd_would_say_it(units: Path) -> None:
    service = units / "ringserve.service"
    service.write_text(service.read_text().replace("ProtectSystem=strict", "ProtectSystem=strickt"))
    assert "strickt" in verify(units)[1]


@pytest.mark.parametrize(("socket_activated", "exposure"), [(False, 1.6), (True, 0.7)])
def test_systemd_finds_the_service_little_exposed(units: Path, socket_activated: bool, exposure: float) -> None:
    if not socket_activated:
        shutil.rmtree(units / "ringserve.service.d")
    threshold = f"--threshold={exposure * 10:.0f}"
    status, said = run("systemd-analyze", "security", "--offline=true", threshold, str(units / "ringserve.service"))
    assert status == 0, said
    assert "Overall exposure level" in said


def test_the_unit_waits_for_what_ringserve_waits_for() -> None:
    said = unit("ringserve.service")
    assert seconds(said["TimeoutStopSec"][0]) > DEFAULTS.drain_timeout_s
    assert seconds(said["TimeoutStartSec"][0]) > READY_S  # a second each
    assert seconds(said["WatchdogSec"][0]) > 2 * DEFAULTS.worker_timeout_s
    assert said["KillMode"] == ["mixed"]
    descriptors = DEFAULTS.connections_max + DEFAULTS.open_files_max + 2 * DEFAULTS.pipes_max
    assert int(said["LimitNOFILE"][0]) > descriptors


def test_the_service_with_a_socket_has_no_capability() -> None:
    said = unit("ringserve.service.d/socket.conf")
    assert (said["CapabilityBoundingSet"], said["AmbientCapabilities"]) == ([""], [""])
    assert said["PrivateNetwork"] == ["yes"]


def test_the_configuration_of_the_service_is_one() -> None:
    assert load(str(SYSTEMD / "ringserve.toml")).values["directory"] == "/srv/www"


# -- compose ----------------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return made


def schema_of_compose(path: Path) -> tuple[int, str]:
    return run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path))


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    status, said = schema_of_compose(DOCKER / "compose.yaml")
    assert status == 0, said
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("cap_drop:", "cap_dropp:"))
    assert schema_of_compose(wrong)[0] == 1


def test_the_replicas_of_compose_are_two_and_reached_by_haproxy_alone() -> None:
    services, networks = compose()["services"], compose()["networks"]
    replica, proxy = services["ringserve"], services["haproxy"]
    assert replica["deploy"]["replicas"] == 2
    assert "ports" not in replica
    assert [networks[name].get("internal") for name in replica["networks"]] == [True]
    assert set(replica["networks"]) < set(proxy["networks"])
    assert replica["environment"]["RINGSERVE_WORKERS"] == "auto"


def test_the_replicas_of_compose_are_confined_and_have_time_to_drain() -> None:
    replica = compose()["services"]["ringserve"]
    assert (replica["read_only"], replica["cap_drop"]) == (True, ["ALL"])
    profile = next(each for each in replica["security_opt"] if each.startswith("seccomp:"))
    assert (DOCKER / profile.partition(":")[2]).is_file()
    assert seconds(replica["stop_grace_period"]) > DEFAULTS.drain_timeout_s
    assert replica["healthcheck"]["test"] == ["CMD", "/opt/ringserve/bin/ringserve", "healthcheck"]
    assert all(volume.endswith(":ro") for service in compose()["services"].values() for volume in service["volumes"])


# -- HAProxy ----------------------------------------------------------------------------------------------------


def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    status, said = run("haproxy", "-c", "-f", str(DOCKER / "haproxy.cfg"))
    assert status == 0, said
    assert "[WARNING]" not in said
    wrong = tmp_path / "haproxy.cfg"
    wrong.write_text((DOCKER / "haproxy.cfg").read_text().replace("balance leastconn", "balance leastcon"))
    assert run("haproxy", "-c", "-f", str(wrong))[0] == 1


class NameServer:
    """Answers every question for addresses of version 4, as docker's does for the name of a service."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            end = question.index(b"\0", 12) + 5
            (kind,) = struct.unpack_from("!H", question, end - 4)
            addresses = self._addresses if kind == 1 else []
            head = question[:2] + struct.pack("!HHHHH", 0x8580, 1, len(addresses), 0, 0)
            answers = [struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in addresses]
            self._socket.sendto(head + question[12:end] + b"".join(answers), client)

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


@contextmanager
def haproxy(directory: Path, port: int, name_server: NameServer) -> Iterator[str]:
    """HAProxy by the example's configuration, but for the three addresses that are docker's. Yields its URL."""
    text, said = (DOCKER / "haproxy.cfg").read_text(), directory / "said"
    # Ours is closed once HAProxy has its own: if it ends, its clients are refused and do not wait.
    with socket.create_server(("127.0.0.1", 0)) as listener, said.open("w") as output:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for theirs, ours in (
            ("127.0.0.11:53", f"127.0.0.1:{name_server.port}"),
            ("bind :8080", f"bind fd@{listener.fileno()}"),
            ("ringserve:8080", f"ringserve:{port}"),
        ):
            assert text.count(theirs) == 1
            text = text.replace(theirs, ours)
        (directory / "haproxy.cfg").write_text(text)
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, pass_fds=[listener.fileno()], env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        )  # fmt: skip
    try:
        yield url
    finally:
        process.terminate()
        process.wait(WAIT_S)
        print(said.read_text())  # seen if the test fails


def test_a_replica_that_ends_fails_no_request_through_haproxy(site: Path, serving: Serving, tmp_path: Path) -> None:
    (site / "page").write_text("page")
    first = serving(host="127.0.1.1", port=0, server_name="first")
    port = int(first.url.rstrip("/").rpartition(":")[2])
    serving(host="127.0.1.2", port=port, server_name="second")
    name_server = NameServer(["127.0.1.1", "127.0.1.2"])

    def ask(url: str) -> tuple[int, str]:
        with Wire(url) as wire:
            answer = wire.ask(get("/page"))
        return answer.status, answer.fields.get("server", "")

    try:
        with haproxy(tmp_path, port, name_server) as url:
            eventually(
                "both replicas answer", lambda: {ask(url) for _try in range(8)} == {(200, "first"), (200, "second")}
            )
            answers = [ask(url) for _request in range(50)]
            ending = threading.Thread(target=first.stop)
            ending.start()
            answers += [ask(url) for _request in range(200)]
            ending.join()
            answers += [ask(url) for _request in range(50)]
    finally:
        name_server.stop()
    assert {status for status, _name in answers} == {200}
    assert {name for _status, name in answers[-50:]} == {"second"}


# -- Kubernetes -------------------------------------------------------------------------------------------------

MANIFESTS = ("deployment.yaml", "service.yaml", "hpa.yaml", "pdb.yaml")
RELEASES = ("1.30", "1.37")
"""The first that knows `preStop: sleep`, and the newest that kubernetes-validate has the schemas of."""


def manifest(name: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text())
    return made


def schema_of_kubernetes(release: str, *paths: Path) -> tuple[int, str]:
    return run(sys.executable, "-m", "kubernetes_validate", "-k", release, "--strict", *map(str, paths))


@pytest.mark.parametrize("release", RELEASES)
def test_the_manifests_are_what_kubernetes_takes(release: str) -> None:
    status, said = schema_of_kubernetes(release, *(KUBERNETES / name for name in MANIFESTS))
    assert status == 0, said
    assert said.count(" passed ") == len(MANIFESTS)


def test_a_misspelt_manifest_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "deployment.yaml"
    wrong.write_text((KUBERNETES / "deployment.yaml").read_text().replace("runAsNonRoot:", "runAsNonroot:"))
    status, said = schema_of_kubernetes(RELEASES[-1], wrong)
    assert status == 1
    assert "runAsNonroot" in said


def test_the_kustomization_names_all_that_there_is() -> None:
    kustomization = manifest("kustomization.yaml")
    assert set(kustomization["resources"]) == set(MANIFESTS)
    (generated,) = kustomization["configMapGenerator"]
    assert all((KUBERNETES / path).is_file() for path in generated["files"])
    (volume,) = manifest("deployment.yaml")["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == generated["name"]


def test_the_manifests_mean_the_same_pods() -> None:
    deployment = manifest("deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service.yaml")["spec"]["selector"] == labels
    assert manifest("pdb.yaml")["spec"]["selector"]["matchLabels"] == labels
    target = manifest("hpa.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]


def pod() -> dict[str, Any]:
    made: dict[str, Any] = manifest("deployment.yaml")["spec"]["template"]["spec"]
    return made


def test_the_pod_has_time_to_drain() -> None:
    (container,) = pod()["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > waits + DEFAULTS.drain_timeout_s


def test_the_pod_is_confined() -> None:
    (container,) = pod()["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    context = pod()["securityContext"]
    assert context["runAsNonRoot"]
    dockerfile = (HOME / "Dockerfile").read_text()
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    assert container["image"] == f"ringserve:{__version__}"


def test_the_service_of_that_name_sets_no_setting_in_the_pod() -> None:
    # Kubernetes gives every pod <SERVICE>_PORT=tcp://address:port of each Service, and RINGSERVE_PORT is --port.
    assert manifest("service.yaml")["metadata"]["name"] == "ringserve"
    assert pod()["enableServiceLinks"] is False


def test_all_that_is_asked_of_the_pod_is_the_port_that_it_has() -> None:
    (container,) = pod()["containers"]
    (port,) = container["ports"]
    probes = [container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")]
    (served,) = manifest("service.yaml")["spec"]["ports"]
    assert {*probes, served["targetPort"]} == {port["name"]}
    assert f"RINGSERVE_PORT={port['containerPort']}" in (HOME / "Dockerfile").read_text()


def test_a_volume_of_a_config_map_is_served_and_its_change_is_seen(site: Path, serving: Serving) -> None:
    def project(version: str) -> None:
        """As the kubelet does it: files in a new directory, and a link to it that is replaced at once."""
        (site / f"..{version}").mkdir()
        (site / f"..{version}" / "index.html").write_text(version)
        (site / "..new").symlink_to(f"..{version}")
        (site / "..new").rename(site / "..data")

    project("one")
    (site / "index.html").symlink_to("..data/index.html")
    server = serving()

    def body() -> bytes:
        with Wire(server.url) as wire:
            return wire.ask(get("/")).body

    assert body() == b"one"
    project("two")
    eventually("the change is seen", lambda: body() == b"two")


# -- the seccomp profile of Kubernetes --------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Made as the README says."""
    made = tmp_path / "ringserve.json"
    with (DOCKER / "seccomp.json").open() as source, made.open("w") as file:
        command = [sys.executable, str(HOME / "tests/image/oci_seccomp.py"), os.uname().machine]
        subprocess.run(command, stdin=source, stdout=file, timeout=WAIT_S, check=True)
    return made


def test_the_profile_of_kubernetes_lets_nothing_through_for_a_capability(profile: Path) -> None:
    rules = json.loads(profile.read_text())["syscalls"]
    free = {
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule for name in rule["names"]
    }
    assert {"io_uring_setup", "io_uring_enter", "io_uring_register", "openat2", "splice"} <= free
    assert not {"bpf", "clone", "mount", "setns", "unshare", "perf_event_open", "kcmp", "chroot"} & free


CONFINE = """
import ctypes, json, os, sys
class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
OPERATORS = {"SCMP_CMP_LT": 2, "SCMP_CMP_EQ": 4, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
def action(name, error):
    return {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000 | error}[name]
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
profile = json.load(open(sys.argv[1]))
context = ctypes.c_void_p(library.seccomp_init(action(profile["defaultAction"], profile["defaultErrnoRet"])))
for rule in profile["syscalls"]:
    compared = [Comparison(each["index"], OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0))
                for each in rule.get("args", ())]
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:  # younger than the library: runc leaves it out as well
            continue
        assert library.seccomp_rule_add_array(
            context, ctypes.c_uint(action(rule["action"], rule.get("errnoRet", 1))), number, len(compared),
            (Comparison * len(compared))(*compared)) == 0, name
assert library.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Loads PROFILE for itself as a container's runtime does, and becomes COMMAND."""


@pytest.mark.usefixtures("io_uring")
def test_ringserve_serves_under_the_profile_of_kubernetes(site: Path, profile: Path) -> None:
    (site / "page").write_text("page")
    (site / "large").write_bytes(bytes(1_000_000))
    process = subprocess.Popen(
        [sys.executable, "-c", CONFINE, str(profile), RINGSERVE, str(site), "--host", "127.0.0.1",
         "--port", "0", "--workers", "2", "--log-format", "off"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "Ctrl-C" in line:
                break
        url = re.search(r"http://\S+", said)
        assert url is not None, said
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        with Wire(url[0]) as wire:
            assert wire.ask(get("/page")).body == b"page"
            assert wire.ask(get("/large")).body == bytes(1_000_000)
        process.terminate()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.communicate()
