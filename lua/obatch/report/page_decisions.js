// A reader's decisions: kept in the browser, taken out as a file for the command, and brought in again.

/** What the browser keeps for this report, or the memory when it keeps nothing. In file: all pages of this machine
 *  have the same storage, so every name begins with what the report is of, and nothing is believed that is read. */
class Store {
  constructor(head) {
    this.prefix = `obatch report\n${head.kind}\n${head.key}\n`;
    this.memory = new Map();
    this.lasting = true;
    try {
      localStorage.setItem(this.prefix + "probe", "1");
      localStorage.removeItem(this.prefix + "probe");
    } catch {
      this.lasting = false;
    }
  }

  read(name) {
    try {
      return JSON.parse((this.lasting ? localStorage.getItem(this.prefix + name) : this.memory.get(name)) || "null");
    } catch {
      return null;
    }
  }

  /** The names of what is kept that begin so. */
  names(begin) {
    const names = new Set();
    try {
      for (const name of Object.keys(localStorage)) {
        if (name.startsWith(this.prefix + begin)) names.add(name.slice(this.prefix.length));
      }
    } catch { /* then there are none */ }
    return names;
  }

  /** Keeps a value; null forgets it. */
  write(name, value) {
    if (this.lasting) {
      try {
        if (value === null) localStorage.removeItem(this.prefix + name);
        else localStorage.setItem(this.prefix + name, JSON.stringify(value));
        return;
      } catch {
        this.lasting = false; // full, or denied from now on
      }
    }
    if (value === null) this.memory.delete(name);
    else this.memory.set(name, JSON.stringify(value));
  }
}

// What the command takes of a note (see obatch.decisions), in bytes.
const MOST_NOTE = 10000;

/** A decision that somebody else has written, if it is one that the command takes. */
function decision_of(value) {
  if (!value || (value.decision !== "accept" && value.decision !== "reject")) return null;
  const note = typeof value.note === "string" ? valid(value.note) : "";
  if (new Blob([note]).size > MOST_NOTE) return null;
  return { decision: value.decision, note: note, exported: value.exported === true };
}

/** Text without halves of characters, which no file can hold. */
const valid = (text) => (text.toWellFormed ? text.toWellFormed() : text);

/** Decisions by item: { decision: "accept"|"reject", note, exported }. One is about a text, by its sha256, and is
 *  none any more when the report shows another text. */
class Decisions {
  constructor(store, items, changed) {
    this.store = store;
    this.items = items;
    this.changed = changed;
    this.made = new Map(); // item -> decision
    this.before = []; // [item, what it was], for undo
    addEventListener("storage", (event) => {
      // The same report in another tab.
      if (event.key === null || !event.key.startsWith(store.prefix + "decision\n")) return;
      this.load();
      changed();
    });
  }

  #name(item) { return `decision\n${item.sha256}\n${item.path ? JSON.stringify(item.path) : item.id}`; }

  load() {
    if (!this.store.lasting) return;
    this.made.clear();
    const names = this.store.names("decision\n");
    for (const item of names.size ? this.items.list : []) {
      const name = this.#name(item), kept = names.has(name) && decision_of(this.store.read(name));
      if (kept && this.possible(item, kept.decision)) this.made.set(item, kept);
    }
  }

  /** Whether an item can be decided about. Where a request came back without an answer, it can be asked for again. */
  possible(item, decision) { return item.sha256 ? true : decision !== "accept" && item.attempts > 0; }

  of(item) { return this.made.get(item) || null; }

  set(item, decision) {
    this.before.push([item, this.of(item)]);
    this.#put(item, decision);
    this.changed();
  }

  /** Takes the last decision back, or, when that was before the page was opened, the one about `open`; gives the
   *  item. */
  undo(open) {
    const last = this.before.pop() || (open && this.of(open) ? [open, null] : null);
    if (!last) return null;
    this.#put(last[0], last[1] && { ...last[1], exported: false });
    this.changed();
    return last[0];
  }

  #put(item, decision) {
    if (decision) this.made.set(item, decision);
    else this.made.delete(item);
    this.store.write(this.#name(item), decision);
  }

  /** In the order of the items. */
  all() { return [...this.made].sort((a, b) => a[0].at - b[0].at); }

  count(decision) { return [...this.made.values()].filter((one) => one.decision === decision).length; }

  get waiting() { return [...this.made.values()].filter((one) => !one.exported).length; }

  /** The file for --decisions (shape: obatch.decisions). */
  lines() {
    return this.all().map(([item, made]) => JSON.stringify({ custom_id: item.id, decision: made.decision,
      note: made.note || "", sha256: item.sha256, path: this.items.kind === "images" ? item.path
        : undefined }) + "\n").join("");
  }

  exported() {
    for (const [item, made] of this.made) this.#put(item, { ...made, exported: true });
    this.changed();
  }

  /** Takes an exported file. A later line about the same item wins. Gives { taken, other (about another text or an
   *  item that is not here), faulty (numbers of lines) }. */
  take(text) {
    const told = { taken: 0, other: 0, faulty: [] }, taken = new Set();
    text.replace(/^\uFEFF/, "").split("\n").forEach((line, i) => {
      if (!line.trim()) return;
      let one = null;
      try { one = JSON.parse(line); } catch { /* told below */ }
      const made = decision_of(one);
      if (!made || typeof one.custom_id !== "string") {
        told.faulty.push(i + 1);
        return;
      }
      const item = this.items.by_path.get(JSON.stringify(one.path)) || this.items.by_id.get(one.custom_id);
      if (!item || item.sha256 !== (one.sha256 || null) || !this.possible(item, one.decision)) {
        told.other++;
        return;
      }
      taken.add(item);
      this.#put(item, { ...made, exported: true });
    });
    told.taken = taken.size;
    this.changed();
    return told;
  }
}
