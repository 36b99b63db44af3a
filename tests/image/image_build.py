"""The image: a base by debootstrap, and the Dockerfile built upon it by buildah, without an engine and a registry.

All state is beneath one directory, `build/image-test`: an image store of its own, so that nothing of the user's is
seen or touched. The base stays there, since it takes a minute or two; so do the layers of the build, which buildah
takes again while the instruction and the files that it copies are the same. `make clean` removes it all.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import MachineError, apt_proxy, apt_sources, pip_configuration

SUITE = "bookworm"
BASE = "localhost/ringserve-base:bookworm"
IMAGE = "localhost/ringserve:image-test"
COMMAND_S = 1800
"""For one command that fetches packages; the slowest takes two minutes here."""


class BuildError(Exception):
    """A command failed; the message has the end of what it wrote."""


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """The command's output. Raises BuildError."""
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=COMMAND_S, env=environment, errors="replace",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if finished.returncode:
        written = (finished.stdout + finished.stderr).splitlines()[-30:]
        raise BuildError("\n".join([f"`{' '.join(command)}` ended with status {finished.returncode}:", *written]))
    return finished.stdout


class Builder:
    """An image store beneath `directory`, and what is made in it. repository: where the Dockerfile is."""

    def __init__(self, directory: Path, repository: Path) -> None:
        self._directory = directory
        self._repository = repository
        self._environment = {**os.environ, **apt_proxy()}
        self._driver = "overlay"
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._buildah("info")
        except BuildError:
            self._driver = "vfs"  # where overlays cannot be stacked: it copies whole layers, and works everywhere

    def _buildah(self, *arguments: str) -> str:
        store = self._directory / f"store-{self._driver}"
        return run(
            "buildah", "--root", str(store / "root"), "--runroot", str(store / "run"),
            "--storage-driver", self._driver, *arguments, environment=self._environment,
        )  # fmt: skip

    def ensure_base(self) -> bool:
        """The base image: a minimal Debian. False if it was there. Raises BuildError and MachineError."""
        if self._has(BASE):
            return False
        sources = apt_sources(SUITE)
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="debootstrap-") as made:
            root = Path(made) / "root"
            secure = ["--include=ca-certificates"] if sources.mirror.startswith("https:") else []
            run(
                "debootstrap", "--variant=minbase", *secure, SUITE, str(root), sources.mirror,
                environment=self._environment,
            )  # fmt: skip
            (root / "etc/apt/sources.list").write_text("\n".join([*sources.lines, ""]))
            for package in (root / "var/cache/apt/archives").glob("*.deb"):
                package.unlink()
            # Of the machine that it was made on; whoever runs a container gives it its own.
            for name in ("hostname", "resolv.conf"):
                (root / "etc" / name).unlink(missing_ok=True)
            container = self._buildah("from", "scratch").strip()
            try:
                self._buildah("add", "--quiet", container, str(root), "/")
                self._buildah("config", "--cmd", "bash", container)
                self._buildah("commit", "--quiet", container, BASE)
            finally:
                self._buildah("rm", container)
        return True

    def _has(self, image: str) -> bool:
        return bool(json.loads(self._buildah("images", "--json", "--filter", f"reference={image}") or "[]"))

    def build(self) -> None:
        """The Dockerfile upon the base. Raises BuildError.

        First the stage that builds, with pip's settings of this machine in it; then all of it, without. The layers of
        the first are taken again by the second, and no trace of the settings gets into the image: buildah leaves an
        empty file wherever it mounted one.
        """
        pip = pip_configuration()
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(pip.text)
            file.flush()
            mounts = {file.name: "/etc/pip.conf", **pip.mounts}
            volumes = [word for path, inside in mounts.items() for word in ("--volume", f"{path}:{inside}:ro")]
            self._build("--target", "build", *volumes)
        self._build("--tag", IMAGE)

    def _build(self, *arguments: str) -> None:
        self._buildah(
            "bud", "--isolation", "chroot", "--format", "docker", "--pull-never", "--layers",
            "--build-arg", f"BASE={BASE}", *arguments, str(self._repository),
        )  # fmt: skip

    def configuration(self) -> dict[str, Any]:
        """The image's: entrypoint, variables, user and so on, as docker has them."""
        inspected = json.loads(self._buildah("inspect", "--type", "image", IMAGE))
        configuration: dict[str, Any] = inspected["Docker"]["config"]
        return configuration

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The image's files, with a layer above them that takes what is written."""
        container = self._buildah("from", "--pull-never", image).strip()
        try:
            yield Path(self._buildah("mount", container).strip())
        finally:
            self._buildah("rm", container)


def check_tools(*names: str) -> None:
    """Raises MachineError if a program is missing."""
    for name in names:
        if not any((Path(each) / name).exists() for each in os.environ["PATH"].split(":")):
            raise MachineError(f"there is no {name}; `make image-test` installs it")
