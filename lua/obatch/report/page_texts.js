"use strict";
// Texts of models and services, which are hostile: they get into the page as text nodes only. Here are elements
// made of data, characters that cannot be seen, marks in a text, and the difference between two texts.

/** An element: h("p", { class: "x", title: "y" }, "text", child, ...). Properties whose value is null or false
 *  are left out, functions are listeners ("click"); children that are null are left out, strings become text nodes. */
function h(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value == null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  put(node, ...children);
  return node;
}

function put(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child == null || child === false) continue;
    node.append(typeof child === "object" ? child : document.createTextNode(child));
  }
  return node;
}

function fill(node, ...children) {
  node.replaceChildren();
  return put(node, ...children);
}

const numbers = new Intl.NumberFormat("en-US");
const number = (n) => (n == null ? "–" : numbers.format(n));
const plural = (n, one, many) => `${number(n)} ${n === 1 ? one : many || one + "s"}`;

function money(dollars) {
  if (dollars == null) return "–";
  if (dollars > 0 && dollars < 0.0001) return "<$0.0001";
  return "$" + dollars.toFixed(dollars === 0 || dollars >= 0.1 ? 2 : dollars >= 0.01 ? 3 : 4);
}

function moment(unix) {
  if (unix == null) return "–";
  const at = new Date(unix * 1000), two = (n) => String(n).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} `
    + `${two(at.getHours())}:${two(at.getMinutes())}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

// ---------------------------------------------------------------- characters that cannot be seen

// Controls (a line break and a tab are shown as what they are), what turns the direction of writing, has no
// width, is blank without being a blank, or hides words (tags, variation selectors of plane 14); a lone
// surrogate, too.
const UNSEEN = new RegExp("\\r(?!\\n)|[\\0-\\x08\\x0B\\x0C\\x0E-\\x1F\\x7F-\\x9F\\u00AD\\u034F\\u061C" +
  "\\u115F\\u1160\\u17B4\\u17B5\\u180B-\\u180F\\u200B-\\u200F\\u2028-\\u202E\\u2060-\\u206F\\u3164\\uFEFF" +
  "\\uFFA0\\uFFF0-\\uFFFB\\u{1D173}-\\u{1D17A}\\u{E0000}-\\u{E0FFF}\\uD800-\\uDFFF]", "gu");

const UNSEEN_NAMES = {
  0x09: "tab", 0x0D: "carriage return", 0x1B: "escape", 0xAD: "soft hyphen", 0x61C: "Arabic letter mark",
  0x200B: "zero width space", 0x200C: "zero width non-joiner", 0x200D: "zero width joiner",
  0x200E: "left-to-right mark", 0x200F: "right-to-left mark", 0x2028: "line separator", 0x2029: "paragraph separator",
  0x202A: "left-to-right embedding", 0x202B: "right-to-left embedding", 0x202C: "end of direction",
  0x202D: "left-to-right override", 0x202E: "right-to-left override", 0x2060: "word joiner",
  0x2066: "left-to-right isolate", 0x2067: "right-to-left isolate", 0x2068: "first strong isolate",
  0x2069: "end of isolate", 0xFEFF: "byte order mark",
};

/** The nodes of a text: text nodes, and a small box for each character that could not be seen. */
function shown(text) {
  const nodes = [];
  let last = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (found.index > last) nodes.push(document.createTextNode(text.slice(last, found.index)));
    const code = found[0].codePointAt(0), hex = "U+" + code.toString(16).toUpperCase().padStart(4, "0");
    nodes.push(h("span", { class: "unseen", title: UNSEEN_NAMES[code] || "invisible character" }, hex));
    last = found.index + found[0].length;
  }
  if (last < text.length) nodes.push(document.createTextNode(text.slice(last)));
  return nodes;
}

// What is escaped in a string of JSON; both signs of a line end of Windows are one.
const ESCAPE = /\\(?:r\\n|[^])/g;

/** The nodes of a text that is JSON: as it is, but lines end where they end in its strings. */
function shown_json(text) {
  const nodes = [];
  let last = 0;
  for (const found of text.matchAll(ESCAPE)) {
    if (!found[0].endsWith("n")) continue;
    nodes.push(...shown(text.slice(last, found.index)), h("span", { class: "escape" }, found[0]),
      document.createTextNode("\n"));
    last = found.index + found[0].length;
  }
  return nodes.concat(shown(text.slice(last)));
}

/** A text for places that hold no elements. */
const plain = (text) => shown(text).map((node) => node.textContent).join("");

/** How the nodes of a text are made. */
const way_of = (text) => (/^\s*(```\w*\s*)?[{[]/.test(text) ? shown_json : shown);

/** A short string of data within a line: an id, a reason. */
const inline = (text) => h("bdi", {}, shown(text));

// ---------------------------------------------------------------- marks in a text

/** The nodes of a text with its marks and gaps (shapes: obatch.report). A mark has the id PREFIX-N of its first
 *  piece, N from 1 on. */
function marked(text, marks, gaps, prefix) {
  marks = marks || [];
  gaps = gaps || [];
  const edges = new Set([0, text.length]);
  const inside = (at) => Math.min(Math.max(at, 0), text.length);
  for (const mark of marks) edges.add(inside(mark.from)).add(inside(mark.to));
  for (const gap of gaps) edges.add(inside(gap.at));
  const show = way_of(text);
  const places = [...edges].sort((a, b) => a - b), nodes = [], begun = new Set();
  const begin = (n) => !begun.has(n) && begun.add(n) && `${prefix}-${n + 1}`;
  places.forEach((from, i) => {
    for (const gap of gaps) {
      if (inside(gap.at) === from) nodes.push(h("span", { class: "gap" },
        `… ${plural(gap.left_out, "character")} left out …`));
    }
    marks.forEach((mark, n) => {
      if (inside(mark.from) === from && mark.to <= mark.from) {
        nodes.push(h("mark", { class: "place", id: begin(n), "data-n": n + 1, title: mark.words }));
      }
    });
    const to = places[i + 1];
    if (to === undefined || to === from) return;
    const over = marks.flatMap((mark, n) => (mark.from < to && mark.to > from ? [n] : []));
    let piece = show(text.slice(from, to));
    for (const n of over.reverse()) {
      const id = begin(n);
      piece = [h("mark", { id: id, "data-n": id && n + 1, title: marks[n].words }, piece)];
    }
    nodes.push(...piece);
  });
  return nodes;
}

// ---------------------------------------------------------------- difference of two texts

// Cells of the table of one comparison; what needs more is divided at words that both texts have once.
const CELLS = 1000000;

const words_of = (text) => text.match(/\\(?:r\\n|[^])|[\p{L}\p{N}\p{M}]+|\r?\n|[^\S\n]+|[^]/gu) || [];

/** The difference as a list of { kind: "same" | "old" | "new", text }. Quick for any two texts: where nothing
 *  divides a stretch that is too long to compare, all of it is old and new. */
function difference(old_text, new_text) {
  const pieces = [];
  const add = (kind, list, from, to) => {
    if (from === to) return;
    const text = list.slice(from, to).join(""), last = pieces[pieces.length - 1];
    if (last && last.kind === kind) last.text += text;
    else pieces.push({ kind: kind, text: text });
  };
  compare(words_of(old_text), words_of(new_text), add);
  return pieces;
}

function compare(a, b, add) {
  // Stretches that are still to be compared, the next one on top; one with `same` is a division.
  const stack = [[0, a.length, 0, b.length]];
  while (stack.length) {
    let [a1, a2, b1, b2] = stack.pop(), end = 0;
    const begin = a1;
    while (a1 < a2 && b1 < b2 && a[a1] === b[b1]) a1++, b1++;
    add("same", a, begin, a1);
    while (a1 < a2 - end && b1 < b2 - end && a[a2 - end - 1] === b[b2 - end - 1]) end++;
    if (end) {
      // After what lies between; compared with itself it is "same".
      stack.push([a2 - end, a2, b2 - end, b2]);
      a2 -= end;
      b2 -= end;
    }
    if (a1 === a2 || b1 === b2) {
      add("old", a, a1, a2);
      add("new", b, b1, b2);
    } else if ((a2 - a1 + 1) * (b2 - b1 + 1) <= CELLS) {
      compare_all(a, a1, a2, b, b1, b2, add);
    } else {
      const anchors = common_once(a, a1, a2, b, b1, b2);
      if (!anchors.length) {
        add("old", a, a1, a2);
        add("new", b, b1, b2);
      }
      for (let i = anchors.length - 1, a_end = a2, b_end = b2; i >= 0; i--) {
        stack.push([anchors[i][0], a_end, anchors[i][1], b_end]);
        [a_end, b_end] = anchors[i];
        if (i === 0) stack.push([a1, a_end, b1, b_end]);
      }
    }
  }
}

/** The longest common subsequence by the usual table. */
function compare_all(a, a1, a2, b, b1, b2, add) {
  const width = b2 - b1 + 1, table = new Uint32Array((a2 - a1 + 1) * width);
  for (let i = a2 - 1; i >= a1; i--) {
    for (let j = b2 - 1, at = (i - a1) * width + j - b1; j >= b1; j--, at--) {
      table[at] = a[i] === b[j] ? table[at + width + 1] + 1 : Math.max(table[at + width], table[at + 1]);
    }
  }
  let i = a1, j = b1;
  while (i < a2 && j < b2) {
    const at = (i - a1) * width + j - b1;
    if (a[i] === b[j]) add("same", a, i++, i), j++;
    else if (table[at + width] >= table[at + 1]) add("old", a, i++, i);
    else add("new", b, j++, j);
  }
  add("old", a, i, a2);
  add("new", b, j, b2);
}

/** Places of words that both have exactly once, in the same order in both: [[in a, in b], ...]. */
function common_once(a, a1, a2, b, b1, b2) {
  const once = (list, from, to) => {
    const places = new Map();
    for (let i = from; i < to; i++) places.set(list[i], places.has(list[i]) ? -1 : i);
    return places;
  };
  const in_b = once(b, b1, b2), pairs = [];
  for (const [word, at] of once(a, a1, a2)) {
    const other = in_b.get(word);
    if (at >= 0 && other >= 0) pairs.push([at, other]);
  }
  // The longest increasing run of the places in b (pairs are in the order of a).
  const tails = [], before = new Array(pairs.length);
  pairs.forEach((pair, i) => {
    let low = 0, high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pairs[tails[middle]][1] < pair[1]) low = middle + 1;
      else high = middle;
    }
    before[i] = low ? tails[low - 1] : -1;
    tails[low] = i;
  });
  const chain = [];
  for (let i = tails.length ? tails[tails.length - 1] : -1; i >= 0; i = before[i]) chain.push(pairs[i]);
  return chain.reverse();
}

/** The nodes of a difference. */
function difference_shown(old_text, new_text) {
  const tags = { same: "span", old: "del", new: "ins" }, show = way_of(new_text);
  return difference(old_text, new_text).map((piece) => h(tags[piece.kind], {}, show(piece.text)));
}

// ---------------------------------------------------------------- texts as parts of the page

const $ = (id) => document.getElementById(id);

/** A part whose content is made when it is first opened. */
function later(summary, make) {
  const details = h("details", { toggle: () => {
    if (details.open && details.children.length === 1) put(details, make());
  } }, h("summary", {}, summary));
  return details;
}

const code_box = (label, text) => h("pre", { class: "code", tabindex: 0, "aria-label": label }, shown(text));

function text_box(label, one, prefix) {
  return h("div", { class: "text", tabindex: 0, role: "region", "aria-label": label, dir: "auto" },
    one.text === "" ? h("span", { class: "quiet" }, "(empty)") : marked(one.text, one.marks, one.gaps, prefix));
}

function changes(before, after) {
  if (before.text === after.text) return h("p", { class: "quiet" }, "Nothing: the texts are the same.");
  return h("div", { class: "text difference", tabindex: 0, role: "region", "aria-label": "Difference", dir: "auto" },
    difference_shown(before.text, after.text));
}

const MOST_MARKS = 24;

/** What is wrong where, in words; each leads to its place. Marks of the same words are one entry. */
function mark_list(marks, prefix) {
  if (!marks || !marks.length) return null;
  const entries = new Map();
  marks.forEach((mark, n) => {
    const words = `${mark.kind}: ${mark.words || ""}`;
    if (!entries.has(words)) entries.set(words, { mark: mark, n: n, times: 0 });
    entries.get(words).times++;
  });
  const all = [...entries.values()];
  return h("ol", { class: "findings" }, all.slice(0, MOST_MARKS).map(({ mark, n, times }) => h("li", {},
    h("button", { type: "button", class: "link", click: () => to_mark($(`${prefix}-${n + 1}`)) },
      h("span", { class: "n" }, n + 1),
      h("b", {}, inline(mark.kind)), " ", mark.words ? inline(mark.words) : null,
      times > 1 ? ` (${number(times)} places)` : null))),
  all.length > MOST_MARKS && h("li", { class: "quiet" }, `and ${number(all.length - MOST_MARKS)} more`));
}

function to_first_mark(box) {
  const mark = box.querySelector("mark");
  if (!mark || box.scrollHeight <= box.clientHeight) return;
  box.scrollTop = Math.max(0, top_in(box, mark) - box.clientHeight / 3);
}

const top_in = (box, mark) => mark.getBoundingClientRect().top - box.getBoundingClientRect().top + box.scrollTop;

function to_mark(mark) {
  if (!mark) return;
  for (const other of document.querySelectorAll("mark.now")) other.classList.remove("now");
  mark.classList.add("now");
  const box = mark.closest(".text");
  box.scrollTop = Math.max(0, top_in(box, mark) - box.clientHeight / 3);
  mark.scrollIntoView({ block: "nearest" });
  box.focus({ preventScroll: true });
}
