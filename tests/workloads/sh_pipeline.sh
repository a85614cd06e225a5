#!/bin/bash
# A shell with background jobs, a coprocess, a here-document, a trap, and a pipeline of filters
# that are all in the middle of their work.
control=$1
fail() {
    echo "$*" >"$control/.result" && ln "$control/.result" "$control/result" 2>/dev/null
    exit 1
}
trap 'trapped=yes' USR1
coproc adder { while read -r a b; do echo $((a + b)); done; }
exec 7<<'TEXT'
first line
second line
TEXT
read -r line <&7
[ "$line" = "first line" ] || fail "here-document: $line"
{
    for ((i = 0; i < 3000; i++)); do
        echo "$i"
        [ "$i" = 1000 ] && touch "$control/ready" && until [ -e "$control/go" ]; do sleep 0.01; done
    done
} | sed 's/$/0/' | awk '{ print $1 / 10; fflush() }' | grep -v '^$' | tee "$control/copy" |
    sort -n >"$control/sorted" &
pipeline=$!
until [ -e "$control/go" ]; do sleep 0.01; done
wait "$pipeline" || fail "the pipeline ended with $?"
[ "$(md5sum <"$control/sorted")" = "$(seq 0 2999 | md5sum)" ] || fail "the pipeline lost a line"
echo "20 22" >&"${adder[1]}"
read -r sum <&"${adder[0]}"
[ "$sum" = 42 ] || fail "the coprocess said $sum"
read -r line <&7
[ "$line" = "second line" ] || fail "here-document: $line"
kill -USR1 $$
[ "$trapped" = yes ] || fail "the trap did not run"
echo ok >"$control/.result" && ln "$control/.result" "$control/result"
exit 0
