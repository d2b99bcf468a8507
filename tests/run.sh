#!/bin/sh
# Builds with sanitizers and runs every test: "sh tests/run.sh", or "sh tests/run.sh PATTERN" for the
# suites whose name holds PATTERN. Each suite prints TAP; the last line counts all of it.
set -u
cd "$(dirname "$0")/.." || exit 1
pattern=${1-}
sh scripts/setup.sh tests || exit 1

build=$PWD/build/tests
cmake -S . -B "$build" -G Ninja -DOBATCH_SANITIZE=ON -DOBATCH_TESTS=ON >/dev/null || exit 1
cmake --build "$build" || exit 1
obatch=$build/obatch
export OBATCH_BINARY="$obatch" ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
# Nothing of the caller's account reaches a test.
unset OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORG_ID OPENAI_PROJECT_ID OBATCH_HOME

log=$(mktemp)
suite_log=$(mktemp)
trap 'rm -f "$log" "$suite_log"' EXIT

# suite NAME COMMAND...: a command that prints TAP. One that fails without a "not ok", or says nothing,
# is a failed test of its own.
suite() {
  name=$1
  shift
  case $name in *"$pattern"*) ;; *) return ;; esac
  echo "# $name"
  "$@" >"$suite_log" 2>&1
  code=$?
  cat "$suite_log"
  if [ "$code" -ne 0 ] && ! grep -q '^not ok' "$suite_log"; then
    echo "not ok - $name ended with exit code $code" | tee -a "$suite_log"
  elif ! grep -q '^\(not \)\?ok' "$suite_log"; then
    echo "not ok - $name ran no test" | tee -a "$suite_log"
  fi
  cat "$suite_log" >>"$log"
}

# check NAME COMMAND...: one test that passes when the command does.
check() {
  name=$1
  shift
  case $name in *"$pattern"*) ;; *) return ;; esac
  if output=$("$@" 2>&1); then echo "ok - $name"; else printf '%s\nnot ok - %s\n' "$output" "$name"; fi | tee -a "$log"
}

clang_build() {
  cmake -S . -B build/clang -G Ninja -DCMAKE_C_COMPILER=clang -DOBATCH_TESTS=ON -DOBATCH_FUZZ=ON >/dev/null &&
    cmake --build build/clang
}

check "clang builds everything without a warning" clang_build
check "luacheck finds nothing" luacheck -q lua scripts tests
# What these two find depends on their version; the tree is clean by that of Debian 12.
if clang-format --version | grep -q "version 14"; then
  check "C is formatted as .clang-format says" \
    clang-format --dry-run -Werror src/*.c src/*.h tests/c/*.c tests/fuzz/*.c tests/fuzz/*.h \
      tests/preload/*.c tests/bench/*.c tests/bench/*.cpp
  check "clang-tidy finds nothing" sh -c 'printf "%s\n" src/*.c | xargs -P 2 -n 4 clang-tidy --quiet -p "$1"' tidy "$build"
fi
for program in "$build"/tests/*_test; do
  suite "$(basename "$program")" env CMOCKA_MESSAGE_OUTPUT=TAP "$program"
done
for corpus in tests/fuzz/corpus/*; do
  target=$(basename "$corpus")
  check "$target finds no crash in 10 s" sh tests/fuzz/run.sh 10 "$target"
done
for spec in tests/*_spec.lua; do
  suite "$(basename "$spec" .lua)" "$obatch" run tests/busted.lua "$spec"
done
for spec in json jsonl; do
  suite "${spec}_spec without vectors" env OBATCH_SIMD=portable "$obatch" run tests/busted.lua "tests/${spec}_spec.lua"
done
check "the benchmark runs, and its programs agree" sh tests/bench/run.sh --size tiny --rounds 1
suite "official Node SDK" sh tests/sdk/run.sh "$obatch" build/sdk
suite "report page in Chromium" sh tests/browser/run.sh "$obatch" build/browser

passed=$(grep '^ok' "$log" | grep -vc '# SKIP')
failed=$(grep -c '^not ok\|^ok.*# SKIP' "$log")
[ "$failed" -eq 0 ] || { echo; echo "# what failed:"; grep '^not ok\|^ok.*# SKIP' "$log"; }
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
