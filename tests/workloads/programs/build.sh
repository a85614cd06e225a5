#!/bin/sh
# Build a project again and again with make and two jobs: build.sh DIRECTORY
# The digests of what each round has made go to `sums`, one line a round.
directory=$1
cd "$directory/project" || exit 1
rounds=0
while [ ! -e "$directory/stop" ]; do
    make -s clean || exit 1
    make -s -j2 || exit 1
    sha256sum -- *.o libparts.a answer answer.txt | sha256sum >>"$directory/sums" || exit 1
    rounds=$((rounds + 1))
    [ "$rounds" = 1 ] && : >"$directory/ready"
done
echo "$rounds rounds" >"$directory/done"
