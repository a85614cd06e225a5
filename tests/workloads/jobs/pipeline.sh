#!/bin/bash
# A job of several processes and many short-lived ones: pipeline.sh DIRECTORY STEPS
# A step that is lost or repeated changes the output; `done` appears at the end.
directory=$1 steps=$2
set -o pipefail
for ((i = 1; i <= steps; i++)); do
    echo "$i $((i * i % 9973))"
    sleep 0.003
done |
    while read -r number square; do
        total=$((total + square))
        echo "$number $square $total"
    done |
    awk '{ sum += $3; print $1, $2, $3, sum; fflush() }' |
    tee "$directory/raw" |
    sed -u 's/ /:/g' |
    sort -t: -k2n -k1n >"$directory/output" || exit 1
cksum <"$directory/raw" >>"$directory/output"
echo done >"$directory/done"
