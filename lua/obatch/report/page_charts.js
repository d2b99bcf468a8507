// The run at a glance: figures, what failures cost, classes per iteration and the batches in time. Every chart has
// a table beside it that says the same.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  return put(node, ...children);
}

/** Draws now and whenever the width of an element has changed. */
function on_width(place, draw) {
  let width = -1;
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    draw();
  })).observe(place);
}

/** A table: columns are { title, number: true, of: row => text or node }. */
function table(caption, columns, rows, footer) {
  const cell = (tag, column, content, scope) => h(tag, { class: column.number && "number", scope: scope }, content);
  const line = (row) => h("tr", {}, columns.map((column, i) =>
    i === 0 ? cell("th", column, column.of(row), "row") : cell("td", column, column.of(row))));
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => cell("th", column, column.title, "col")))),
      h("tbody", {}, rows.map(line)), footer && h("tfoot", {}, line(footer))));
}

// ---------------------------------------------------------------- figures

const STATES = { text: "text", api: "labelled .api", missing: "missing", "under way": "under way",
  unresolved: "unresolved" };

function figures(head) {
  const totals = head.totals, list = head.kind === "images"
    ? [["images", "images"], ["text", "with a text"], ["api", "labelled .api"], ["suspicious", "suspicious"],
      ["under way", "under way", "under_way"], ["unresolved", "unresolved"], ["missing", "missing"]]
    : [["requests", "requests"], ["valid", "valid"], ["given_up", "given up"], ["left", "left"],
      ["in_flight", "in flight"]];
  const all = totals[head.kind === "images" ? "images" : "requests"] || 0;
  return h("dl", { class: "figures" }, list.map(([name, words, key], i) => {
    const n = totals[key || name] || 0;
    const share = i > 0 && all > 0 && n > 0 ? percent(n / all) : "";
    return h("div", { class: n === 0 ? "none" : null }, h("dt", {}, words),
      h("dd", {}, number(n), share && h("span", { class: "share" }, share)));
  }));
}

function percent(share) {
  if (share >= 1) return "100%";
  if (share > 0.99) return (Math.floor(share * 1000) / 10).toFixed(1) + "%";
  return share > 0 && share < 0.01 ? (share < 0.001 ? "<0.1%" : (share * 100).toFixed(1) + "%")
    : Math.round(share * 100) + "%";
}

/** What was spent in vain, in one sentence; null when nothing is known of tokens. */
function failure_sentence(usage, kind) {
  const sum = { cost: 0, lost: 0, tokens: 0, lost_tokens: 0, failed: 0, unknown: 0 };
  for (const row of usage) {
    const tokens = (row.tokens_in || 0) + (row.tokens_out || 0), failed = row.class !== "valid";
    sum.tokens += tokens;
    if (row.cost == null) sum.unknown += tokens;
    else sum.cost += row.cost;
    if (failed) {
      sum.failed += row.requests || 0;
      sum.lost_tokens += tokens;
      sum.lost += row.cost || 0;
    }
  }
  if (sum.tokens === 0) return null;
  const answers = plural(sum.failed, "answer");
  const unused = kind === "images" ? "gave no good text" : "could not be used";
  if (sum.lost_tokens === 0) return "Failures cost nothing: every answer that was paid could be used.";
  const share = percent(sum.lost_tokens / sum.tokens);
  const tokens = `${number(sum.lost_tokens)} of ${number(sum.tokens)} tokens (${share})`;
  if (sum.cost === 0) return `Failures cost ${tokens}: ${answers} that ${unused}. No price is known for these models.`;
  return `Failures cost ${money(sum.lost)} of ${money(sum.cost)} (${percent(sum.lost / sum.cost)}): ` +
    `${answers} that ${unused} took ${tokens}.` + (sum.unknown
      ? ` ${number(sum.unknown)} tokens of models without a known price are not in it.` : "");
}

function usage_table(head) {
  const total = { model: "all", class: "", requests: 0, tokens_in: 0, tokens_out: 0, cost: null };
  for (const row of head.usage) {
    for (const name of ["requests", "tokens_in", "tokens_out"]) total[name] += row[name] || 0;
    if (row.cost != null) total.cost = (total.cost || 0) + row.cost;
  }
  const order = (row) => (head.classes.includes(row.class) ? head.classes.indexOf(row.class) : head.classes.length);
  const rows = [...head.usage].sort((a, b) => String(a.model).localeCompare(String(b.model)) || order(a) - order(b));
  return table("Tokens and money by model and class", [
    { title: "model", of: (row) => inline(row.model || "unknown") },
    { title: "class", of: (row) => row.class && class_name(row.class) },
    { title: "answers", number: true, of: (row) => number(row.requests) },
    { title: "tokens in", number: true, of: (row) => number(row.tokens_in) },
    { title: "tokens out", number: true, of: (row) => number(row.tokens_out) },
    { title: "USD", number: true, of: (row) => money(row.cost) },
  ], rows, total);
}

/** A class with its colour. */
const class_name = (name) => h("span", { class: "class " + slug(name) }, String(name));
const slug = (name) => "k-" + String(name || "none").replace(/[^a-z]+/g, "-");

// ---------------------------------------------------------------- classes per iteration

const FONT = 7.2; // px of an average character at the charts' size of letters

/** Horizontal bars, one an iteration. `shares`: each is as long as all of its requests, else as many as they are. */
function classes_chart(head, width, shares) {
  const left = 30, right = 74, row = 34, most = Math.max(...head.iterations.map((it) => it.submitted || 0), 1);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${head.iterations.length * row + 4}`, width: width,
    height: head.iterations.length * row + 4, role: "img", "aria-labelledby": "classes-title" });
  head.iterations.forEach((iteration, i) => {
    const y = i * row + 4, all = classes_of(head, iteration), sum = all.reduce((n, one) => n + one.n, 0);
    const length = (width - left - right) * (shares ? 1 : sum / most);
    chart.append(svg("text", { x: left - 10, y: y + 18, class: "axis", "text-anchor": "end" }, String(iteration.n)));
    let x = left;
    for (const { name, n } of all) {
      const wide = Math.max(length * n / Math.max(sum, 1), 1.5);
      const group = svg("g", { class: "bar " + slug(name) },
        svg("title", {}, `iteration ${iteration.n}: ${number(n)} ${name}`),
        svg("rect", { x: x, y: y, width: Math.max(wide - 1, 1), height: row - 8, rx: 2 }));
      const label = wide > (number(n).length + name.length + 3) * FONT ? `${number(n)} ${name}` : number(n);
      if (wide > (label.length + 2) * FONT) group.append(svg("text", { x: x + 7, y: y + 17.5 }, label));
      chart.append(group);
      x += wide;
    }
    chart.append(svg("text", { x: x + 6, y: y + 18, class: "axis" }, number(iteration.submitted)));
  });
  return chart;
}

/** What became of an iteration's requests; those that nothing is known of yet are in flight. */
function classes_of(head, iteration) {
  const classes = iteration.classes || {};
  const list = head.classes.map((name) => ({ name: name, n: classes[name] || 0 })).filter((one) => one.n > 0);
  for (const [name, n] of Object.entries(classes)) {
    if (!head.classes.includes(name) && n > 0) list.push({ name: name, n: n });
  }
  const open = (iteration.submitted || 0) - list.reduce((n, one) => n + one.n, 0);
  if (open > 0) list.push({ name: iteration.state === "planned" ? "not sent" : "in flight", n: open });
  return list;
}

function classes_part(head) {
  const used = [...new Set(head.iterations.flatMap((iteration) => classes_of(head, iteration).map((one) => one.name)))];
  const order = [...head.classes, "in flight", "not sent"].filter((name) => used.includes(name));
  const sizes = head.iterations.map((iteration) => iteration.submitted || 0);
  let shares = Math.min(...sizes) < Math.max(...sizes) / 12;
  const place = h("div", { class: "chart" });
  const draw = () => fill(place, classes_chart(head, place.clientWidth || 600, shares));
  const button = (words, value) => h("button",
    { type: "button", "aria-pressed": String(shares === value), click: (event) => {
    shares = value;
    for (const other of event.target.parentNode.children) other.setAttribute("aria-pressed",
      String(other === event.target));
    draw();
  } }, words);
  on_width(place, draw);
  return h("section", { "aria-labelledby": "classes-title" }, h("div", { class: "title" },
    h("h2", { id: "classes-title" }, "Classes per iteration"),
    h("div", { class: "choice", role: "group", "aria-label": "Length of the bars" }, button("numbers", false),
      button("shares", true))),
  h("ul", { class: "legend" }, order.map((name) => h("li", {}, class_name(name)))), place,
  h("details", {}, h("summary", {}, "The figures as a table"), table("Requests of each iteration by class", [
    { title: "iteration", of: (it) => String(it.n) },
    { title: "state", of: (it) => it.state || "–" },
    { title: "submitted", number: true, of: (it) => number(it.submitted) },
    ...order.map((name) => ({ title: name, number: true,
      of: (it) => number((classes_of(head, it).find((one) => one.name === name) || { n: 0 }).n) })),
  ], head.iterations)));
}

// ---------------------------------------------------------------- batches in time

const ENDED = new Set(["completed", "failed", "expired", "cancelled"]);
const STEPS = [1, 5, 15, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 2592000];
const MOST_BARS = 300;

function time_chart(batches, width, now) {
  const row = 26, top = 22, first = Math.min(...batches.map((b) => b.created_at));
  const end_of = (b) => b.ended_at || (ENDED.has(b.status) ? b.created_at : now);
  const last = Math.max(...batches.map(end_of), first + 5), left = 6, right = 10;
  const x_of = (at) => left + (at - first) / (last - first) * (width - left - right);
  const height = top + batches.length * row + 6;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: width, height: height, role: "img",
    "aria-labelledby": "time-title" },
  svg("defs", {}, pattern("hatch", "M0 6L6 0"), pattern("cross", "M0 6L6 0M0 0L6 6"), pattern("dots", "M1 2h2M4 5h2")));
  const span = last - first, step = STEPS.find((s) => span / s <= width / 110) || STEPS[STEPS.length - 1];
  const zone = new Date(first * 1000).getTimezoneOffset() * 60;
  for (let at = Math.ceil((first - zone) / step) * step + zone; at <= last; at += step) {
    const seconds = `:${String(at % 60).padStart(2, "0")}`;
    const label = step >= 86400 ? moment(at).slice(5, 10) : moment(at).slice(11) + (step < 60 ? seconds : "");
    chart.append(svg("path", { class: "grid", d: `M${x_of(at)} ${top - 4}V${height}` }),
      svg("text", { class: "axis", x: x_of(at), y: 12, "text-anchor": x_of(at) < 20 ? "start" : x_of(at) > width - 24
        ? "end" : "middle" }, label));
  }
  batches.forEach((batch, i) => {
    const y = top + i * row, open = !batch.ended_at && !ENDED.has(batch.status);
    const x = x_of(batch.created_at), wide = Math.max(x_of(end_of(batch)) - x, 3);
    const iteration = batch.iteration ? `iteration ${batch.iteration}, ` : "";
    const words = `${iteration}${plural(batch.requests || 0, "request")}, ${batch.status || "unknown"}, `
      + duration(end_of(batch) - batch.created_at) + (open ? " so far" : "");
    const bar = svg("g", { class: "batch s-" + String(batch.status || "unknown").replace(/[^a-z]+/g, "-") },
      svg("title", {}, `${batch.id || "a batch"}: ${words}${batch.reason ? ": " + batch.reason : ""}`));
    bar.append(open ? svg("path", { class: "open", d: `M${x} ${y + 3}H${x + wide}l6 7l-6 7H${x}Z` })
      : svg("rect", { x: x, y: y + 3, width: wide, height: 14, rx: 2 }));
    // In the bar where it fits and nothing is drawn, else beside it.
    const short = `${iteration}${batch.status || "unknown"}`;
    const plain = open || batch.status === "completed", gap = open ? 12 : 6;
    const fits = (label, space) => (label.length + 2) * FONT < space;
    const after = width - x - wide - gap, status = String(batch.status || "unknown");
    const label = [words, short].find((one) => plain && fits(one, wide) || fits(one, after))
      || [short, status].find((one) => fits(one, Math.max(x, after))) || "";
    const place = plain && fits(label, wide) ? { x: x + 6, class: "within" } : fits(label, after)
      ? { x: x + wide + gap, class: "axis" }
      : { x: x - 6, class: "axis", "text-anchor": "end" };
    bar.append(svg("text", { y: y + 14.5, ...place }, label));
    chart.append(bar);
  });
  return chart;
}

const pattern = (id, d) => svg("pattern", { id: id, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
  svg("rect", { width: 6, height: 6, class: "ground" }), svg("path", { d: d, class: "stroke" }));

function batches_part(head) {
  const timed = head.batches.filter((batch) => batch.created_at).sort((a, b) => a.created_at - b.created_at);
  const drawn = timed.slice(0, MOST_BARS), place = h("div", { class: "chart time" });
  if (drawn.length) {
    on_width(place, () => fill(place, time_chart(drawn, place.clientWidth || 600, head.generated_at)));
  }
  return h("section", { "aria-labelledby": "time-title" }, h("h2", { id: "time-title" }, "Batches in time"),
    drawn.length ? place : h("p", { class: "quiet" }, "It is not known when they were created."),
    timed.length > drawn.length && h("p", { class: "quiet" },
      `The first ${number(drawn.length)} of ${number(timed.length)}; all are in the table.`),
    h("details", {}, h("summary", {}, "The batches as a table"), table("Batches", [
      { title: "batch", of: (b) => inline(b.id || "not created") },
      { title: "iteration", number: true, of: (b) => number(b.iteration) },
      { title: "model", of: (b) => (b.model ? inline(b.model) : "–") },
      { title: "status", of: (b) => String(b.status || "unknown") },
      { title: "requests", number: true, of: (b) => number(b.requests) },
      { title: "created", of: (b) => moment(b.created_at) },
      { title: "ended", of: (b) => moment(b.ended_at) },
      { title: "lasted", number: true,
        of: (b) => (b.created_at && b.ended_at ? duration(b.ended_at - b.created_at) : "–") },
      { title: "reason", of: (b) => (b.reason ? inline(b.reason) : "") },
    ], head.batches)));
}

// ---------------------------------------------------------------- all of it

function overview(head) {
  const sentence = failure_sentence(head.usage || [], head.kind);
  return [
    figures(head),
    (head.notes || []).map((note) => h("p", { class: "note" }, shown(String(note)))),
    (head.iterations || []).length > 0 && classes_part(head),
    (head.usage || []).length > 0 && h("section", { "aria-labelledby": "cost-title" },
      h("h2", { id: "cost-title" }, "Tokens and money"),
      sentence && h("p", { class: "lead", id: "failures" }, sentence), usage_table(head),
      head.prices_date && h("p", { class: "quiet" },
        `Batch prices of ${head.prices_date}; what the service bills may differ.`)),
    (head.batches || []).length > 0 && batches_part(head),
  ];
}
