#!/bin/sh
# The report page in a real browser: sh tests/browser/run.sh OBATCH WORKDIR
# Makes a job, a project of images and a folder of 10,000 pages with the sandbox and obatch report, then lets
# check.js look at them in Chromium. playwright-core, which drives it, stays in WORKDIR for the next time.
set -eu
obatch=$1
mkdir -p "$2"
work=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

cp "$here/check.js" "$here/browser.js" "$work/"
if ! cmp -s "$here/package.json" "$work/package.json" || [ ! -d "$work/node_modules/playwright-core" ]; then
  cp "$here/package.json" "$work/"
  npm install --prefix "$work" --no-package-lock --no-audit --no-fund --loglevel=error >&2
fi

rm -rf "$work/jobs"
mkdir -p "$work/jobs/pages"
cd "$work/jobs"
"$obatch" sandbox --port 0 --dir box --model "$here/model.lua" --batch-seconds 0.1 >out &
sandbox=$!
trap 'kill $sandbox 2>/dev/null; wait $sandbox 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
while ! grep -qs '^listening on' out; do
  kill -0 $sandbox || exit 1
  sleep 0.05
done
export OPENAI_BASE_URL="$(sed -n 's/^listening on //p' out)/v1" OPENAI_API_KEY=sk-any

# What may end with 3: some requests have no good answer, which is what the page is for.
step() {
  code=0
  "$obatch" "$@" >>said 2>&1 || code=$?
  [ $code -eq 0 ] || [ $code -eq 3 ] || { cat said >&2; exit 1; }
}

for id in good broken-1 broken-2 refused long '<script>window.pwned = 3</script>' \
    '<img src=x onerror=window.pwned=4>'; do
  printf '{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini",' "$id"
  printf '"messages":[{"role":"user","content":"Transcribe <b>this</b>."}]}}\n'
done >requests.jsonl
step correction_loop --base-dir job --original-requests requests.jsonl --poll-wait 0.1
step report job

pages=$here/../fixtures/pages
cp "$pages/letters/1893-04-02.png" "$pages/letters/1893-05-19 to Margaret.jpg" "$pages/letters/1893-08-30.jpg" \
  "$pages/forms/arrival.PNG" pages/
cp "$pages/letters/1893-04-02.png" 'pages/<img src=x onerror=window.pwned=5>.png'
echo "Transcribe the page." >prompt.txt
step upload --image-dir pages --prompt-file prompt.txt
step download --poll-wait 0.1
step clean --image-dir pages
rm pages/1893-08-30.jpg
step report batch --output review.html

node "$here/many_pages.js" "$pages/letters/1893-04-02.png" many
step report many

export OBATCH="$obatch" CHROMIUM="${CHROMIUM-/usr/bin/chromium}"
node "$work/check.js"
