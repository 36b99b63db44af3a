"""A file system that hangs when it is told to: raw /dev/fuse (fuse(4)), a directory of files that all hold the same.

Run as a program, by `hanging_file_system`: a process of its own, so that its end ends whatever waits for it. Its
standard input is told, line by line, which operation hangs from now on, or nothing for none; each request that hangs is
told on its standard output.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OPERATIONS = {"lookup": 1, "getattr": 3, "open": 14, "read": 15, "flush": 25, "opendir": 27, "readdir": 28}
INIT, FORGET, RELEASE, INTERRUPT, RELEASEDIR, BATCH_FORGET, ENOENT, ENOSYS = 26, 2, 18, 36, 29, 42, 2, 38
PARALLEL_DIROPS = 1 << 18
MNT_DETACH = 2
HEADER = struct.Struct("=IIQQIIIHH")
CONTENT = bytes(range(256)) * 8192
NAMES = [f"name{number}" for number in range(200)]
"""The upper half of them are not listed. With a `d` before them they are directories."""


FIRST_DIRECTORY, FIRST_FILE = 100, 1000


def attributes(node: int) -> bytes:
    is_directory = node < FIRST_FILE
    mode = 0o40755 if is_directory else 0o100644
    size = 0 if is_directory else 100 if node % 2 == 0 else len(CONTENT)
    return struct.pack("=QQQQQQIIIIIIIIII", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(operation: int, node: int, body: bytes, ttl: int) -> bytes | int:
    """What is behind the header of a reply; or an errno."""
    if operation == INIT:
        return struct.pack("=IIIIHHIIHHI7I", 7, 31, 65536, PARALLEL_DIROPS, 12, 9, 65536, 1, 0, 0, 0, *[0] * 7)
    if operation == 1:
        name = body.rstrip(b"\0").decode()
        is_directory, name = name.startswith("d"), name.removeprefix("d")
        if name not in NAMES:
            return ENOENT
        found = NAMES.index(name) + (FIRST_DIRECTORY if is_directory else FIRST_FILE)
        return struct.pack("=QQQQII", found, 0, ttl, ttl, 0, 0) + attributes(found)
    if operation == 3:
        return struct.pack("=QII", ttl, 0, 0) + attributes(node)
    if operation in (14, 27):
        return struct.pack("=QII", 0, 0, 0)
    offset, size = struct.unpack_from("=QI", body, 8) if operation in (15, 28) else (0, 0)
    if operation == 15:
        return (CONTENT[:100] if node % 2 == 0 else CONTENT)[offset : offset + size]
    if operation == 28:
        entries = b""
        for number, name in enumerate(NAMES[:100]):
            padded = name.encode() + bytes(-len(name) % 8)
            entry = struct.pack("=QQII", number + FIRST_FILE, number + 1, len(name), 8) + padded
            if number >= offset and len(entries) + len(entry) <= size:
                entries += entry
        return entries
    return b"" if operation in (RELEASE, RELEASEDIR, OPERATIONS["flush"]) else ENOSYS


def run(point: str, ttl: int) -> None:
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", point.encode(), b"fuse", 0, options) < 0:
        print(f"refused: {os.strerror(ctypes.get_errno())}", flush=True)
        return
    print("mounted", flush=True)
    hanging = 0
    held: list[tuple[int, int, int, bytes]] = []
    while True:
        for fd in select.select((fuse, 0), (), ())[0]:
            if fd == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                hanging = OPERATIONS.get(line.strip(), 0)
                print(f"now {line.strip()}", flush=True)
                requests, held = held, []
            else:
                data = os.read(fuse, 1 << 20)
                _length, operation, unique, node, *_ids = HEADER.unpack_from(data)
                requests = [(operation, unique, node, data[HEADER.size :])]
            for operation, unique, node, body in requests:
                if operation == hanging:
                    held.append((operation, unique, node, body))
                    print("hangs", flush=True)
                elif operation not in (FORGET, INTERRUPT, BATCH_FORGET):
                    found = answer(operation, node, body, ttl)
                    error, found = (found, b"") if isinstance(found, int) else (0, found)
                    os.write(fuse, struct.pack("=IiQ", 16 + len(found), -error, unique) + found)


class HangingFileSystem:
    """One that is mounted."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.hung = 0

    def hang(self, operation: str) -> int:
        """From now on. An empty one: nothing hangs, and what did goes on. Returns how many requests hung."""
        assert self._process.stdin is not None
        self._process.stdin.write(operation + "\n")
        self._process.stdin.flush()
        self._until(f"now {operation}".strip())
        hung, self.hung = self.hung, 0
        return hung

    def until_hung(self, count: int) -> None:
        """Until so many requests hang."""
        while self.hung < count:
            self._until("hangs")

    def close(self) -> None:
        """End it: whatever hangs fails, and all else that is asked."""
        self._process.kill()

    def _until(self, expected: str) -> None:
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline().strip()) != expected:
            assert line == "hangs", line
            self.hung += 1
        self.hung += expected == "hangs"


class FuseRefusedError(Exception):
    """This process cannot mount a file system of its own."""


@contextmanager
def hanging_file_system(point: Path, ttl: int) -> Iterator[HangingFileSystem]:
    """Mount one on a directory. ttl: for how many seconds the kernel may believe what it was told of names."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = subprocess.Popen(
        [sys.executable, __file__, str(point), str(ttl)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if said != "mounted":
            raise FuseRefusedError(said)
        yield HangingFileSystem(process)
    finally:
        process.kill()
        process.communicate()
        libc.umount2(os.fsencode(point), MNT_DETACH)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
