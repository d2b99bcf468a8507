// A second opinion for json_spec.lua: node second_parser.js FILE
// FILE has one text per line, in hex. For each, one line: "refused", or the value in a form that
// leaves no room for taste: doubles and UTF-8 in hex, keys sorted, "spoiled" where a string has a
// lone surrogate or a number is beyond all doubles.
"use strict";
const fs = require("fs");

class Spoiled extends Error {}

function text(string) {
  if (/\p{Surrogate}/u.test(string)) throw new Spoiled();
  return Buffer.from(string, "utf8").toString("hex");
}

function canonical(value) {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return "s" + text(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new Spoiled();
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value);
    return bytes.toString("hex");
  }
  if (Array.isArray(value)) return "[" + value.map(canonical).join(",") + "]";
  return "{" + Object.keys(value).map((key) => text(key) + ":" + canonical(value[key])).sort().join(",") + "}";
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const out = fs.readFileSync(process.argv[2], "latin1").trimEnd().split("\n").map((line) => {
  let value;
  try {
    value = JSON.parse(decoder.decode(Buffer.from(line, "hex")));
  } catch (error) {
    return "refused";
  }
  try {
    return canonical(value);
  } catch (error) {
    if (error instanceof Spoiled) return "spoiled";
    throw error;
  }
});
process.stdout.write(out.join("\n") + "\n");
