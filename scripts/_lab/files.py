"""The files of a host: keys, and what its sshd and its name services read."""

from __future__ import annotations

from pathlib import Path

from .names import ADDRESSES, HOSTS, Lab, run


def write_keys(lab: Lab) -> None:
    lab.keys.mkdir(mode=0o700)
    new_key(lab.keys / "id_ed25519", f"wherry-lab-{lab.name}")
    known = []
    for host in HOSTS:
        key = lab.host_directory(host) / "ssh_host_ed25519_key"
        new_key(key, host)
        kind, text, _ = key.with_suffix(".pub").read_text().split()
        known.append(f"{host},{ADDRESSES[host]} {kind} {text}\n")
    (lab.keys / "known_hosts").write_text("".join(known))


def new_key(path: Path, comment: str) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)


def write_host_files(lab: Lab, host: str, path: str) -> None:
    directory = lab.host_directory(host)
    home = directory / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "config").write_text(ssh_config(lab))
    (directory / "sshd_config").write_text(sshd_config(lab, host, path))
    hosts = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    (directory / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts}")
    (directory / "passwd").write_text(passwd_with_home(home))
    # "*" is no password and no lock: only the key gets in. Some systems ship root locked.
    (directory / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    (directory / "shadow").chmod(0o600)


def passwd_with_home(home: Path) -> str:
    lines = Path("/etc/passwd").read_text().splitlines()
    shell = next((line.split(":")[6] for line in lines if line.startswith("root:")), "/bin/sh")
    if not Path(shell).exists():
        shell = "/bin/sh"
    others = [line for line in lines if not line.startswith("root:")]
    return "\n".join([f"root:x:0:0:root:{home}:{shell}", *others]) + "\n"


def ssh_config(lab: Lab) -> str:
    blocks = [
        f"Host {host}\n    HostName {address}\n    HostKeyAlias {host}\n"
        for host, address in ADDRESSES.items()
    ]
    return "".join(blocks) + (
        "Host *\n"
        "    User root\n"
        f"    IdentityFile {lab.keys}/id_ed25519\n"
        f"    UserKnownHostsFile {lab.keys}/known_hosts\n"
        "    StrictHostKeyChecking yes\n"
    )


def sshd_config(lab: Lab, host: str, path: str) -> str:
    return f"""\
Port 22
ListenAddress {ADDRESSES[host]}
ListenAddress 127.0.0.1
HostKey {lab.host_directory(host)}/ssh_host_ed25519_key
AuthorizedKeysFile {lab.keys}/id_ed25519.pub .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
PrintMotd no
PrintLastLog no
UseDNS no
MaxStartups 100
LogLevel VERBOSE
SetEnv PATH={path} WHERRY_LAB_HOST={host}
Subsystem sftp internal-sftp
"""
