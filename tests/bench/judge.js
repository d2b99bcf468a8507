// judge.js RESULTS GOOD BAD: as judge.py does it.
const fs = require('fs');
const { isUtf8 } = require('buffer');

const BLOCK = 1 << 22;
const [, , results, goodPath, badPath] = process.argv;
const input = fs.openSync(results);
const outputs = { good: fs.openSync(goodPath, 'w'), bad: fs.openSync(badPath, 'w') };

function isGood(line) {
  if (!isUtf8(line)) return false; // toString() would replace what is not UTF-8
  try {
    const { response } = JSON.parse(line.toString());
    const [choice] = response.body.choices;
    let answer = choice.message.content;
    if (response.status_code !== 200 || choice.finish_reason !== 'stop' || typeof answer !== 'string') return false;
    if (answer.startsWith('```json\n') && answer.endsWith('\n```')) answer = answer.slice(8, -4);
    JSON.parse(answer);
    return true;
  } catch {
    return false;
  }
}

let buffer = Buffer.allocUnsafe(2 * BLOCK);
for (let held = 0; ;) {
  if (buffer.length - held < BLOCK) buffer = Buffer.concat([buffer, Buffer.allocUnsafe(buffer.length)]);
  const read = fs.readSync(input, buffer, held, BLOCK);
  held += read;
  const lines = { good: [], bad: [] };
  let start = 0;
  for (let end; start < held; start = end + 1) {
    end = buffer.subarray(0, held).indexOf(10, start);
    if (end < 0 && read > 0) break;
    if (end < 0) end = held;
    const kind = isGood(buffer.subarray(start, end)) ? 'good' : 'bad';
    lines[kind].push(buffer.subarray(start, Math.min(end + 1, held)));
  }
  for (const kind of ['good', 'bad']) {
    const bytes = Buffer.concat(lines[kind]);
    for (let done = 0; done < bytes.length;) done += fs.writeSync(outputs[kind], bytes, done);
  }
  if (read === 0) break;
  buffer.copyWithin(0, start, held);
  held -= start;
}
