#!/bin/sh
# How fast obatch is on this machine, beside the programs that people use for the same: one run with all of them in
# turn, so that whatever else the machine does hits all alike.
#
#   sh scripts/setup.sh bench          installs what it compares with (Node, simdjson, ...); what is missing is left out
#   sh tests/bench/run.sh              every job: half an hour, 5 GB below build/bench, 8 GB in /dev/shm
#   sh tests/bench/run.sh judge walk   these jobs
#   sh tests/bench/run.sh --size small --rounds 3
#                                      a quick look, with a tenth of the data
#   sh tests/bench/run.sh growth       jobs judge and index with 1, 4 and 16 GB: is memory constant, is speed?
#
# It makes its data (once; they stay in build/bench), builds obatch and the reference programs, checks that all of
# them write the same before it times any, and prints Markdown: a table for every job, then one of all.
#
# The jobs, each a short Lua script in this folder that uses what README.md describes, and nothing else:
#
#   judge        910 MB of results by the default policy, good lines to one file, all others to another (in memory)
#   judge-null   the same with both written to /dev/null
#   accept       the same with a policy whose accept() looks into every decoded answer, against the default one
#   index        1.5 GB of requests: find all by custom_id, copy one of twenty byte for byte
#   images       2,000 images (400 MB) to requests
#   walk         find the pictures among 200,000 files
#   upload, download   200 MB to and from a server on this machine
#   sidecars     the texts of 50,000 results to a file each
#   loop         obatch correction_loop with 50,000 requests of 30 KB in two iterations against obatch sandbox
#   start        an empty script
#
# "limit" is a program that moves the same bytes and does nothing with them. The environment: BENCH_DATA, a folder
# with data of the same names that is used instead; OBATCH_BINARY, a program to measure instead of a fresh build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home=$(cd "$here/../.." && pwd)
work=$home/build/bench
mkdir -p "$work/bin"
# Nothing of the caller's account has a part in this.
unset OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORG_ID OPENAI_PROJECT_ID OBATCH_HOME OBATCH_THREADS OBATCH_SIMD

if [ -z "${OBATCH_BINARY-}" ]; then
  cmake -S "$home" -B "$work/obatch" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
  cmake --build "$work/obatch" >&2
  export OBATCH_BINARY="$work/obatch/obatch"
fi

# built SOURCE: whether the program of a source is there and younger.
built() { [ -n "$(find "$work/bin/${1%.*}" -newer "$here/$1" 2>/dev/null)" ]; }
built data.c || rm -rf "$work"/data-*
for source in data.c limit.c measure.c server.c; do
  built $source || cc -O2 -o "$work/bin/${source%.c}" "$here/$source"
done
if command -v c++ >/dev/null && pkg-config --exists simdjson 2>/dev/null; then
  built simdjson.cpp ||
    c++ -O3 -std=c++17 -o "$work/bin/simdjson" "$here/simdjson.cpp" $(pkg-config --cflags --libs simdjson)
fi

exec python3 "$here/bench.py" --work "$work" "$@"
