// 10,000 pages with their texts: node many_pages.js IMAGE FOLDER. The images are one file with many names.
const fs = require("node:fs");

const [, , image, folder] = process.argv;
fs.mkdirSync(folder);
fs.copyFileSync(image, `${folder}/image`);
for (let i = 0; i < 10000; i++) {
  const name = `${folder}/page-${String(i).padStart(5, "0")}.png`, is_bad = i % 50 === 7;
  fs.linkSync(`${folder}/image`, name);
  fs.writeFileSync(is_bad ? name + ".txt.api" : name + ".txt",
    is_bad ? "A page. " + "the same words ".repeat(40) : `Page ${i} of the letter book, which came on a Tuesday.\n`);
}
fs.unlinkSync(`${folder}/image`);
