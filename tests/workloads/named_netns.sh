#!/bin/bash
# Network namespaces with names, as `ip netns` makes them. needs: privileged, needs: container
control=$1
set -uE

fail() {
    printf '%s\n' "$*" >"$control/.result" && ln "$control/.result" "$control/result"
    exit 1
}

seen() {
    ip netns list
    for name in blue green; do
        ip -netns "$name" -o link show | sed -E 's/<[^>]*>|qdisc.*//g'
        ip -netns "$name" -4 -o address show
        ip -netns "$name" -4 route show | sed "s/ linkdown//"
    done
    ip -o link show | sed -E 's/<[^>]*>|qdisc.*//g'
    ip netns list-id
}

prepare() {
    mkdir -p /run/netns
    mount -t tmpfs none /run/netns
    ip netns add blue
    ip netns add green
    ip -netns blue link add inside type veth peer name outside netns $$
    ip -netns blue address add 10.3.0.1/24 dev inside
    ip -netns blue link set inside up
    ip -netns blue link set lo up
    ip link set outside up
    ip -netns green link add bridge type bridge
    ip -netns green link set bridge up
    ip -netns green route add 10.4.0.0/16 dev bridge
    exec 9</run/netns/green
}

trap 'fail "prepare: $(cat "$control/.complaint")"' ERR
prepare 2>"$control/.complaint"
seen >"$control/.before"
: >"$control/ready"
until [ -e "$control/go" ]; do sleep 0.01; done
seen >"$control/.after"
trap - ERR
diff=$(diff "$control/.before" "$control/.after") || fail "$diff"
[ "$(stat -Lc %i /proc/self/fd/9)" = "$(stat -c %i /run/netns/green)" ] || fail "another namespace"
ip netns delete blue || fail "delete"
echo ok >"$control/.result" && ln "$control/.result" "$control/result"
