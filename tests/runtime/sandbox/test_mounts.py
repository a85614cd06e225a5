"""Mounts, their options and propagation, masked and read-only paths, devices, the root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.errors import ContainerError, SpecError
from runtime.kernel.mount import MNT_DETACH, MS_SHARED, mount, umount2
from tests.runtime.sandbox.box import Boxes, Change, Json
from tests.support.wait import wait_until


def _adding(*mounts: Json) -> Change:
    def change(raw: Json) -> None:
        raw["mounts"] += mounts

    return change


def _bind(source: Path, destination: str, *options: str) -> Json:
    return {"source": str(source), "destination": destination, "options": list(options)}


def _options_of(line: str) -> set[str]:
    return set(line.split()[5].split(","))


def test_bind_of_a_directory_and_a_file(boxes: Boxes, scratch: Path) -> None:
    source = scratch / "source"
    source.mkdir()
    (source / "file").write_text("cargo")
    change = _adding(
        _bind(source, "/mnt/new/place", "bind"), _bind(source / "file", "/srv/one", "bind", "ro")
    )
    result = boxes.run(
        "cat /mnt/new/place/file /srv/one; echo x > /srv/one; echo > /mnt/new/place/w", change
    )
    assert "cargocargo" in result.output
    assert "Read-only file system" in result.output
    assert (source / "w").exists()


def test_relative_source_starts_at_the_bundle(boxes: Boxes) -> None:
    box = boxes.make(
        "cat /mnt/word",
        _adding({"source": "in-bundle", "destination": "/mnt", "options": ["bind"]}),
    )
    (box.directory / "in-bundle").mkdir()
    (box.directory / "in-bundle" / "word").write_text("here")
    assert box.run().output == "here"


@pytest.mark.parametrize(
    ("option", "recursive"), [("ro", False), ("rro", True), ("nosuid", False), ("rnoexec", True)]
)
def test_bind_attributes(boxes: Boxes, scratch: Path, option: str, recursive: bool) -> None:
    source = scratch / "tree"
    (source / "below").mkdir(parents=True)
    mount("below", source / "below", "tmpfs")
    try:
        change = _adding(_bind(source, "/mnt", "rbind", option))
        lines = boxes.run("grep ' /mnt' /proc/self/mountinfo", change).lines
    finally:
        umount2(source / "below", MNT_DETACH)
    plain = option[1:] if recursive else option
    assert [plain in _options_of(line) for line in lines] == [True, recursive]


def test_id_mapped_bind(boxes: Boxes, scratch: Path) -> None:
    source = scratch / "owned"
    (source / "below").mkdir(parents=True)
    (source / "file").touch()
    os.chown(source / "file", 5, 6)
    mapping = [{"containerID": 0, "hostID": 1000, "size": 100}]
    change = _adding(
        {**_bind(source, "/mnt", "bind"), "uidMappings": mapping, "gidMappings": mapping}
    )
    result = boxes.run("stat -c %u:%g /mnt/file; touch /mnt/new; stat -c %u /mnt/new", change)
    assert result.lines[0] == "1005:1006"
    assert (source / "file").stat().st_uid == 5


def test_plain_bind_leaves_submounts_out(boxes: Boxes, scratch: Path) -> None:
    source = scratch / "tree"
    (source / "below").mkdir(parents=True)
    mount("below", source / "below", "tmpfs")
    try:
        change = _adding(_bind(source, "/mnt", "bind"))
        lines = boxes.run("grep ' /mnt' /proc/self/mountinfo", change).lines
    finally:
        umount2(source / "below", MNT_DETACH)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("propagation", "tag"),
    [
        ("private", None),
        ("rslave", "master:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
    ],
)
def test_propagation(boxes: Boxes, scratch: Path, propagation: str, tag: str | None) -> None:
    source = scratch / "shared"
    source.mkdir()
    mount("shared", source, "tmpfs")
    try:
        mount(None, source, None, MS_SHARED)
        change = _adding(_bind(source, "/mnt", "bind", propagation))
        (line,) = boxes.run("grep ' /mnt ' /proc/self/mountinfo", change).lines
    finally:
        umount2(source, MNT_DETACH)
    tags = line.partition(" - ")[0].split()[6:]
    assert tags[0].startswith(tag) if tag else not tags, line


def test_mounts_of_the_host_arrive_in_a_slave_and_none_go_back(boxes: Boxes, scratch: Path) -> None:
    source = scratch / "shared"
    source.mkdir()
    mount("shared", source, "tmpfs")
    try:
        mount(None, source, None, MS_SHARED)
        (source / "late").mkdir()
        (source / "inner").mkdir()
        box = boxes.make(
            "mount -t tmpfs inner /mnt/inner; sleep 1000",
            lambda raw: (
                _adding(_bind(source, "/mnt", "rbind", "rslave"))(raw),
                [caps.append("CAP_SYS_ADMIN") for caps in raw["process"]["capabilities"].values()],
            )[0],
        )
        box.create()
        box.start()
        mountinfo = Path(f"/proc/{box.running.pid}/mountinfo")
        wait_until(lambda: " /mnt/inner " in mountinfo.read_text())
        assert str(source / "inner") not in Path("/proc/self/mountinfo").read_text()
        mount("late", source / "late", "tmpfs")
        assert " /mnt/late " in mountinfo.read_text()
    finally:
        umount2(source, MNT_DETACH)


def test_tmpfs_options_and_data(boxes: Boxes) -> None:
    options = ["size=1m", "mode=1751", "noexec", "ro", "nr_inodes=50"]
    change = _adding({"destination": "/mnt", "type": "tmpfs", "source": "t", "options": options})
    result = boxes.run(
        "stat -c %a /mnt; df -k /mnt | tail -1; grep ' /mnt ' /proc/self/mountinfo; touch /mnt/x",
        change,
    )
    assert result.lines[0] == "1751"
    assert result.lines[1].split()[1] == "1024"
    assert {"ro", "noexec"} <= _options_of(result.lines[2])
    assert result.status != 0


def test_recursive_attributes_and_propagation_of_a_new_file_system(boxes: Boxes) -> None:
    options = ["rro", "rshared", "notmpcopyup"]
    change = _adding({"destination": "/mnt", "type": "tmpfs", "source": "t", "options": options})
    (line,) = boxes.run("grep ' /mnt ' /proc/self/mountinfo", change).lines
    assert "ro" in _options_of(line)
    assert "shared:" in line


def test_tmpfs_keeps_the_mode_of_what_it_covers(boxes: Boxes) -> None:
    change = _adding({"destination": "/tmp", "type": "tmpfs", "source": "t"})
    assert boxes.run("stat -c %a /tmp", change).output == "1777\n"


def test_copy_up(boxes: Boxes) -> None:
    change = _adding(
        {
            "destination": "/etc/pam.d",
            "type": "tmpfs",
            "source": "t",
            "options": ["tmpcopyup", "ro"],
        }
    )
    result = boxes.run(
        "ls -ln --time-style=+%s /etc/pam.d | tail -n +2; grep pam.d /proc/self/mountinfo", change
    )
    names = {line.split()[-1] for line in result.lines[:-1]}
    assert set(os.listdir("/etc/pam.d")) <= names
    assert "tmpfs" in result.lines[-1]


def test_read_only_dev(boxes: Boxes) -> None:
    def read_only(raw: Json) -> None:
        for entry in raw["mounts"]:
            if entry["destination"] == "/dev":
                entry["options"].append("ro")

    result = boxes.run("echo > /dev/null && echo fine; touch /dev/x", read_only)
    assert result.lines[0] == "fine"
    assert "Read-only file system" in result.output


def test_links_in_the_root_cannot_lead_a_mount_out(boxes: Boxes, scratch: Path) -> None:
    outside = scratch / "outside"
    outside.mkdir()
    box = boxes.make(
        "grep -c evil /proc/self/mountinfo; readlink /evil",
        _adding({"destination": "/evil", "type": "tmpfs", "source": "evil"}),
    )
    assert box.overlay is not None
    box.overlay.make_directories()
    (box.overlay.upper / "evil").symlink_to(f"../../../../../..{outside}/made")
    result = box.run()
    assert result.lines[0] == "1"
    assert not list(outside.iterdir())


def test_default_devices_and_links(boxes: Boxes) -> None:
    names = "null zero full random urandom tty"
    result = boxes.run(
        f"cd /dev && stat -c '%F %t:%T %a' {names} && readlink fd stdin ptmx "
        "&& head -c3 zero | wc -c"
    )
    kinds = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
    assert result.lines[:6] == [f"character special file {kind} 666" for kind in kinds]
    assert result.lines[6:] == ["/proc/self/fd", "/proc/self/fd/0", "pts/ptmx", "3"]


def test_devices_of_the_configuration(boxes: Boxes) -> None:
    def with_devices(raw: Json) -> None:
        raw["linux"]["devices"] = [
            {
                "path": "/dev/mine",
                "type": "c",
                "major": 1,
                "minor": 5,
                "fileMode": 0o640,
                "uid": 7,
                "gid": 8,
            },
            {"path": "/dev/deep/disk", "type": "b", "major": 7, "minor": 0},
            {"path": "/dev/queue", "type": "p"},
        ]

    result = boxes.run(
        "cd /dev && stat -c '%F %t:%T %a %u:%g' mine deep/disk queue; "
        "head -c1 mine; head -c1 deep/disk",
        with_devices,
    )
    assert result.lines[0] == "character special file 1:5 640 7:8"
    assert result.lines[1] == "block special file 7:0 666 0:0"
    assert result.lines[2] == "fifo 0:0 666 0:0"
    assert "Operation not permitted" in result.output  # the device cgroup does not allow 7:0


def test_device_rules(boxes: Boxes) -> None:
    def allowed(raw: Json) -> None:
        raw["linux"]["devices"] = [{"path": "/dev/k", "type": "c", "major": 1, "minor": 11}]
        raw["linux"]["resources"]["devices"].append(
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"}
        )

    result = boxes.run("(exec 3>/dev/k) && echo written; (exec 3</dev/k) || echo refused", allowed)
    assert "written" in result.output
    assert "refused" in result.output


def test_another_file_where_a_device_should_be(boxes: Boxes) -> None:
    def with_device(raw: Json) -> None:
        raw["linux"]["devices"] = [{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 5}]

    with pytest.raises(ContainerError, match="/etc/passwd: another file is there"):
        boxes.make("true", with_device).create()


def test_masked_and_read_only_paths(boxes: Boxes) -> None:
    def masked(raw: Json) -> None:
        raw["linux"]["maskedPaths"] += ["/etc/passwd", "/etc/pam.d", "/no/such/path"]
        raw["linux"]["readonlyPaths"] += ["/var", "/no/such/path"]

    result = boxes.run(
        "wc -c < /etc/passwd; ls -A /etc/pam.d | wc -l; touch /var/x; touch /etc/pam.d/x; "
        "wc -c < /proc/timer_list; echo 1 > /proc/sys/kernel/domainname",
        masked,
    )
    assert result.lines[:2] == ["0", "0"]
    assert result.output.count("Read-only file system") == 3
    assert Path("/etc/passwd").stat().st_size


def test_read_only_root(boxes: Boxes) -> None:
    def read_only(raw: Json) -> None:
        raw["root"]["readonly"] = True

    result = boxes.run("touch /x; touch /dev/shm/x && echo shm", read_only)
    assert "Read-only file system" in result.output
    assert "shm" in result.output


@pytest.mark.parametrize(("propagation", "tag"), [("shared", "shared:"), ("private", ""), ("", "")])
def test_root_propagation(boxes: Boxes, propagation: str, tag: str) -> None:
    def propagated(raw: Json) -> None:
        raw["linux"]["rootfsPropagation"] = propagation

    (line,) = boxes.run("grep ' / / ' /proc/self/mountinfo", propagated).lines
    assert line.partition(" - ")[0].split()[6:] == [] if not tag else tag in line


def test_root_without_an_overlay(boxes: Boxes, scratch: Path) -> None:
    rootfs = scratch / "rootfs"
    rootfs.mkdir()

    def own_root(raw: Json) -> None:
        raw["root"] = {"path": str(rootfs)}
        raw["process"]["args"] = ["/usr/bin/sh", "-c", "echo out > /made; ls /"]
        raw["mounts"] += [
            _bind(Path(path).resolve(), path, "rbind", "ro") for path in ("/usr", "/lib", "/lib64")
        ]

    result = boxes.make("", own_root, overlay=False).run()
    assert set(result.lines) == {"usr", "lib", "lib64", "dev", "proc", "sys", "made"}
    assert (rootfs / "made").read_text() == "out\n"


def test_overlay_holds_the_changes(boxes: Boxes) -> None:
    box = boxes.make("echo new > /etc/wherry-test; rm /etc/hostname; mv /etc/pam.d /etc/pam.moved")
    result = box.run()
    assert result.status == 0, result.output
    assert box.overlay is not None
    assert (box.overlay.upper / "etc/wherry-test").read_text() == "new\n"
    assert stat.S_ISCHR((box.overlay.upper / "etc/hostname").stat().st_mode)  # a whiteout
    assert Path("/etc/hostname").exists()
    assert not Path("/etc/wherry-test").exists()
    assert not box.overlay.mounted


def test_cgroup_file_systems(boxes: Boxes) -> None:
    result = boxes.run(
        "cat /sys/fs/cgroup/pids/cgroup.procs | wc -l; touch /sys/fs/cgroup/x; cat /proc/1/cgroup"
    )
    assert int(result.lines[0]) >= 1
    assert "Read-only file system" in result.output
    assert all(line.endswith(":/") for line in result.lines[2:])


def test_cgroups_without_a_namespace_show_the_container_alone(boxes: Boxes) -> None:
    def shared(raw: Json) -> None:
        raw["linux"]["namespaces"] = [
            entry for entry in raw["linux"]["namespaces"] if entry["type"] != "cgroup"
        ]

    box = boxes.make(
        "cat /sys/fs/cgroup/pids/cgroup.procs; grep /cgroup/pids /proc/self/mountinfo", shared
    )
    result = box.run()
    assert result.lines[0] == "1"
    assert box.cgroups.controllers()["pids"].name in result.lines[-1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"destination": "/mnt", "source": "/no/such", "options": ["bind"]},
            r"mounts\[7\].source: /no/such: no such file",
        ),
        (
            {"destination": "/mnt", "type": "nosuchfs", "source": "x"},
            r"cannot mount nosuchfs on /mnt \(mounts\[7\]\): no such device",
        ),
        (
            {"destination": "/etc/passwd", "type": "tmpfs", "source": "x"},
            r"cannot mount tmpfs on /etc/passwd \(mounts\[7\]\): not a directory",
        ),
        (
            {"destination": "/etc", "source": "/etc/passwd", "options": ["bind"]},
            r"cannot mount bind on /etc \(mounts\[7\]\): is a directory",
        ),
    ],
)
def test_mount_that_fails_is_named(boxes: Boxes, entry: Json, message: str) -> None:
    with pytest.raises(ContainerError, match=message):
        boxes.make("true", _adding(entry)).create()


def test_missing_source_is_an_error_of_the_configuration(boxes: Boxes) -> None:
    entry = {"destination": "/mnt", "source": "/no/such", "options": ["bind"]}
    with pytest.raises(SpecError):
        boxes.make("true", _adding(entry)).create()
