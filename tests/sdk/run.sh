#!/bin/sh
# The official OpenAI Node SDK against the sandbox: sh tests/sdk/run.sh OBATCH WORKDIR
# OBATCH is the program; the SDK is installed into WORKDIR and stays there for the next time.
set -eu
obatch=$1
work=$2
here=$(dirname "$0")

mkdir -p "$work"
cp "$here/check.js" "$work/"
if ! cmp -s "$here/package.json" "$work/package.json" || [ ! -d "$work/node_modules/openai" ]; then
    cp "$here/package.json" "$work/"
    npm install --prefix "$work" --no-package-lock --no-audit --no-fund --loglevel=error >&2
fi

rm -rf "$work/state" "$work/out"
"$obatch" sandbox --port 0 --dir "$work/state" --batch-seconds 0.5 --faults "
    complete_upload: after=1 first=1 status=429 retry-after=7
    complete_upload: after=1 first=1 quota
    complete_upload: after=1 first=1 status=403
    complete_upload: after=1 first=1 status=422
    complete_upload: after=1 first=1 status=502 body=html
    complete_upload: after=1 first=1 drop
    cancel_upload: after=1 first=2 status=503 body=html retry-after-ms=20" >"$work/out" &
sandbox=$!
trap 'kill $sandbox 2>/dev/null; wait $sandbox 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
while ! grep -qs '^listening on' "$work/out"; do
    kill -0 $sandbox || exit 1
    sleep 0.05
done
export OPENAI_BASE_URL="$(sed -n 's/^listening on //p' "$work/out")/v1"
node "$work/check.js"
