// sidecars.js RESULTS FOLDER: as sidecars.py does it.
const fs = require('fs');
const path = require('path');

const [, , results, top] = process.argv;
const made = new Set();
const decoder = new TextDecoder('utf-8', { fatal: true });
const bytes = fs.readFileSync(results);
for (let start = 0, end; start < bytes.length; start = end + 1) {
  end = bytes.indexOf(10, start);
  if (end < 0) end = bytes.length;
  let result, text;
  try {
    result = JSON.parse(decoder.decode(bytes.subarray(start, end)));
    text = result.response.body.choices[0].message.content;
  } catch {
    continue;
  }
  if (typeof text !== 'string') continue;
  const name = path.join(top, result.custom_id + '.txt');
  const folder = path.dirname(name);
  if (!made.has(folder)) {
    fs.mkdirSync(folder, { recursive: true });
    made.add(folder);
  }
  fs.writeFileSync(name, text);
}
