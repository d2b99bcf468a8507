// The page: its three parts, the item that is open, keys.
(() => {
  const head = JSON.parse($("head").textContent), images = head.kind === "images";
  const store = new Store(head), items = new Items($("items").textContent, head.kind);
  const decisions = new Decisions(store, items, decided);
  const filters = new Filters($("filters"), head.kind, store, relist);
  const list = new List($("list"));
  const wide = matchMedia("(min-width: 800px)");
  const closed = new Set(); // groups that are folded
  let listed = []; // the items that the filters leave, in the order of the list
  let rows = []; // what the list shows: groups, items
  let current = null; // the item that is open
  let ready = false;

  // ---------------------------------------------------------------- parts

  /** "#:items" is a part of the page, "#" and an id is an item. */
  function route() {
    const hash = location.hash.slice(1);
    let id = hash;
    try { id = decodeURIComponent(hash); } catch { /* an id with a % of its own */ }
    const item = hash.startsWith(":") ? null : items.by_id.get(id) || items.by_id.get(hash);
    if (item) return open(item);
    if (hash && !hash.startsWith(":")) {
      if (!ready) return part("browse");
      say("There is no such item in this report.");
    }
    const name = { ":items": "browse", ":decisions": "decisions" }[hash]
      || (hash === "" || hash === ":overview" ? "overview" : "browse");
    if (name === "browse" && wide.matches && listed.length) return go(listed.includes(current) ? current : listed[0]);
    if (name === "browse") current = null;
    part(name);
    mark_current();
    if (name === "decisions") show_decided();
  }

  function part(name) {
    for (const one of ["overview", "browse", "decisions"]) $(one).hidden = one !== name;
    document.body.className = name + (name === "browse" && current ? " one" : "");
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === (name === "browse" ? "#:items" : "#:" + name)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    list.box.dispatchEvent(new Event("scroll"));
  }

  function say(words) {
    $("toast").textContent = plain(words);
    $("toast").classList.add("shown");
    clearTimeout(say.timer);
    say.timer = setTimeout(() => $("toast").classList.remove("shown"), 3500);
  }

  // ---------------------------------------------------------------- the list

  const group_of = (item) => (item.class !== "valid" && item.group)
    || (item.class === "valid" ? "good answers" : item.class || item.action || "–");

  function relist() {
    listed = filters.apply(items.list, decisions);
    rows = images ? listed.map((item) => ({ item: item, key: "i" + item.key, height: 72, make: () => image_row(item) }))
      : grouped();
    list.set(rows);
    mark_current();
    const all = items.list.length, active = filters.active;
    $("count").textContent = !ready ? "Reading…" : listed.length === all ? plural(all, images ? "page" : "item")
      : `${number(listed.length)} of ${plural(all, images ? "page" : "item")}`;
    $("clear").hidden = !active && !filters.found;
    $("filters-button").textContent = active ? `Filters (${active})` : "Filters";
    if (ready && !listed.length) {
      fill(list.rows, h("li", { class: "empty" }, all ? "Nothing is left by this search and these filters."
        : images ? "There are no pages." : "Every answer is good: there is nothing to look at."));
    }
    position();
  }

  /** Items under their reasons, the most frequent one first. `listed` takes the same order. */
  function grouped() {
    const groups = new Map();
    for (const item of listed) {
      const name = group_of(item);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(item);
    }
    const is_good = ([, members]) => members[0].class === "valid"; // those are for comparison, after the others
    const order = [...groups].sort((a, b) => is_good(a) - is_good(b) || b[1].length - a[1].length);
    listed = order.flatMap(([, members]) => members);
    return order.flatMap(([name, members]) => [
      { group: name, key: "g" + name, height: 44, make: () => group_row(name, members.length) },
      ...(closed.has(name) ? [] : members.map((item) => ({ item: item, key: "i" + item.key, height: 54,
        make: () => job_row(item) }))),
    ]);
  }

  function group_row(name, n) {
    return h("button", { type: "button", class: "group", "aria-expanded": String(!closed.has(name)), title: name,
      click: () => {
      if (!closed.delete(name)) closed.add(name);
      relist();
    } }, h("span", { class: "words" }, inline(name)), h("span", { class: "tally" }, number(n)));
  }

  const address = (item) => "#" + encodeURIComponent(item.key);
  const link = (item, ...children) => h("a", { href: address(item), "aria-current": item === current ? "true" : null },
    children);

  function sign_of(item) {
    const made = decisions.of(item) || item.known;
    if (!made) return null;
    return made.decision === "accept" ? h("span", { class: "sign accept" }, "✓ accepted")
      : h("span", { class: "sign reject" }, "✗ rejected");
  }

  function job_row(item) {
    return link(item, h("span", { class: "words" }, inline(item.name)),
      h("span", { class: "facts" }, class_name(item.class || "not judged"),
      h("span", {}, plural(item.attempts, "attempt")), sign_of(item)));
  }

  function image_row(item) {
    const cut = item.name.lastIndexOf("/") + 1, url = image_url(item);
    return link(item, url ? h("img",
      { alt: "", loading: "lazy", decoding: "async", "data-src": url, width: 44, height: 56,
      error: (event) => event.target.replaceWith(h("span", { class: "no-image" })) })
      : h("span", { class: "no-image" }),
    h("span", { class: "words" }, inline(item.name.slice(cut))), cut > 0
      && h("span", { class: "words folder" }, inline(item.name.slice(0, cut))),
    h("span", { class: "facts" }, state_sign(item), item.score > 0
      && h("span", { class: "badge finding" }, item.score.toFixed(2)), sign_of(item)));
  }

  const state_sign = (item) => (item.state === "text" ? (item.blank ? h("span", { class: "badge" }, "blank") : null)
    : h("span", { class: "badge " + slug(item.state) }, item.state === "api" ? ".api" : item.state));

  /** The address of an image, when it is one of a file or of where the report itself is. */
  function image_url(item) {
    if (!item.image) return null;
    try {
      const url = new URL(item.image, location.href);
      return url.protocol === "file:" || url.origin === location.origin ? url.href : null;
    } catch {
      return null;
    }
  }

  function mark_current() {
    for (const row of list.rows.querySelectorAll("a")) {
      if (row.getAttribute("href") === (current && address(current))) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  // ---------------------------------------------------------------- moving

  function go(item) {
    history.replaceState(null, "", address(item));
    open(item);
  }

  /** The item after the open one, or before it; where that is not listed, the next one that is. */
  function neighbour(by) {
    const at = listed.indexOf(current);
    return at >= 0 ? listed[at + by] : listed.find((item) => item.at > (current ? current.at : -1)) || listed[0];
  }

  function step(by) {
    if (!listed.length) return;
    const next = neighbour(by);
    if (!next) return say(by > 0 ? "This is the last one." : "This is the first one.");
    const in_list = list.box.contains(document.activeElement);
    go(next);
    const row = rows.findIndex((one) => one.item === next), shown_row = row >= 0 && list.reveal(row);
    if (in_list && shown_row) shown_row.querySelector("a").focus({ preventScroll: true });
  }

  function position() {
    const place = $("position");
    if (!place) return;
    const at = listed.indexOf(current);
    place.textContent = at < 0 ? `not among the ${number(listed.length)} listed`
      : `${number(at + 1)} of ${number(listed.length)}`;
  }

  // ---------------------------------------------------------------- the item

  function open(item) {
    const is_new = item !== current;
    current = item;
    part("browse");
    if (!is_new) return;
    const full = items.full(item), detail = $("detail");
    fill(detail,
      h("header", {},
        h("h2", { id: "item-title" }, inline(item.name)),
        h("div", { class: "moves" }, h("a", { href: "#:items", class: "button back" }, "All"),
          h("span", { id: "position", class: "quiet" }),
          h("button", { type: "button", "aria-label": "Previous item", "aria-keyshortcuts": "k",
            click: () => step(-1) }, "‹"),
          h("button", { type: "button", "aria-label": "Next item", "aria-keyshortcuts": "j", click: () => step(1) },
            "›")),
        h("p", { class: "facts" }, images ? image_facts(item, full) : job_facts(item, full))),
      decision_bar(item),
      images ? image_parts(item, full) : job_parts(item, full));
    detail.setAttribute("aria-label", item.name);
    detail.scrollTop = 0;
    detail.dispatchEvent(new Event("opened"));
    const row = rows.findIndex((one) => one.item === item);
    if (row >= 0) list.reveal(row);
    mark_current();
    position();
    if (!wide.matches) detail.focus({ preventScroll: true }); // the list is gone
    for (const box of detail.querySelectorAll(".text")) to_first_mark(box);
  }

  const ACTIONS = { keep: "kept", resend: "will be sent again", give_up: "given up", "in flight": "in flight",
    "not sent": "not sent yet" };

  function job_facts(item, full) {
    return [class_name(item.class || "not judged"), h("span", {}, ACTIONS[item.action] || item.action || ""),
      item.reason && !(full.attempts || []).some((attempt) => attempt.reason === full.reason) && h("span",
        { class: "reason" }, inline(full.reason))];
  }

  function image_facts(item, full) {
    const why = [full.class && class_name(full.class),
      full.reason && h("span", { class: "reason" }, inline(full.reason))];
    return [state_sign(item), item.score > 0 && h("span", { class: "badge finding" },
      `score ${item.score.toFixed(2)}${item.label && item.state !== "api" ? ", would be labelled" : ""}`),
    item.state === "api" && full.attempts > 0
      ? [h("span", {}, `asked again ${full.attempts === 1 ? "once" : plural(full.attempts, "time")}, last:`), why]
      : [why, full.attempts > 0 && h("span", {}, plural(full.attempts, "attempt"))]];
  }

  // ---------------------------------------------------------------- deciding

  const nothing = () => `There is no ${images ? "text" : "answer"} to decide about.`;

  function decision_bar(item) {
    if (!decisions.possible(item)) return h("div", { class: "deciding" }, h("p", { class: "quiet" }, nothing()));
    const note = h("input", { type: "text", id: "note", autocomplete: "off", maxlength: 3000,
      placeholder: "What is wrong with it?", keydown: (event) => {
      if (event.key === "Enter") decide("reject", note.value);
    } });
    return h("div", { class: "deciding", role: "group", "aria-label": "Decision" },
      item.sha256 && h("button", { type: "button", class: "accept", "aria-keyshortcuts": "a",
        click: () => decide("accept") }, "Accept"),
      h("button", { type: "button", class: "reject", "aria-keyshortcuts": "r", click: ask_note }, "Reject…"),
      h("button", { type: "button", id: "undo", "aria-keyshortcuts": "u", click: undo }, "Undo"),
      h("span", { id: "decision", role: "status" }, decision_words(item)),
      h("div", { id: "noting", hidden: true }, h("label", { for: "note" }, "Note"), note,
        h("button", { type: "button", class: "main", click: () => decide("reject", note.value) }, "Reject"),
        h("button", { type: "button", click: leave_note }, "Cancel")));
  }

  function decision_words(item) {
    const made = decisions.of(item), one = made || item.known;
    if (!one) return h("span", { class: "quiet" }, "Not decided");
    return [sign_of(item), one.note ? [" ", inline(one.note)] : null, made ? null
      : h("span", { class: "quiet" }, " (known to the run already)")];
  }

  function decide(decision, note) {
    if (!current || !decisions.possible(current, decision)) return say(nothing());
    const item = current, next = neighbour(1);
    const words = (note || "").trim();
    leave_note();
    decisions.set(item, { decision: decision, note: valid(words), exported: false });
    say(`${decision === "accept" ? "Accepted" : "Rejected"}: ${item.name}`);
    if (next) go(next);
  }

  function ask_note() {
    if (!current || !decisions.possible(current, "reject")) return say(nothing());
    const made = decisions.of(current);
    $("noting").hidden = false;
    $("note").value = made ? made.note || "" : "";
    $("note").focus();
  }

  function leave_note() {
    const noting = $("noting");
    if (!noting || noting.hidden) return;
    noting.hidden = true;
    $("detail").focus({ preventScroll: true });
  }

  function undo() {
    const item = decisions.undo(current);
    if (!item) return say("Nothing to undo.");
    say(`Undone: ${item.name}`);
    go(item);
  }

  /** Something was decided, here or in another tab. */
  function decided() {
    const waiting = decisions.waiting;
    $("decisions-tally").textContent = waiting ? `${number(waiting)} not exported` : "";
    $("storage-note").hidden = store.lasting;
    if ($("decision") && current) fill($("decision"), decision_words(current));
    relist();
    if (!$("decisions").hidden) show_decided();
  }

  // ---------------------------------------------------------------- a job's item

  function job_parts(item, full) {
    const attempts = full.attempts || [];
    if (!attempts.length) return h("p", { class: "quiet" }, "It has not been sent yet, or nothing has come back.");
    return attempts.map((attempt, i) => attempt_part(attempts, i, full.answer)).reverse();
  }

  function attempt_part(attempts, i, answer) {
    const attempt = attempts[i], before = attempts.slice(0, i).reverse().find((one) => one.text != null);
    let asked = i;
    while (asked > 0 && attempts[asked].request == null) asked--;
    const title = `Attempt ${i + 1} of ${attempts.length}`, request = attempts[asked].request;
    const facts = [attempt.batch && ["batch ", inline(attempt.batch)], `iteration ${attempt.iteration}`,
      attempt.submitted_at && moment(attempt.submitted_at),
      attempt.tokens_in != null && `${number(attempt.tokens_in)} tokens in`, attempt.tokens_out != null
        && `${number(attempt.tokens_out)} out`,
      ...(attempt.images || []).map((image) => `${image.kind}, ${number(Math.ceil(image.bytes / 1000))} kB`)]
      .filter(Boolean);
    return h("section", { class: "attempt", "aria-label": title },
      h("h3", {}, title, " ", class_name(attempt.class || "not judged"), i === answer && attempts.length > 1
        && h("span", { class: "badge", title: "Accept and reject are about this answer" }, "to decide about")),
      attempt.reason && h("p", { class: "reason" }, shown(attempt.reason)),
      attempt.text != null ? [text_box(`Answer of attempt ${i + 1}`, attempt, "mark-" + i),
        mark_list(attempt.marks, "mark-" + i)]
        : h("p", { class: "quiet" }, attempt.class ? "No answer text came back." : "Nothing has come back yet."),
      before && attempt.text != null && later("What differs from the attempt before", () => changes(before, attempt)),
      attempt.result && later("Result line", () => code_box("Result line", attempt.result)),
      request && later(asked < i ? `Request (the same as in attempt ${asked + 1})` : "Request",
        () => code_box("Request", request)),
      h("p", { class: "meta" }, facts.map((fact, n) => [n > 0 ? " · " : null, fact])),
      attempt.path && h("p", { class: "meta" }, inline(attempt.path)));
  }

  function step_mark(by) {
    const marks = [...document.querySelectorAll("#detail mark[data-n]")];
    if (!marks.length) return say("Nothing is marked here.");
    const at = marks.findIndex((mark) => mark.classList.contains("now"));
    to_mark(marks[at < 0 ? (by > 0 ? 0 : marks.length - 1) : (at + by + marks.length) % marks.length]);
  }

  // ---------------------------------------------------------------- an image's item

  const zoom = { mode: "width", scale: 1 };
  const ZOOMS = { width: "Width", page: "Page", actual: "100%" };

  function image_parts(item, full) {
    return h("div", { class: "pair" }, image_pane(item), text_pane(item, full));
  }

  function image_pane(item) {
    const url = image_url(item);
    const gone = (why) => h("p", { class: "gone" }, why, h("br"), h("code", {}, shown(item.name)));
    if (!url) return h("figure", { class: "scan" }, gone("The image is not there any more:"));
    const view = h("div", { class: "view", id: "view", tabindex: 0, role: "region", "aria-label": "Page image" });
    const image = h("img", { alt: "The page as scanned: " + item.name, decoding: "async", draggable: "false",
      load: () => fit(),
      error: () => fill(view, gone("The image cannot be shown. It was moved, or this report was moved away from it, "
        + "or it is damaged:")) });
    image.src = url;
    put(view, image);
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      scale_by(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.clientX, event.clientY);
    }, { passive: false });
    view.addEventListener("dblclick", () => set_zoom(zoom.mode === "actual" ? "width" : "actual"));
    view.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      const x = event.clientX + view.scrollLeft, y = event.clientY + view.scrollTop;
      const move = (to) => view.scrollTo(x - to.clientX, y - to.clientY);
      const end = () => {
        view.classList.remove("dragged");
        view.removeEventListener("pointermove", move);
      };
      view.setPointerCapture(event.pointerId);
      view.classList.add("dragged");
      view.addEventListener("pointermove", move);
      view.addEventListener("pointerup", end, { once: true });
      view.addEventListener("pointercancel", end, { once: true });
    });
    new ResizeObserver(() => requestAnimationFrame(fit)).observe(view);
    const button = (words, label, act) => h("button", { type: "button", "aria-label": label, click: act }, words);
    return h("figure", { class: "scan" }, h("div", { class: "tools", role: "group", "aria-label": "Size of the image" },
      Object.entries(ZOOMS).map(([mode, words]) => h("button",
        { type: "button", "data-zoom": mode, "aria-pressed": String(zoom.mode === mode),
        click: () => set_zoom(mode) }, words)),
      button("−", "Smaller", () => scale_by(0.8)), button("+", "Larger", () => scale_by(1.25)),
      h("a", { class: "button", href: url, target: "_blank", rel: "noopener" }, "Open")), view);
  }

  function fit() {
    const view = $("view"), image = view && view.querySelector("img");
    if (!image || !image.naturalWidth) return;
    const across = (view.clientWidth - 2) / image.naturalWidth;
    if (zoom.mode === "width") zoom.scale = across;
    else if (zoom.mode === "page") zoom.scale = Math.min(across, (view.clientHeight - 2) / image.naturalHeight);
    else if (zoom.mode === "actual") zoom.scale = 1;
    image.style.width = Math.max(1, Math.floor(image.naturalWidth * zoom.scale)) + "px";
  }

  function set_zoom(mode) {
    zoom.mode = mode;
    for (const button of document.querySelectorAll("[data-zoom]")) button.setAttribute("aria-pressed",
      String(button.dataset.zoom === mode));
    fit();
  }

  /** Zooms about a point of the window, or the middle. */
  function scale_by(factor, x, y) {
    const view = $("view");
    if (!view || !view.querySelector("img")) return;
    const box = view.getBoundingClientRect(), old = zoom.scale;
    const dx = x == null ? view.clientWidth / 2 : x - box.left, dy = y == null ? view.clientHeight / 2 : y - box.top;
    zoom.scale = Math.min(8, Math.max(0.05, zoom.scale * factor));
    set_zoom("free");
    const grown = zoom.scale / old;
    view.scrollTo((view.scrollLeft + dx) * grown - dx, (view.scrollTop + dy) * grown - dy);
  }

  function text_pane(item, full) {
    const versions = full.versions || [], has_text = full.text != null;
    const views = [];
    if (has_text) views.push(["The text now", () => [text_box("Text", full, "mark-0")]]);
    if (has_text) for (const one of versions) views.push([`What has changed since: ${one.name}`,
      () => [changes(one, full)]]);
    for (const one of versions) views.push([one.name.charAt(0).toUpperCase() + one.name.slice(1),
      () => [text_box(one.name, one, "version")]]);
    // What is marked is told by its mark.
    const unmarked = (full.reasons || []).filter((reason) => !(full.marks || []).some((mark) =>
      reason.startsWith(mark.kind + " ")));
    const place = h("div", { class: "stage" });
    const choice = h("select", { id: "version", "aria-label": "Version of the text",
      change: () => fill(place, views[choice.selectedIndex][1]()) },
      views.map(([name]) => h("option", {}, plain(name))));
    if (views.length) put(place, views[0][1]());
    else put(place, h("p", { class: "quiet" }, full.reason ? "There is no text." : "There is no text yet."));
    return h("div", { class: "transcript" },
      h("div", { class: "tools" }, views.length > 1 ? choice : h("span", { class: "quiet" }, "Text")),
      place, unmarked.length > 0 && h("ul", { class: "reasons" },
        unmarked.map((reason) => h("li", {}, inline(reason)))),
      has_text && mark_list(full.marks, "mark-0"));
  }

  function next_version() {
    const choice = $("version");
    if (!choice) return say("There is only one version.");
    choice.selectedIndex = (choice.selectedIndex + 1) % choice.options.length;
    choice.dispatchEvent(new Event("change"));
  }

  // ---------------------------------------------------------------- decisions

  const MOST_DECIDED = 200;

  function show_decided() {
    const all = decisions.all(), waiting = decisions.waiting;
    $("decisions-sum").textContent = all.length
      ? `${plural(all.length, "decision")}: ${number(decisions.count("accept"))} accepted, `
        + `${number(decisions.count("reject"))} rejected. `
        + (waiting ? `${plural(waiting, "decision")} not exported yet.` : "All are exported.")
      : "You have not decided anything yet. Accept or reject is with each item.";
    $("export").disabled = all.length === 0;
    fill($("decided"), all.length === 0 ? h("p", { class: "quiet" }, "Nothing.")
      : table(all.length > MOST_DECIDED
      ? `${number(MOST_DECIDED)} of ${number(all.length)}, those furthest down the list`
      : "In the order of the list", [
      { title: images ? "image" : "custom_id", of: ([item]) => h("a", { href: address(item) }, inline(item.name)) },
      { title: "decision", of: ([item]) => sign_of(item) },
      { title: "note", of: ([, made]) => (made.note ? inline(made.note) : "") },
      { title: "exported", of: ([, made]) => (made.exported ? "yes" : "not yet") },
    ], all.slice(-MOST_DECIDED)));
  }

  function export_decisions() {
    const url = URL.createObjectURL(new Blob([decisions.lines()], { type: "application/x-ndjson" }));
    const pieces = String(head.dir || "").split(/[^\p{L}\p{N}_.-]+/u);
    const name = pieces.filter((piece) => piece && !/^\.+$/.test(piece)).pop() || "report";
    h("a", { href: url, download: `decisions-${name}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    decisions.exported();
    say("Exported: your browser has saved the file.");
  }

  async function import_decisions(event) {
    const file = event.target.files[0];
    if (!file) return;
    const told = decisions.take(await file.text());
    event.target.value = "";
    const faulty = told.faulty.slice(0, 10).join(", ") + (told.faulty.length > 10 ? " and more" : "");
    const other = `${plural(told.other, "line")} about another text, or an item that is not in this report, left out.`;
    $("import-note").textContent = `${plural(told.taken, "decision")} taken from the file.`
      + (told.other ? " " + other : "")
      + (faulty ? ` Not a decision: line ${faulty}.` : "");
  }

  // ---------------------------------------------------------------- keys

  const KEYS = {
    j: () => step(1), k: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
      ArrowDown: () => step(1), ArrowUp: () => step(-1),
    a: () => decide("accept"), r: ask_note, u: undo, n: () => step_mark(1), p: () => step_mark(-1), v: next_version,
    z: () => set_zoom({ width: "page", page: "actual" }[zoom.mode] || "width"),
    "+": () => scale_by(1.25), "=": () => scale_by(1.25), "-": () => scale_by(0.8),
    "/": () => { part("browse"); $("search").focus(); $("search").select(); },
    "?": () => $("help").showModal(),
  };

  function key(event) {
    const target = event.target, field = target.closest("input:not([type=checkbox]), textarea, select");
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.key === "Escape") {
      if ($("noting") && !$("noting").hidden) leave_note();
      else if (field) field.blur();
      else if (!wide.matches && current) location.hash = ":items";
      return;
    }
    if (field || !Object.hasOwn(KEYS, event.key)) return;
    const arrow = event.key.startsWith("Arrow");
    // Arrows scroll what can be scrolled; single letters can be switched off, for those who dictate.
    if (arrow && target.closest("[tabindex='0'], button, summary")) return;
    if (!arrow && event.key !== "?" && !$("keys").checked) return;
    if ($("browse").hidden && !["/", "?"].includes(event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  }

  // ---------------------------------------------------------------- start

  let searches = 0;

  async function search() {
    const mine = ++searches, words = $("search").value.trim();
    await new Promise((done) => setTimeout(done, 150));
    if (mine !== searches) return;
    filters.found = null;
    if (words) {
      $("count").textContent = "Searching…";
      const found = await items.search(words, () => mine !== searches,
        (share) => { $("count").textContent = `Searching… ${Math.floor(share * 100)}%`; });
      if (mine !== searches) return;
      filters.found = found;
    }
    relist();
  }

  async function start() {
    $("title").textContent = head.title || "obatch";
    fill($("subtitle"), `${moment(head.generated_at)}`, head.version ? ` · obatch ${head.version}` : null,
      head.sample ? ` · of the good answers: ${head.sample}` : head.hidden
        ? ` · ${number(head.hidden)} good answers are not in this page` : null);
    $("items-name").textContent = images ? "Pages" : "Items";
    document.body.parentNode.classList.add(images ? "images" : "job");
    fill($("overview"), overview(head));
    $("command").textContent = head.decisions || "";
    $("meaning").textContent = images
      ? "An accepted text loses its label and is not sent again; a rejected one is labelled, and sent "
        + "again with your note."
      : "An accepted answer is taken as it is; a rejected one is sent again with your note, as far as the rules of "
        + "the run allow.";
    $("keys").checked = store.read("keys") !== false;
    $("keys").addEventListener("change", () => store.write("keys", $("keys").checked ? null : false));
    $("help-button").addEventListener("click", () => $("help").showModal());
    $("filters-button").addEventListener("click", () => {
      const open_now = $("fields").hidden;
      $("fields").hidden = !open_now;
      $("filters-button").setAttribute("aria-expanded", String(open_now));
    });
    $("search").addEventListener("input", search);
    $("filters").addEventListener("reset", () => setTimeout(search));
    $("export").addEventListener("click", export_decisions);
    $("import").addEventListener("change", import_decisions);
    $("skip").addEventListener("click", (event) => {
      event.preventDefault();
      $("main").focus();
    });
    document.addEventListener("keydown", key);
    addEventListener("hashchange", route);
    addEventListener("beforeunload", (event) => { if (decisions.waiting) event.preventDefault(); });
    route();
    let last = 0;
    await items.read((share) => {
      $("count").textContent = `Reading… ${Math.floor(share * 100)}%`;
      if (performance.now() - last > 500) {
        last = performance.now();
        relist();
        $("count").textContent = `Reading… ${Math.floor(share * 100)}%`;
      }
    });
    ready = true;
    $("items-tally").textContent = number(items.list.length);
    filters.offer(items.list);
    decisions.load();
    decided();
    if ($("browse").hidden === false || location.hash.length > 1) route();
    document.documentElement.dataset.ready = "yes";
  }

  start();
})();
