// The items: an index of all of them, which of them are listed, and a list that has elements only for those in sight.

/** The items of the report. Of each only what lists and filters need stays in memory; the rest is read from its
 *  line whenever it is looked at. */
class Items {
  constructor(text, kind) {
    this.text = text;
    this.kind = kind;
    this.list = [];
    this.by_id = new Map();
    this.by_path = new Map(); // of images; paths that are not UTF-8 are objects
  }

  /** Reads the lines in slices, so that the page can be used meanwhile; calls back after each slice. */
  async read(progress) {
    let at = 0;
    const text = this.text;
    while (at < text.length) {
      const until = performance.now() + 25;
      do {
        let end = text.indexOf("\n", at);
        if (end < 0) end = text.length;
        if (end > at) this.#add(at, end);
        at = end + 1;
      } while (at < text.length && performance.now() < until);
      progress(at / text.length);
      await pause();
    }
  }

  #add(from, to) {
    const full = JSON.parse(this.text.slice(from, to));
    const item = { at: this.list.length, from: from, to: to, id: full.id, sha256: full.sha256 || null,
      known: full.decision || null,
      reason: full.reason || "", group: full.group || "" };
    if (this.kind === "images") {
      Object.assign(item, { name: full.name || full.id, path: full.path, image: full.image || null, state: full.state,
        score: full.score || 0, label: full.label === true, blank: full.blank === true });
    } else {
      Object.assign(item, { name: full.id, class: full.class || null, action: full.action, iteration: full.iteration
        || 0,
        attempts: (full.attempts || []).length });
    }
    // Two images may have one custom_id ("a/b.png", "a|b.png").
    item.key = this.by_id.has(item.id) ? `${item.id}\n${JSON.stringify(item.path)}` : item.id;
    this.list.push(item);
    this.by_id.set(item.key, item);
    if (item.path) this.by_path.set(JSON.stringify(item.path), item);
  }

  /** All that the report says of an item. */
  full(item) { return JSON.parse(this.text.slice(item.from, item.to)); }

  /** The set of items whose id, name, reason, answers or versions hold the words; null when `is_old()`. Calls back
   *  with how much is searched. */
  async search(words, is_old, progress) {
    const wanted = words.toLowerCase(), found = new Set(), holds = (text) => text != null
      && String(text).toLowerCase().includes(wanted);
    // As the words stand in a line: most lines need not be read.
    const raw = JSON.stringify(words).slice(1, -1).replaceAll("<", "\\u003c").toLowerCase();
    let until = performance.now() + 25;
    for (const item of this.list) {
      if (this.text.slice(item.from, item.to).toLowerCase().includes(raw)) {
        const full = this.full(item);
        const texts = [full.id, full.name, full.reason, full.text, ...(full.reasons || []),
          ...(full.versions || []).map((v) => v.text),
          ...(full.attempts || []).flatMap((a) => [a.text, a.reason, a.result])];
        if (texts.some(holds)) found.add(item);
      }
      if (performance.now() > until) {
        progress(item.to / this.text.length);
        await pause();
        if (is_old()) return null;
        until = performance.now() + 25;
      }
    }
    return found;
  }
}

const pause = () => new Promise((done) => setTimeout(done, 0));

/** A number for an item in a draw of a sample, the same whenever and wherever it is asked for. */
function lot(draw, id) {
  let hash = 2166136261;
  const text = draw + "\n" + id;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  hash = Math.imul(hash ^ (hash >>> 16), 2246822507);
  hash = Math.imul(hash ^ (hash >>> 13), 3266489909);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** The items with the `n` lowest lots. */
function sample_of(list, n, draw) {
  if (!n || list.length <= n) return list;
  const lots = new Map(list.map((item) => [item, lot(draw, item.id)]));
  const chosen = new Set([...list].sort((a, b) => lots.get(a) - lots.get(b) || a.at - b.at).slice(0, n));
  return list.filter((item) => chosen.has(item));
}

// ---------------------------------------------------------------- which items are listed

/** What can be chosen; `of` gives the values that an item counts for. The sample is taken from what these leave;
 *  decisions and search come after it, so that a sample stays the same while one decides. */
const FILTERS = {
  job: [
    { name: "class", of: (item) => [item.class || "not judged"] },
    { name: "action", of: (item) => [item.action || "–"] },
    { name: "iteration", of: (item) => [String(item.iteration || "–")] },
  ],
  images: [
    { name: "state", of: (item) => [item.state === "api" ? ".api" : item.state,
      ...(item.blank ? ["blank page"] : [])] },
    { name: "findings", of: (item) => (item.score > 0 ? ["suspicious", ...item.group.split(", ").filter(Boolean)]
      : ["none"]) },
  ],
};

const DECISIONS = [["", "any decision"], ["undecided", "undecided"], ["accept", "accepted"], ["reject", "rejected"]];

/** The form of the filters. `changed()` is called when another choice was made. */
class Filters {
  constructor(form, kind, store, changed) {
    this.filters = FILTERS[kind];
    this.store = store;
    this.fields = {};
    this.words = "";
    this.found = null;
    const kept = store.read("filters") || {};
    const select = (name, ...options) => {
      this.fields[name] = h("select", { id: "filter-" + name, name: name }, options);
      return h("div", {}, h("label", { for: "filter-" + name }, name), this.fields[name]);
    };
    fill(form.querySelector("#selects"), this.filters.map((filter) => select(filter.name)),
      select("decision", DECISIONS.map(([value, words]) => h("option", { value: value }, words))));
    this.fields.sample = form.querySelector("#sample");
    this.fields.draw = form.querySelector("#draw");
    this.fields.decision.value = kept.decision || "";
    this.fields.sample.value = kept.sample || "";
    this.fields.draw.value = kept.draw || "1";
    this.kept = kept;
    const keep = () => {
      store.write("filters", Object.fromEntries(Object.entries(this.fields).map(([name, field]) => [name,
        field.value])));
      changed();
    };
    for (const field of Object.values(this.fields)) field.addEventListener("input", keep);
    form.addEventListener("reset", () => setTimeout(keep));
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Offers the values that there are, each with how many items have it. */
  offer(list) {
    for (const filter of this.filters) {
      const counts = new Map(), field = this.fields[filter.name], value = field.value || this.kept[filter.name] || "";
      for (const item of list) for (const one of filter.of(item)) counts.set(one, (counts.get(one) || 0) + 1);
      const options = [...counts].sort((a, b) => b[1] - a[1]);
      fill(field, h("option", { value: "" }, `any (${number(list.length)})`),
        options.map(([one, n]) => h("option", { value: one }, `${plain(one)} (${number(n)})`)));
      field.value = counts.has(value) ? value : "";
    }
  }

  /** Whether anything is chosen (the search left aside). */
  get active() {
    return Object.entries(this.fields).filter(([name, field]) => field.value !== (name === "draw" ? "1" : "")).length;
  }

  apply(list, decisions) {
    const chosen = this.filters.filter((filter) => this.fields[filter.name].value);
    list = list.filter((item) => chosen.every((filter) => filter.of(item).includes(this.fields[filter.name].value)));
    list = sample_of(list, Math.max(0, Math.floor(Number(this.fields.sample.value)) || 0), this.fields.draw.value
      || "1");
    const wanted = this.fields.decision.value;
    if (wanted) {
      list = list.filter((item) => {
        const decision = decisions.of(item) || item.known;
        return wanted === "undecided" ? !decision : decision && decision.decision === wanted;
      });
    }
    return this.found ? list.filter((item) => this.found.has(item)) : list;
  }
}

// ---------------------------------------------------------------- a list of any length

/** A scrolling list. An entry is { height, key, make(): element }, the element goes into an <li>. */
class List {
  constructor(box) {
    this.box = box;
    this.rows = h("ul", { role: "list" });
    this.entries = [];
    this.tops = [0];
    this.shown = new Map(); // number of the entry -> <li>
    this.images = new IntersectionObserver((seen) => seen.forEach((one) => this.#load(one)), { root: box });
    fill(box, this.rows);
    box.addEventListener("scroll", () => this.#later(), { passive: true });
    new ResizeObserver(() => this.#later()).observe(box);
  }

  set(entries) {
    this.entries = entries;
    this.tops = new Array(entries.length + 1);
    this.tops[0] = 0;
    entries.forEach((entry, i) => { this.tops[i + 1] = this.tops[i] + entry.height; });
    this.rows.style.height = this.tops[entries.length] + "px";
    // The focus stays on what it was on, when that is still there.
    const focused = [...this.shown.values()].find((row) => row.contains(document.activeElement));
    const key = focused && focused.dataset.key;
    const loaded = new Set([...this.rows.querySelectorAll("img[src]")].map((image) => image.dataset.src));
    for (const i of [...this.shown.keys()]) this.#remove(i);
    this.#show();
    for (const image of this.rows.querySelectorAll("img")) {
      if (loaded.has(image.dataset.src)) image.src = image.dataset.src; // no flicker
    }
    const again = key != null && [...this.shown.values()].find((row) => row.dataset.key === key);
    if (again) again.querySelector("a, button").focus({ preventScroll: true });
  }

  /** Scrolls as little as is needed to have an entry in sight; gives its element. */
  reveal(i) {
    const top = this.tops[i], bottom = this.tops[i + 1], box = this.box;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
    this.#show();
    return this.shown.get(i);
  }

  #later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.#show(); });
  }

  #at(y) {
    let low = 0, high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tops[middle + 1] <= y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #show() {
    const height = this.box.clientHeight;
    if (height === 0) return;
    const first = Math.max(0, this.#at(this.box.scrollTop) - 4);
    const last = Math.min(this.entries.length - 1, this.#at(this.box.scrollTop + height) + 4);
    for (const [i, row] of [...this.shown]) {
      if ((i < first || i > last) && !row.contains(document.activeElement)) this.#remove(i);
    }
    for (let i = first; i <= last; i++) {
      if (this.shown.has(i)) continue;
      const entry = this.entries[i];
      const row = h("li", { "aria-posinset": i + 1, "aria-setsize": this.entries.length }, entry.make());
      row.dataset.key = entry.key;
      row.style.top = this.tops[i] + "px";
      row.style.height = entry.height + "px";
      this.shown.set(i, row);
      // In the order of the list, also for those who hear it.
      const after = [...this.shown.keys()].filter((n) => n > i).sort((a, b) => a - b)[0];
      this.rows.insertBefore(row, after === undefined ? null : this.shown.get(after));
      for (const image of row.querySelectorAll("img")) this.images.observe(image);
    }
  }

  #remove(i) {
    const row = this.shown.get(i);
    for (const image of row.querySelectorAll("img")) {
      this.images.unobserve(image);
      image.removeAttribute("src"); // what has not come yet is not wanted any more
    }
    row.remove();
    this.shown.delete(i);
  }

  /** A thumbnail is fetched when it stays in sight for a moment: not while one scrolls past it. */
  #load({ target, isIntersecting }) {
    if (!isIntersecting) return;
    setTimeout(() => {
      if (!target.isConnected || target.src) return;
      const at = target.getBoundingClientRect(), box = this.box.getBoundingClientRect();
      if (at.bottom > box.top && at.top < box.bottom) target.src = target.dataset.src;
    }, 120);
  }
}
