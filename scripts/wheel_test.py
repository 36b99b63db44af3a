"""Tries the wheel and the sdist in dist/: `make wheel-test`.

1. The wheel has the package, and nothing else; its extension needs the C library alone, and looks nowhere else for it.
2. The sdist, built again, gives the same files.
3. In a clean Debian without compiler, liburing and network for pip, the wheel is installed and serves.
4. For each Python that is found, the same in a clean venv.

Options: --pythons "python3.12 /opt/py/bin/python3" (each has to be there then), --no-debian to leave out the third.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import clean_debian
from clean_debian import fail, run

HOME = Path(__file__).resolve().parent.parent
PYTHONS = ("python3.11", "python3.12", "python3.13")
PROBE = Path(__file__).with_name("serve_probe.py")
PROBE_S = 120
GLIBC_MINOR_MAX = 26
"""The wheel is for glibc 2.26 and later. A call of fstat(3) in shim.c made that 2.33, where it became a symbol."""
ONLY_TO_BUILD = {"ringserve/ring/uring/build_uring.py", "ringserve/ring/uring/shim.c", "ringserve/ring/uring/shim.h"}


# -- what is in it ----------------------------------------------------------------------------------------------


def sources() -> set[str]:
    """The files of the package."""
    kept = {".py", ".pyi", ".c", ".h", ".html", ".typed"}
    paths = (path.relative_to(HOME) for path in (HOME / "ringserve").rglob("*") if path.suffix in kept)
    # What cffi writes beside the sources of an editable installation is none of them.
    return {str(path) for path in paths if path.name not in ("_uring.c", "ringserve.ring.uring._uring.c")}


def files_of(archive: Path) -> set[str]:
    """Names of an archive's files: of the wheel as they are installed, of the sdist below its directory."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def expected_in_wheel(version: str) -> set[str]:
    """The package, its extension, and what describes both."""
    described = {f"ringserve-{version}.dist-info/{name}"
                 for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt",
                              "licenses/LICENSE")}  # fmt: skip
    return sources() - ONLY_TO_BUILD | {"ringserve/ring/uring/_uring.abi3.so"} | described


def expected_in_sdist() -> set[str]:
    """All it takes to build the wheel."""
    return sources() | {"LICENSE", "README.md", "MANIFEST.in", "PKG-INFO", "pyproject.toml", "setup.cfg", "setup.py"}


def compare(what: str, found: set[str], expected: set[str]) -> None:
    """Fail if they differ, and name how."""
    if found != expected:
        fail(f"{what}: missing {sorted(expected - found)}, stray {sorted(found - expected)}")


def check_extension(wheel: Path, scratch: Path) -> None:
    """It has to load on machines that have neither liburing nor the directories of the one that built it."""
    with zipfile.ZipFile(wheel) as archive:
        extension = archive.extract("ringserve/ring/uring/_uring.abi3.so", scratch)
    dynamic = run(["readelf", "--dynamic", "--wide", extension])
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    if needed != {"libc.so.6"}:
        fail(f"the extension needs {', '.join(sorted(needed))}, and should need libc.so.6 alone")
    if searched := re.findall(r"\((?:RPATH|RUNPATH)\).*", dynamic):
        fail(f"the extension looks for libraries in directories of the machine that built it: {searched}")


def check_contents(wheel: Path, sdist: Path, scratch: Path) -> None:
    """Steps 1 and 2."""
    name = re.fullmatch(r"ringserve-([^-]+)-cp311-abi3-manylinux_2_(\d+)_\w+\.whl", wheel.name)
    if name is None:
        fail(f"{wheel.name} is not tagged for every Python from 3.11 on, and for manylinux")
    if int(name[2]) > GLIBC_MINOR_MAX:
        fail(f"{wheel.name} needs glibc 2.{name[2]}, and should need 2.{GLIBC_MINOR_MAX}: shim.c uses a newer symbol")
    compare(wheel.name, files_of(wheel), expected_in_wheel(name[1]))
    in_sdist = {file for file in files_of(sdist) if not file.startswith("ringserve.egg-info/")}
    compare(sdist.name, in_sdist, expected_in_sdist())
    check_extension(wheel, scratch)
    print(f"{wheel.name}: the package and nothing else; the extension needs libc.so.6 alone")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    again = scratch / "again"
    run([sys.executable, "-m", "build", "--outdir", again, scratch / sdist.name.removesuffix(".tar.gz")])
    (sdist_again,), (wheel_again,) = again.glob("*.tar.gz"), again.glob("*.whl")
    compare("the sdist's sdist", files_of(sdist_again), files_of(sdist))
    compare("the sdist's wheel", files_of(wheel_again), files_of(wheel))
    print(f"{sdist.name}: builds again from itself, to the same files")


# -- whether it serves ------------------------------------------------------------------------------------------


def find_python(name: str) -> tuple[str, str] | None:
    """An interpreter by name or path, and its version (`3.11`); None if there is none, or one that does not run."""
    candidates = [shutil.which(name)]
    # A shim of pyenv is on the PATH for each version, but only runs for the one that is chosen.
    candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/*/bin/{Path(name).name}")))
    for path in candidates:
        if path is None:
            continue
        asked = subprocess.run(
            [path, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if asked.returncode == 0:
            return path, asked.stdout.strip()
    return None


def offline() -> dict[str, str]:
    """An environment in which pip knows no place to get anything from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def fetch_dependencies(python: str, wheel: Path, directory: Path) -> None:
    """The wheel, and those of what it depends on, for this interpreter; no source, which would need a compiler."""
    run([python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:",
         "--dest", directory, wheel])  # fmt: skip


def try_in_venv(python: str, wheel: Path, scratch: Path) -> Path:
    """Step 4 for one interpreter. Returns the directory of wheels that were installed."""
    wheels, venv = scratch / "wheels", scratch / "venv"
    run([python, "-m", "venv", venv])
    fetch_dependencies(str(venv / "bin/python"), wheel, wheels)
    run(
        [venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--find-links", wheels, "ringserve"],
        env=offline(),
    )
    print(run([venv / "bin/python", PROBE, venv / "bin/ringserve"], timeout_s=PROBE_S), end="", flush=True)
    return wheels


def try_in_debian(wheels_by_version: dict[str, Path], scratch: Path) -> None:
    """Step 3."""
    root = scratch / "debian"
    clean_debian.build(root, ["python3", "python3-venv"])
    if found := list(clean_debian.unwanted(root)):
        fail(f"the clean Debian is not clean: {', '.join(found)}")

    def inside(*command: str) -> str:
        return run(clean_debian.inside(root, command), timeout_s=PROBE_S)

    version = inside("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    if version not in wheels_by_version:
        fail(f"wheels for the clean Debian have to be fetched by its Python, and there is no python{version} here: "
             f"apt-get install python{version}-venv", clean_debian.USER_ERROR)  # fmt: skip
    shutil.copytree(wheels_by_version[version], root / "wheels")
    shutil.copy(PROBE, root / "probe.py")
    inside("python3", "-m", "venv", "/venv")
    inside("/venv/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--find-links", "/wheels", "ringserve")
    said = inside("/venv/bin/python", "/probe.py", "/venv/bin/ringserve").strip()
    print(f"{said}, in a Debian without compiler and liburing")


def main() -> None:
    """See the module."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pythons", default="", help="interpreters, in place of those of 3.11 to 3.13 that are found")
    parser.add_argument("--debian", action=argparse.BooleanOptionalAction, default=True, help="try a clean Debian")
    arguments = parser.parse_args()
    archives = [*(HOME / "dist").glob("ringserve-*.whl")], [*(HOME / "dist").glob("ringserve-*.tar.gz")]
    if [len(each) for each in archives] != [1, 1]:
        fail("dist/ should have one wheel and one sdist: run `make wheel`", clean_debian.USER_ERROR)
    (wheel,), (sdist,) = archives
    missing, wheels_by_version = [], {}
    with tempfile.TemporaryDirectory(prefix="ringserve-wheel-") as directory:
        scratch = Path(directory)
        check_contents(wheel, sdist, scratch)
        for number, name in enumerate(arguments.pythons.split() or PYTHONS):
            found = find_python(name)
            if found is None:
                missing.append(name)
                continue
            own = scratch / f"python-{number}"
            own.mkdir()
            wheels_by_version[found[1]] = try_in_venv(found[0], wheel, own)
        if missing:
            print(f"not tried, since not found: {', '.join(missing)}")
        if not wheels_by_version or (missing and arguments.pythons):
            fail(f"there is no {missing[0]} here that runs", clean_debian.USER_ERROR)
        if arguments.debian:
            try_in_debian(wheels_by_version, scratch)


if __name__ == "__main__":
    main()
