#!/bin/bash
# Rules of nf_tables and of the older iptables, tracked connections. needs: privileged, needs: container
control=$1
set -uE

fail() {
    printf '%s\n' "$*" >"$control/.result" && ln "$control/.result" "$control/result"
    exit 1
}

seen() {
    nft -a list ruleset | sed -E 's/ # handle [0-9]+//; s/expires [0-9a-z]+/expires/'
    iptables-legacy-save -c | grep -v '^#'
    ip6tables-legacy-save -c | grep -v '^#'
    conntrack -L 2>/dev/null | sed -E 's/ +[0-9]+ [0-9]+ / /' | sort
}

prepare() {
    ip link set lo up
    nft -f - <<'RULES'
table inet first {
    comment "a comment"
    counter hits { packets 5 bytes 700 }
    quota much { over 25 mbytes used 1 mbytes }
    ct helper ftp-helper { type "ftp" protocol tcp; }
    set hosts {
        type ipv4_addr . inet_service
        flags interval,timeout
        elements = { 10.0.0.0/24 . 80-90 timeout 1h, 10.1.0.1 . 443 }
    }
    set seen_ones {
        type ipv4_addr
        size 128
        flags dynamic,timeout
        timeout 5m
    }
    map where {
        type inet_service : verdict
        elements = { 22 : jump ssh, 23 : drop }
    }
    chain ssh {
        ip saddr . tcp dport @hosts accept
    }
    chain incoming {
        type filter hook input priority filter + 3; policy accept;
        iifname "lo" ct state established,related counter packets 12 bytes 3456 accept
        tcp dport vmap @where
        udp dport { 53, 5353, 6000-6010 } counter name "hits" limit rate 10/second burst 7 packets
        ip saddr != 127.0.0.0/8 add @seen_ones { ip saddr timeout 1m } log prefix "odd " comment "why"
        meta mark 0x5 goto ssh
        tcp dport 4444 reject with tcp reset
    }
}
table ip nat {
    chain post {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "eth7" masquerade
        ip daddr 192.0.2.1 snat to 192.0.2.9
    }
}
table netdev border {
    chain in {
        type filter hook ingress device "lo" priority 0; policy accept;
        ip protocol 253 drop
    }
}
RULES
    iptables-legacy -P FORWARD DROP
    iptables-legacy -N friends
    iptables-legacy -A INPUT -p tcp -m multiport --dports 7,9 -m comment --comment echo -j friends
    iptables-legacy -A friends -s 10.5.0.0/16 -m limit --limit 5/min -j ACCEPT -c 17 1700
    iptables-legacy -t mangle -A OUTPUT -j MARK --set-mark 0x77/0xff
    conntrack -I -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 2000 --state ESTABLISHED \
        -u SEEN_REPLY,ASSURED -t 6000 -m 7
    conntrack -I -p udp -s fd00::1 -d fd00::2 --sport 1000 --dport 2000 -t 6000
    ip6tables-legacy -A OUTPUT -d fd00:77::/32 -m conntrack --ctstate NEW -j REJECT
}

trap 'fail "prepare: $(cat "$control/.complaint")"' ERR
prepare 2>"$control/.complaint"
seen >"$control/.before"
: >"$control/ready"
until [ -e "$control/go" ]; do sleep 0.01; done
seen >"$control/.after"
trap - ERR
diff=$(diff "$control/.before" "$control/.after") || fail "$diff"
echo ok >"$control/.result" && ln "$control/.result" "$control/result"
