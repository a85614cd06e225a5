"""The container's terminal: a pseudo-terminal of its own devpts, its master sent to a socket.

The master never touches the container's root as a path: it is opened through a descriptor of the
root, and the slave through the master (``TIOCGPTPEER``), so a prepared root file system cannot
pass us another device.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios

from runtime.errors import ContainerError
from runtime.kernel.mount import AT_EMPTY_PATH, OPEN_TREE_CLONE, move_mount, open_tree
from runtime.sandbox.paths import make_file, open_inside
from runtime.sandbox.steps import step
from runtime.spec.model import Process

# include/uapi/asm-generic/ioctls.h
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441  # Linux 4.13
_UNIX98_PTY_MASTER_MAJOR = 5  # /dev/ptmx is 5:2


def connect_console(path: str | os.PathLike[str]) -> int:
    """Connect to a console socket (``--console-socket``) and return the descriptor.

    Raises:
        ContainerError: Nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with step(f"connect to the console socket {os.fspath(path)}", reason="console-socket"):
            sock.connect(os.fspath(path))
        return sock.detach()
    except BaseException:
        sock.close()
        raise


def open_terminal(root_fd: int, process: Process) -> tuple[int, int, str]:
    """Make a pseudo-terminal in the container's devpts.

    Returns:
        Master, slave, and the slave's path inside the container.

    Raises:
        ContainerError: /dev/pts of the container is no devpts.
    """
    with step("open a terminal in the container's /dev/pts (process.terminal)", reason="terminal"):
        try:
            master = open_inside(root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        except FileNotFoundError as exc:
            why = "process.terminal needs a mount of type devpts on /dev/pts, with newinstance"
            raise ContainerError(why, reason="terminal") from exc
        status = os.fstat(master)
        if (os.major(status.st_rdev), os.minor(status.st_rdev)) != (_UNIX98_PTY_MASTER_MAJOR, 2):
            raise ContainerError("/dev/pts/ptmx of the container is no terminal", reason="terminal")
        number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        # Given O_CLOEXEC, the open file would show it for ever, for each of its descriptors.
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
        os.set_inheritable(slave, False)
        # The devpts option gid= has set the group; only the owner is missing
        os.fchown(slave, process.user.uid, -1)
        if process.console_size is not None and process.console_size != (0, 0):
            height, width = process.console_size
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    return master, slave, f"/dev/pts/{number}"


def send_master(console: int, master: int, name: str) -> None:
    """Send the master over a connected UNIX socket, with the slave's name as the message.

    Raises:
        ContainerError: The other side is gone.
    """
    with (
        step("send the terminal over the console socket", reason="console-socket"),
        socket.socket(fileno=os.dup(console)) as sock,
    ):
        fds = array.array("i", [master])
        sock.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def bind_console(root_fd: int, slave: int) -> None:
    """Mount the terminal on /dev/console of the container."""
    with step("mount the terminal on /dev/console", reason="terminal"):
        target = make_file(root_fd, "/dev/console", 0o600)
        try:
            source = open_tree(slave, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
            try:
                move_mount(source, target)
            finally:
                os.close(source)
        finally:
            os.close(target)


def take_terminal(slave: int) -> None:
    """Make *slave* our standard streams and our session's controlling terminal.

    We must be a session leader without one.
    """
    with step("make the terminal the controlling one", reason="terminal"):
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
