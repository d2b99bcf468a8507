// images.js IMAGES PREFIX: as images.py does it.
const fs = require('fs');
const path = require('path');

const [, , images, prefix] = process.argv;
const paths = [];
(function walk(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) walk(name);
    else if (/\.(jpe?g|png|webp|gif)$/i.test(name)) paths.push(name);
  }
})(images);

let part = 0, size = 0, count = 0, out;
for (const name of paths.sort()) {
  const url = 'data:image/jpeg;base64,' + fs.readFileSync(name).toString('base64');
  const line = Buffer.from(JSON.stringify({
    body: {
      messages: [{
        content: [
          { text: 'Transcribe the page.\nAnswer with "strict" JSON – nothing else.', type: 'text' },
          { image_url: { url }, type: 'image_url' },
        ],
        role: 'user',
      }],
      model: 'gpt-4o-mini',
    },
    custom_id: name, method: 'POST', url: '/v1/chat/completions',
  }) + '\n');
  if (!out || count === 50000 || size + line.length > 200e6) {
    if (out) fs.closeSync(out);
    part += 1;
    size = count = 0;
    out = fs.openSync(`${prefix}${part}.jsonl`, 'w');
  }
  fs.writeSync(out, line);
  size += line.length;
  count += 1;
}
