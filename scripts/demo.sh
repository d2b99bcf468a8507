#!/bin/sh
# The whole way, against a sandbox on this machine. No API key, no network, no cost.
#   sh scripts/demo.sh          page images to texts (a local OCR engine is the model), then a file of
#                               requests through the correction loop (with faults on purpose)
#   sh scripts/demo.sh --live   the file of requests goes to the real API ($OPENAI_API_KEY); shows first
#                               what will be sent
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh demo

cmake -S . -B build/release -G Ninja >/dev/null
cmake --build build/release >/dev/null
obatch=$PWD/build/release/obatch
requests=scripts/demo_requests.jsonl

if [ "${1-}" = --live ]; then
  [ -n "${OPENAI_API_KEY-}" ] || { echo "demo.sh --live needs OPENAI_API_KEY" >&2; exit 2; }
  results=demo_results_live
  echo "This goes to ${OPENAI_BASE_URL:-https://api.openai.com/v1} and costs what these requests cost there:"
  "$obatch" correction_loop --base-dir "$results" --original-requests "$requests" --dry-run
  cat "$requests"
  printf 'Send them? [y/N] '
  read -r answer
  [ "$answer" = y ] || { echo "nothing was sent"; exit 0; }
  exec "$obatch" correction_loop --base-dir "$results" --original-requests "$requests"
fi
[ $# -eq 0 ] || { echo "usage: sh scripts/demo.sh [--live]" >&2; exit 2; }

state=$(mktemp -d)
sandbox=
stop_sandbox() { [ -z "$sandbox" ] || { kill "$sandbox" || true; wait "$sandbox" || true; } 2>/dev/null; sandbox=; }
trap 'stop_sandbox; rm -rf "$state"' EXIT
trap 'exit 130' INT TERM HUP # dash runs no EXIT trap for a signal, and the sandbox would stay

# A sandbox in which this model answers.
start_sandbox() {
  stop_sandbox
  "$obatch" sandbox --port 0 --dir "$state/$1" --model "$1" >"$state/out" &
  sandbox=$!
  until grep -q listening "$state/out"; do
    kill -0 "$sandbox" || exit 1
    sleep 0.1
  done
  OPENAI_API_KEY=sandbox OPENAI_BASE_URL=$(sed -n 's/^listening on //p' "$state/out")/v1
  export OPENAI_API_KEY OPENAI_BASE_URL
}

# One command of the tour. 3 means: finished, and what has no good result is listed. The demo has such
# pages and requests on purpose.
step() {
  printf '\n$ obatch %s\n' "$*"
  code=0
  "$obatch" "$@" || code=$?
  [ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
}

# The jobs are made anew each time, so that they show the whole way.
rm -rf demo_project demo_results
mkdir -p demo_project/pages
cp -R tests/fixtures/pages/*/ demo_project/pages
cp scripts/demo_prompt.txt demo_project/prompt.txt

start_sandbox tesseract
cd demo_project
step upload --image-dir pages --prompt-file prompt.txt
step download --poll-wait 1
step clean --image-dir pages
step deep_clean --image-dir pages --with-image --poll-wait 1
step validate --image-dir batch_json_results --ext .json
step fsck batch
step report batch
printf '\n$ find pages\n'
find pages -name '*.txt*' | sort
cd ..

start_sandbox demo
step correction_loop --base-dir demo_results --original-requests "$requests" --poll-wait 2
step fsck demo_results
step why demo_results page-0017
step report demo_results
