#!/bin/bash
# Links, addresses, routes and rules of a network namespace. needs: privileged, needs: container
control=$1
set -uE

fail() {
    printf '%s\n' "$*" >"$control/.result" && ln "$control/.result" "$control/result"
    exit 1
}

# What `ip` shows, without what moves by itself: timers, ages, states of the spanning tree.
seen() {
    ip -d -o link show | sed -E 's/[a-z_]+_timer +[0-9.]+//g; s/port_id.*config_pending 0//;
        s/topology_change[a-z_]* [01]//g; s/state [a-z]+ priority/priority/'
    ip -o address show | sed -E 's/(valid|preferred)_lft [0-9]+sec//g'
    ip -4 route show table all | sed 's/ linkdown//'
    ip -6 route show table all | sed -E 's/ expires [0-9]+sec//; s/ linkdown//' | sort
    ip -4 rule show
    ip -6 rule show
    ip nexthop show
    ip -4 neighbour show nud permanent
    ip -6 neighbour show nud permanent
    ip neighbour show proxy
    bridge fdb show | grep -E 'static|dst' | sort
    ip addrlabel list
    ip maddress show dev v0 | grep static
    tc qdisc show | sed -E 's/direct_packets_stat [0-9]+//' | sort
    tc class show dev v1 | sort
    cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/v1/{accept_dad,accept_ra,mtu} \
        /proc/sys/net/ipv4/conf/{all,v0}/rp_filter /proc/sys/net/core/somaxconn \
        /proc/sys/net/ipv4/neigh/v1/gc_stale_time /proc/sys/net/ipv4/ip_local_port_range
}

prepare() {
    ip link set lo up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    echo 777 >/proc/sys/net/core/somaxconn
    echo "20000 30000" >/proc/sys/net/ipv4/ip_local_port_range
    ip link add v0 index 40 mtu 1400 txqueuelen 77 address 02:00:00:00:00:40 \
        type veth peer name v1 index 30 address 02:00:00:00:00:30
    ip link set v1 alias "the far end" group 7
    ip link property add dev v1 altname a-long-alternative-name
    ip link add br0 type bridge forward_delay 200 ageing_time 10000 mcast_snooping 0
    ip link set v0 master br0
    ip link set v0 type bridge_slave hairpin on isolated on priority 17
    ip link add mv0 link v1 type macvlan mode bridge
    ip link add vx0 type vxlan id 5 dstport 4789 local 10.1.0.1 ttl 9
    ip link add q0 type ifb
    [ -e /dev/net/tun ] || { mkdir -p /dev/net; mknod /dev/net/tun c 10 200; }
    ip tuntap add dev t0 mode tap user 1000
    echo 2 >/proc/sys/net/ipv4/conf/v0/rp_filter
    echo 0 >/proc/sys/net/ipv6/conf/v1/accept_ra
    echo 61 >/proc/sys/net/ipv4/neigh/v1/gc_stale_time
    ip link set v0 up
    ip link set v1 up allmulticast on
    ip link set br0 up
    ip link set mv0 up promisc on
    ip link set vx0 up
    ip address add 10.1.0.1/24 dev v1 label v1:first
    ip address add 10.1.0.2/24 dev v1
    ip address add 10.2.0.1 peer 10.2.0.9/32 dev br0 scope link
    ip address add fd00:1::1/64 dev v1 nodad
    ip address add fd00:2::1/64 dev br0 nodad valid_lft 5000 preferred_lft 4000
    ip address add 127.0.0.77/8 dev lo
    ip address del ::1/128 dev lo
    ip route add default via 10.1.0.250 dev v1 mtu 1300 metric 50
    ip route add 10.9.0.0/16 nexthop via 10.1.0.250 weight 2 nexthop via 10.1.0.251 weight 1
    ip route add blackhole 10.66.0.0/16
    ip route add unreachable fd00:66::/64
    ip route add prohibit 10.67.0.0/16 table 99
    ip route add 10.68.0.0/16 via 10.1.0.250 table 1000 dev v1 src 10.1.0.2 onlink
    ip -6 route add fd00:9::/64 nexthop via fd00:1::2 nexthop via fd00:1::3
    ip -6 route add fd00:10::/64 via fd00:1::2 dev v1
    ip nexthop add id 11 via 10.1.0.240 dev v1
    ip nexthop add id 12 via 10.1.0.241 dev v1
    ip nexthop add id 13 group 11,3/12
    ip route add 10.70.0.0/16 nhid 13
    ip rule add from 10.1.0.2 fwmark 0x5/0xff lookup 99 priority 1234
    ip rule del lookup default
    ip -6 rule add to fd00:10::/64 lookup 100
    ip neighbour add 10.1.0.250 lladdr 02:aa:00:00:00:01 dev v1 nud permanent
    ip neighbour add fd00:1::2 lladdr 02:aa:00:00:00:02 dev v1 nud permanent
    ip neighbour add proxy 10.1.0.199 dev v1
    echo 1281 >/proc/sys/net/ipv6/conf/v1/mtu
    bridge fdb add 02:bb:00:00:00:01 dev v0 master static
    bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.1.0.77 self permanent
    tc qdisc add dev v1 root handle 7: htb default 0x20
    tc class add dev v1 parent 7: classid 7:1 htb rate 100mbit ceil 100mbit
    tc class add dev v1 parent 7:1 classid 7:20 htb rate 10mbit ceil 50mbit prio 3
    tc qdisc add dev v1 parent 7:20 handle 8: pfifo limit 17
    tc qdisc add dev mv0 root tbf rate 1mbit burst 32kbit latency 400ms
    tc qdisc add dev v0 clsact
    ip maddress add 33:33:00:00:00:77 dev v0
    ip addrlabel add prefix fd00:1::/64 label 99
}

trap 'fail "prepare: $(cat "$control/.complaint")"' ERR
prepare 2>"$control/.complaint"
trap - ERR
# From then on nothing moves by itself.
while ip -6 address show tentative | grep -q inet6; do sleep 0.05; done
seen >"$control/.before" 2>&1
: >"$control/ready"
until [ -e "$control/go" ]; do sleep 0.01; done
seen >"$control/.after" 2>&1
diff=$(diff "$control/.before" "$control/.after") || fail "$diff"
echo ok >"$control/.result" && ln "$control/.result" "$control/result"
