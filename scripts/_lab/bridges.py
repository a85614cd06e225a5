"""A network for containers: a bridge on each host, a wire between them, and a third host, c.

c is a network namespace alone, for clients; it hangs on host a's bridge. Until containers move, so
do they; afterwards it reaches them over the wire.
"""

from __future__ import annotations

from .names import HOSTS, Lab, LabError, host_init, netns_exists, run

BRIDGE = "br0"
CLIENT = "c"
CLIENT_ADDRESS = "10.88.0.100/24"


def make_bridges(lab: Lab) -> None:
    """Make all of it; nothing happens when it is there already."""
    if any(host_init(lab, host) is None for host in HOSTS):
        raise LabError(f"lab {lab.name} is not up")
    if netns_exists(lab, CLIENT):
        return
    ours, theirs = (lab.label(host) for host in HOSTS)
    client = lab.label(CLIENT)
    run("ip", "netns", "add", client)
    pair = ("ip", "link", "add", "wire", "netns", ours, "type", "veth")
    run(*pair, "peer", "name", "wire", "netns", theirs)
    pair = ("ip", "link", "add", "client", "netns", ours, "type", "veth")
    run(*pair, "peer", "name", "eth0", "netns", client)
    for label in (ours, theirs):
        run("ip", "-n", label, "link", "add", BRIDGE, "type", "bridge")
        run("ip", "-n", label, "link", "set", "wire", "master", BRIDGE, "up")
        run("ip", "-n", label, "link", "set", BRIDGE, "up")
    run("ip", "-n", ours, "link", "set", "client", "master", BRIDGE, "up")
    run("ip", "-n", client, "address", "add", CLIENT_ADDRESS, "dev", "eth0")
    run("ip", "-n", client, "link", "set", "eth0", "up")


def remove_bridges(lab: Lab) -> None:
    """Take it away again. Idempotent."""
    if not netns_exists(lab, CLIENT):
        return
    run("ip", "netns", "delete", lab.label(CLIENT))
    for label in (lab.label(host) for host in HOSTS if netns_exists(lab, host)):
        for link in (BRIDGE, "wire"):
            present = run("ip", "-n", label, "-brief", "link")
            if any(line.split()[0].partition("@")[0] == link for line in present.splitlines()):
                run("ip", "-n", label, "link", "delete", link)
