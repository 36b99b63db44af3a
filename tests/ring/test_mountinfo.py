"""Which file systems are mounted where, and which of them are local."""

from __future__ import annotations

import pytest

from ringserve.ring.linux.mountinfo import Mount, MountTable, parse

MACHINE = rb"""
21 27 0:20 / /proc rw,nosuid - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:25 / /mnt/nfs rw shared:3 master:2 propagate_from:1 unbindable - nfs4 server:/export rw,vers=4.2
31 30 254:0 /srv /mnt/nfs/local rw - ext4 /dev/vda rw
32 27 0:26 / /mnt/a\040name\134\011 rw - fuse.sshfs host:/\040x rw,user_id=0
33 27 0:27 / /srv/one rw - tmpfs tmpfs rw
34 33 0:28 / /srv/one rw - fuse server rw
35 27 0:29 / /srv rw - xfs /dev/vdb rw
""".lstrip()


def table_of(text: bytes) -> MountTable:
    return MountTable(parse(text))


def mount_of(table: MountTable, number: int) -> Mount:
    found = table.get(number)
    assert found is not None
    return found


def test_optional_fields_and_escapes_are_understood() -> None:
    mounts = {mount.number: mount for mount in parse(MACHINE)}
    assert mounts[30] == Mount(30, 27, b"/mnt/nfs", "nfs4", b"0:25")
    assert mounts[32] == Mount(32, 27, b"/mnt/a name\\\t", "fuse.sshfs", b"0:26")


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"/etc/hosts", 27),
        (b"/", 27),
        (b"/mnt", 27),
        (b"/mnt/nfs", 30),
        (b"/mnt/nfsx", 27),
        (b"/mnt/nfs/page", 30),
        (b"/mnt/nfs/local/page", 31),
        (b"/mnt/a name\\\t/page", 32),
        (b"/srv/one/page", 35),  # /srv hides what was mounted below it before
    ],
)
def test_a_path_reaches_the_file_system_that_is_mounted_nearest_above_it(path: bytes, number: int) -> None:
    table = table_of(MACHINE)
    assert table.reached(mount_of(table, 27), b"/", path).number == number


def test_of_two_on_one_directory_the_upper_is_reached() -> None:
    table = table_of(b"\n".join(line for line in MACHINE.splitlines() if not line.startswith(b"35")))
    assert table.reached(mount_of(table, 27), b"/", b"/srv/one/page").number == 34
    assert [mount.number for mount in table.below(mount_of(table, 27), b"/srv")] == [34]


def test_what_is_mounted_on_the_directory_in_which_a_path_begins_is_not_entered() -> None:
    table = table_of(MACHINE)
    assert table.reached(mount_of(table, 27), b"/mnt/nfs", b"/mnt/nfs/page").number == 27
    assert table.reached(mount_of(table, 30), b"/mnt/nfs", b"/mnt/nfs/page").number == 30


def test_what_is_mounted_below_a_directory_is_known() -> None:
    table = table_of(MACHINE)
    top = mount_of(table, 27)
    assert {mount.number for mount in table.below(top, b"/mnt")} == {30, 31, 32}
    assert {mount.number for mount in table.below(top, b"/")} == {21, 30, 31, 32, 35}
    assert [mount.number for mount in table.below(mount_of(table, 30), b"/mnt/nfs")] == [31]
    assert table.below(top, b"/mnt/nfs") == []


def test_a_bind_mount_is_reached_as_any_other() -> None:
    table = table_of(MACHINE)
    assert table.reached(mount_of(table, 30), b"/mnt/nfs", b"/mnt/nfs/local/deep/page").number == 31


@pytest.mark.parametrize(
    ("line", "local"),
    [
        (b"ext4 /dev/vda rw", True),
        (b"btrfs /dev/vda rw", True),
        (b"tmpfs tmpfs rw", True),
        (b"squashfs /dev/loop0 ro", True),
        (b"nfs4 server:/ rw", False),
        (b"fuse.sshfs host:/ rw", False),
        (b"fuseblk /dev/vdb rw", False),
        (b"9p share rw", False),
        (b"virtiofs share rw", False),
        (b"proc proc rw", False),
        (b"autofs systemd-1 rw", False),
        (b"brand-new thing rw", False),
    ],
)
def test_what_is_not_known_to_be_local_may_hang(line: bytes, local: bool) -> None:
    table = table_of(b"5 1 7:0 / / rw - " + line)
    assert table.is_local(mount_of(table, 5)) is local


def test_an_image_that_is_no_block_device_may_hang() -> None:
    table = table_of(b"5 1 0:9 / / rw - erofs image ro")
    assert not table.is_local(mount_of(table, 5))


@pytest.mark.parametrize(
    ("options", "local"),
    [
        (b"rw,lowerdir=/var/low:/var/more,upperdir=/var/up,workdir=/var/work", True),
        (b"rw,lowerdir=/mnt/nfs/low,upperdir=/var/up,workdir=/var/work", False),
        (b"rw,lowerdir=/var/low:/mnt/nfs/low,upperdir=/var/up,workdir=/var/work", False),
        (b"rw,lowerdir=/var/low::/mnt/nfs/data", False),
        (b"rw,lowerdir+=/var/low,datadir+=/mnt/nfs/data", False),
        (b"rw,lowerdir=/var/low,upperdir=/mnt/nfs/up,workdir=/var/work", False),
        (rb"rw,lowerdir=/var/a\134:/mnt/nfs:/var/b", True),  # one layer has a colon in its name
        (rb"rw,lowerdir=/var/a\134,upperdir=/mnt/nfs", True),  # and one a comma
        (b"rw,lowerdir=/mnt/overlay/low,upperdir=/var/up", True),  # of a container, which does not see its layers
        (b"rw,lowerdir=l/XYZ:l/ABC,upperdir=up", True),
        (b"rw", True),
    ],
)
def test_an_overlay_is_local_unless_a_layer_is_seen_to_be_elsewhere(options: bytes, local: bool) -> None:
    table = table_of(MACHINE + b"40 27 0:40 / /mnt/overlay rw - overlay overlay " + options)
    assert table.is_local(mount_of(table, 40)) is local


def test_without_a_root_in_sight_an_overlay_is_local() -> None:
    table = table_of(b"")
    assert table.get(40) is None
    assert table.is_local(Mount(40, 27, b"/", "overlay", b"0:40", (b"/var/low",)))


def test_the_root_of_all_is_mounted_on_itself() -> None:
    table = table_of(b"1 1 0:2 / / rw - rootfs rootfs rw\n2 1 254:0 / / rw - ext4 /dev/vda rw")
    assert table.reached(mount_of(table, 1), b"", b"/srv/page").number == 2
