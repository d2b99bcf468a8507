#!/bin/sh
# Runs the fuzz targets, one after the other: "sh tests/fuzz/run.sh SECONDS [PATTERN]", so many seconds
# each, those whose name holds PATTERN. Needs clang. What makes a target fail is kept as
# build/clang/finds/TARGET-..., and inputs that reach new code in build/clang/finds/TARGET/; the smallest
# set of them goes into the corpus with
#   build/clang/tests/TARGET -merge=1 tests/fuzz/corpus/TARGET build/clang/finds/TARGET
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:?usage: sh tests/fuzz/run.sh SECONDS [PATTERN]}
pattern=${2-}
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

cmake -S . -B build/clang -G Ninja -DCMAKE_C_COMPILER=clang -DOBATCH_TESTS=ON -DOBATCH_FUZZ=ON >/dev/null
cmake --build build/clang >/dev/null
for corpus in tests/fuzz/corpus/*"$pattern"*; do
  target=$(basename "$corpus")
  finds=build/clang/finds/$target
  mkdir -p "$finds"
  echo "$target: $seconds s"
  build/clang/tests/"$target" -max_total_time="$seconds" -detect_leaks=1 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$finds-" "$finds" "$corpus"
done
