#!/bin/sh
# The main job from end to end: a sample request file through the correction loop, against a sandbox
# on this machine. No API key, no network, no cost.
#   sh scripts/demo.sh          the sandbox answers, with faults on purpose
#   sh scripts/demo.sh --live   the real API answers ($OPENAI_API_KEY); shows first what will be sent
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh

cmake -S . -B build/release -G Ninja >/dev/null
cmake --build build/release >/dev/null
obatch=build/release/obatch
requests=scripts/demo_requests.jsonl
results=demo_results

if [ "${1-}" = --live ]; then
  [ -n "${OPENAI_API_KEY-}" ] || { echo "demo.sh --live needs OPENAI_API_KEY" >&2; exit 2; }
  results=demo_results_live
  echo "This goes to ${OPENAI_BASE_URL:-https://api.openai.com/v1} and costs what these requests cost there:"
  "$obatch" correction_loop --base-dir "$results" --original-requests "$requests" --dry-run
  cat "$requests"
  printf 'Send them? [y/N] '
  read -r answer
  [ "$answer" = y ] || { echo "nothing was sent"; exit 0; }
else
  [ $# -eq 0 ] || { echo "usage: sh scripts/demo.sh [--live]" >&2; exit 2; }
  # The job is made anew each time, so that it shows the whole way.
  rm -rf "$results"
  state=$(mktemp -d)
  sandbox=
  trap '[ -z "$sandbox" ] || { kill "$sandbox" || true; wait "$sandbox" || true; } 2>/dev/null; rm -rf "$state"' EXIT
  trap 'exit 130' INT TERM HUP # dash runs no EXIT trap for a signal, and the sandbox would stay
  "$obatch" sandbox --port 0 --dir "$state/sandbox" --model demo >"$state/out" &
  sandbox=$!
  until grep -q listening "$state/out"; do
    kill -0 "$sandbox" || exit 1
    sleep 0.1
  done
  OPENAI_API_KEY=sandbox OPENAI_BASE_URL=$(sed -n 's/^listening on //p' "$state/out")/v1
  export OPENAI_API_KEY OPENAI_BASE_URL
fi

code=0
"$obatch" correction_loop --base-dir "$results" --original-requests "$requests" --poll-wait 2 || code=$?
# 3 means: finished, and what has no good answer is listed. The demo has such a request on purpose.
[ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
