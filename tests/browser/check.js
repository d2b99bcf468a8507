// The report page in Chromium; run.sh made the jobs. Prints TAP; exit code 1 when a check failed.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { spawnSync } = require("node:child_process");
const { launch, close, tidy, open, ready, in_order, faults_of_access, contrasts } = require("./browser.js");

const JOB = "job/report.html", REVIEW = "review.html", MANY = "many/report.html";
const PHONE = { viewport: { width: 360, height: 740 } };
const checks = [];
const check = (name, run) => checks.push([name, run]);
const item = (id) => "#" + encodeURIComponent(id);
const text = (page, selector) => page.locator(selector).innerText();
const count = (page) => text(page, "#count");
const title = (page) => text(page, "#item-title");
const settled = (page, words) => page.waitForFunction(
  (wanted) => document.querySelector("#count").textContent === wanted, words);
const names = (page) => page.locator("#list li a .words:first-of-type").allInnerTexts();
const choose = (page, name, value) => page.locator("#" + name).selectOption(value);

/** Goes to another part or item, as a link does. */
const visit = (page, hash) => page.evaluate((to) => new Promise((done) => {
  addEventListener("hashchange", () => setTimeout(done), { once: true });
  location.hash = to;
}), hash);

async function with_filters(file, options) {
  const page = await open(file, { hash: "#:items", ...options });
  await page.click("#filters-button");
  return page;
}

// ---------------------------------------------------------------- a job

check("a job at a glance: its figures, a chart of its classes with a table, what failures cost, its batches",
  async () => {
  const page = await open(JOB);
  assert.match(await text(page, ".figures"), /requests\s+7\n/);
  assert.match(await text(page, ".figures"), /valid\s+1\s*14%/);
  assert.match(await text(page, "#failures"),
    /^Failures cost \$\d.* answers that could not be used took [\d,]+ of [\d,]+ tokens/);
  const bars = await page.locator(".chart .bar title").allTextContents();
  assert.ok(bars.includes("iteration 1: 1 valid"), bars.join());
  assert.ok((await page.locator(".batch").count()) >= 4);
  await page.locator("summary", { hasText: "figures as a table" }).click();
  const row = await page.locator("section:has(#classes-title) tbody tr").first().innerText();
  assert.match(row, /^1\s+merged\s+7\s+1\b/);
  await page.click("button:text('numbers')");
  assert.equal(await page.locator("button:text('numbers')").getAttribute("aria-pressed"), "true");
  await in_order(page);
});

check("what is not valid stands in groups by reason, the largest first, that can be folded", async () => {
  const page = await open(JOB, { hash: "#:items" });
  const groups = page.locator("button.group");
  assert.match(await groups.first().innerText(), /not JSON[^]*5|expected[^]*\d/);
  assert.match(await groups.last().innerText(), /good answers/);
  const before = await page.locator("#list li").count();
  await groups.first().click();
  assert.equal(await groups.first().getAttribute("aria-expanded"), "false");
  assert.ok((await page.locator("#list li").count()) < before);
  assert.equal(await page.evaluate(() => document.activeElement.className), "group", "the focus is lost");
  await in_order(page);
});

check("an item shows its attempts, the place where the answer breaks, what has changed, and the request", async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  assert.equal(await title(page), "broken-1");
  assert.equal(await page.locator(".attempt").count(), 4);
  assert.deepEqual(await page.locator(".attempt >> nth=0").locator("mark").allTextContents(), ['"']);
  assert.match(await page.locator(".attempt .findings").first().innerText(), /json expected/);
  assert.match(await page.locator(".attempt .text").first().innerText(), /ledger\\n\n *came by coach/,
    "lines do not end in JSON");
  const last = page.locator(".attempt").nth(2);
  await last.locator("summary", { hasText: "differs" }).click();
  await last.locator("del").first().waitFor(); // the difference is made when it is opened
  const old_words = await last.locator("del").allInnerTexts(), new_words = await last.locator("ins").allInnerTexts();
  assert.ok(old_words.includes("blue") && new_words.join("").includes("old green"), `${old_words} / ${new_words}`);
  await last.locator("summary", { hasText: "Request" }).click();
  assert.match(await last.locator("pre").innerText(), /Transcribe <b>this<\/b>\./);
  await in_order(page);
});

check("a long answer is scrolled to the place where it breaks; n goes to it", async () => {
  const page = await open(JOB, { hash: item("long") });
  const inside = () => page.evaluate(() => {
    const mark = document.querySelector(".attempt mark").getBoundingClientRect();
    const box = document.querySelector(".attempt .text").getBoundingClientRect();
    return mark.top >= box.top && mark.bottom <= box.bottom;
  });
  assert.ok(await page.evaluate(() => document.querySelector(".attempt .text").scrollTop > 0));
  assert.ok(await inside());
  await page.evaluate(() => { document.querySelector(".attempt .text").scrollTop = 0; });
  assert.ok(!(await inside()));
  await page.keyboard.press("n");
  assert.ok(await inside());
});

check("search looks into ids, reasons and answers; filters and search leave what they say", async () => {
  const page = await with_filters(JOB);
  await page.fill("#search", "OLD GREEN");
  await settled(page, "2 of 7 items");
  await page.fill("#search", "can't help");
  await settled(page, "1 of 7 items");
  assert.deepEqual(await names(page), ["refused"]);
  await page.fill("#search", "");
  await settled(page, "7 items");
  await choose(page, "filter-class", "valid");
  assert.equal(await count(page), "1 of 7 items");
  await page.click("#clear");
  await settled(page, "7 items");
  await choose(page, "filter-action", "give_up");
  assert.equal(await count(page), "6 of 7 items");
  await in_order(page);
});

check("hostile ids and answers are shown as text, direction marks and escapes as boxes; nothing runs", async () => {
  const page = await open(JOB, { hash: item("<script>window.pwned = 3</script>") });
  assert.equal(await title(page), "<script>window.pwned = 3</script>");
  const answer = page.locator(".attempt .text").first();
  assert.ok((await answer.innerText()).includes(
    "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"));
  assert.deepEqual((await answer.locator(".unseen").allInnerTexts()).slice(0, 3), ["U+202E", "U+202C", "U+001B"]);
  for (const hash of ["#:decisions", "#:overview", item("<img src=x onerror=window.pwned=4>")]) {
    await visit(page, hash);
  }
  assert.equal(await title(page), "<img src=x onerror=window.pwned=4>");
  assert.equal(await page.locator("#main img").count(), 0);
  await in_order(page);
});

check("the policy stops a script, a handler, a style and a frame that get in all the same", async () => {
  const page = await open(JOB);
  const outcomes = await page.evaluate(() => {
    const attempts = [
      () => { document.body.innerHTML += "<img src=x onerror='window.pwned = 6'>"; },
      () => { const script = document.createElement("script"); script.text = "window.pwned = 7";
        document.body.append(script); },
      () => { const link = document.createElement("a"); link.setAttribute("onclick", "window.pwned = 8");
        link.click(); },
      () => { const frame = document.createElement("iframe"); frame.src = "data:text/html,x";
        document.body.append(frame); },
    ];
    return attempts.map((attempt) => { try { attempt(); return "done"; } catch (error) { return error.name; } });
  });
  assert.deepEqual(outcomes.slice(0, 2), ["TypeError", "TypeError"]);
  await page.waitForFunction(() => window.forbidden.includes("frame-src"));
  assert.equal(await page.evaluate(() => window.pwned), undefined);
});

// ---------------------------------------------------------------- deciding

check("keys: j and k move, a accepts, r rejects with a note, u undoes, / searches, ? helps, Esc leaves", async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  await page.keyboard.press("j");
  assert.equal(await title(page), "broken-2");
  await page.keyboard.press("k");
  assert.equal(await title(page), "broken-1");
  await page.keyboard.press("a");
  assert.equal(await title(page), "broken-2", "an accepted item is followed by the next");
  await page.keyboard.press("r");
  await page.keyboard.type("jakob rejects this");
  await page.keyboard.press("Enter");
  assert.equal(await text(page, "#decisions-tally"), "2 not exported");
  await page.keyboard.press("u");
  assert.equal(await title(page), "broken-2");
  assert.equal(await text(page, "#decision"), "Not decided");
  assert.equal(await text(page, "#decisions-tally"), "1 not exported");
  await page.keyboard.press("r");
  await page.keyboard.press("Escape");
  assert.ok(await page.locator("#noting").isHidden());
  await page.keyboard.press("?");
  assert.ok(await page.locator("#help").isVisible());
  await page.keyboard.press("Escape");
  assert.ok(await page.locator("#help").isHidden());
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
  await page.keyboard.type("a");
  assert.equal(await text(page, "#decisions-tally"), "1 not exported", "a letter in the search is a command");
  await in_order(page);
});

check("single keys can be switched off", async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  await page.keyboard.press("?");
  await page.click("#keys");
  await page.click("#help button");
  await page.keyboard.press("a");
  assert.equal(await text(page, "#decisions-tally"), "");
});

check("decisions outlast a reload, are exported once, imported elsewhere, and taken by correction_loop", async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  await page.keyboard.press("a");
  await page.keyboard.press("r");
  await page.keyboard.type("no <b>text</b> \"quoted\"");
  await page.click("#noting button:text('Reject')");
  await visit(page, item("refused"));
  assert.equal(await page.locator("button.accept").count(), 0, "there is no answer to accept");
  await page.keyboard.press("r");
  await page.keyboard.type("ask again");
  await page.keyboard.press("Enter");
  await page.close({ runBeforeUnload: true });
  await page.waitForEvent("close");
  assert.ok(page.asked_to_stay, "no warning before decisions are left behind");

  const again = await open(JOB, { context: page.context(), hash: "#:decisions" });
  assert.match(await text(again, "#decisions-sum"),
    /^3 decisions: 1 accepted, 2 rejected\. 3 decisions not exported yet\.$/);
  assert.match(await text(again, "#command"), /^obatch correction_loop --base-dir .* --decisions FILE$/);
  const [download] = await Promise.all([again.waitForEvent("download"), again.click("#export")]);
  assert.equal(download.suggestedFilename(), "decisions-job.jsonl");
  await download.saveAs("decisions.jsonl");
  const lines = fs.readFileSync("decisions.jsonl", "utf8").trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map((line) => [line.custom_id, line.decision, line.note]).sort(), [["broken-1", "accept", ""],
    ["broken-2", "reject", "no <b>text</b> \"quoted\""], ["refused", "reject", "ask again"]]);
  assert.match(lines.find((line) => line.custom_id === "broken-1").sha256, /^[0-9a-f]{64}$/);
  assert.match(await text(again, "#decisions-sum"), /All are exported\.$/);
  await in_order(again);

  const other = await open(JOB, { hash: "#:decisions" });
  assert.match(await text(other, "#decisions-sum"), /^You have not decided/);
  fs.writeFileSync("imported.jsonl", fs.readFileSync("decisions.jsonl", "utf8") + "nonsense\n"
    + JSON.stringify({ custom_id: "broken-1", decision: "reject", sha256: "0".repeat(64) }) + "\n");
  await other.setInputFiles("#import", "imported.jsonl");
  await other.waitForFunction(() => document.querySelector("#import-note").textContent);
  assert.equal(await text(other, "#import-note"),
    "3 decisions taken from the file. 1 line about another text, or an item that is "
    + "not in this report, left out. Not a decision: line 4.");
  assert.match(await text(other, "#decisions-sum"), /^3 decisions: 1 accepted, 2 rejected\. All are exported\.$/);

  const run = spawnSync(process.env.OBATCH, ["correction_loop", "--base-dir", "job", "--original-requests",
    "requests.jsonl",
    "--poll-wait", "0.1", "--decisions", "decisions.jsonl"], { encoding: "utf8" });
  assert.match(run.stdout + run.stderr, /decisions: 1 accepted, 2 rejected, 0 not followed/);
  assert.ok(run.status === 0 || run.status === 3, `exit code ${run.status}`);
});

check("where the browser keeps nothing, decisions are kept as long as the page is open, and it says so", async () => {
  const page = await open(JOB, { hash: item("broken-2"), before: () => {
    Object.defineProperty(window, "localStorage", { get() { throw new DOMException("denied", "SecurityError"); } });
  } });
  await page.keyboard.press("a");
  await page.click("nav a:text('Decisions')");
  assert.match(await text(page, "#decisions-sum"), /^1 decision: 1 accepted/);
  assert.ok(await page.locator("#storage-note").isVisible());
  await in_order(page);
});

check("decisions are of the report of one folder; what else the browser has under its names is not believed",
  async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  await page.keyboard.press("a");
  const own = await page.evaluate(() => Object.keys(localStorage));
  fs.writeFileSync("job/other.html", fs.readFileSync(JOB, "utf8").replace(/"key":"[0-9a-f]{64}"/,
    `"key":"${"2".repeat(64)}"`));
  const other = await open("job/other.html", { context: page.context(), hash: item("broken-1") });
  assert.equal(await text(other, "#decision"), "Not decided", "another folder's report has its decision");

  // A page that lies elsewhere on this machine writes there, too.
  await page.evaluate(() => {
    const names = Object.keys(localStorage), [name] = names.filter((one) => one.includes("decision"));
    localStorage.setItem(name, JSON.stringify({ decision: "reject", note: { matchAll: 1 }, exported: "<b>" }));
    localStorage.setItem(name.replace(/decision[^]*/, "filters"), '["x", {"sample": {}}]');
    localStorage.setItem(name.replace(/decision[^]*/, "keys"), "{nonsense");
  });
  const again = await open(JOB, { context: page.context(), hash: item("broken-1") });
  assert.match(await text(again, "#decision"), /^✗ rejected/);
  await visit(again, "#:decisions");
  assert.match(await text(again, "#decisions-sum"), /^1 decision: 0 accepted, 1 rejected/);
  await visit(again, item("broken-1"));
  await again.keyboard.press("u"); // it was made before this page was opened
  assert.equal(await text(again, "#decision"), "Not decided");
  assert.ok(own.length > 0 && own.every((name) => name.startsWith("obatch report\n")));
  await in_order(again);
});

check("a hostile file of decisions: notes are text, what the command would refuse is left out", async () => {
  const page = await open(JOB, { hash: "#:decisions" });
  const shown = JSON.parse(fs.readFileSync(JOB, "utf8").match(/^\{.*"id":"broken-1".*$/m)[0]);
  const line = (fields) => JSON.stringify({ custom_id: "broken-1", decision: "reject", sha256: shown.sha256,
    ...fields });
  fs.writeFileSync("hostile.jsonl", ["null", "[]", '"accept"', "{", line({ decision: "constructor" }),
    line({ note: "x".repeat(10001) }), line({ custom_id: { toString: 1 } }), line({ custom_id: "__proto__" }),
    line({ custom_id: "refused", decision: "accept", sha256: null }),
    line({ note: "<img src=x onerror=window.pwned=9>\u202E" }).replace("<img", "\\ud800<img")].join("\n"));
  await page.setInputFiles("#import", "hostile.jsonl");
  await page.waitForFunction(() => document.querySelector("#import-note").textContent);
  assert.equal(await text(page, "#import-note"),
    "1 decision taken from the file. 2 lines about another text, or an item that "
    + "is not in this report, left out. Not a decision: line 1, 2, 3, 4, 5, 6, 7.");
  assert.match(await text(page, "#decided"), /<img src=x onerror=window\.pwned=9>U\+202E/);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
  const note = JSON.parse(fs.readFileSync(await download.path(), "utf8")).note;
  assert.equal(note, "\uFFFD<img src=x onerror=window.pwned=9>\u202E",
    "half a character is exported, which no command takes");
  await in_order(page);
});

check("a decision is about one text: after the text has changed it does not count", async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  await page.keyboard.press("a");
  const changed = fs.readFileSync(JOB, "utf8").replaceAll(/"sha256":"[0-9a-f]{64}"/g, `"sha256":"${"1".repeat(64)}"`);
  fs.writeFileSync("job/changed.html", changed);
  const other = await open("job/changed.html", { context: page.context(), hash: item("broken-1") });
  assert.equal(await text(other, "#decision"), "Not decided");
});

// ---------------------------------------------------------------- images

const SUSPICIOUS = "1893-05-19 to Margaret.jpg";

async function open_page(name, options) {
  const page = await open(REVIEW, { hash: "#:items", ...options });
  await page.locator("#list a", { hasText: name }).click();
  await page.waitForFunction((wanted) => document.querySelector("#item-title")?.textContent.endsWith(wanted), name);
  return page;
}

check("a page image and its text stand side by side, what the detectors found is marked in words", async () => {
  const page = await open_page(SUSPICIOUS);
  await page.waitForFunction(() => document.querySelector("#view img").naturalWidth > 0);
  const image = await page.locator("#view").boundingBox(),
    words = await page.locator(".transcript .text").boundingBox();
  assert.ok(image.x + image.width <= words.x && Math.abs(image.y - words.y) < 20, "not side by side");
  assert.match(await page.locator(".transcript mark").first().innerText(), /the pier and the/);
  assert.match(await text(page, ".transcript .findings"), /times in a row/);
  assert.match(await text(page, "#detail header"), /\.api/);
  const told = await text(page, ".transcript");
  assert.equal(told.match(/times in a row/g).length, 1, "what is marked is told twice");
  await in_order(page);
});

check("what an image job's failures cost: answers whose texts are labelled did not help", async () => {
  const page = await open(REVIEW);
  assert.match(await text(page, "#failures"), /^Failures cost \$.* answers? that gave no good text took [\d,]+ of/);
  const rows = await page.locator("section:has(#cost-title) tbody tr").allInnerTexts();
  assert.ok(rows.some((row) => /^\S+\s+valid\s/.test(row)) && rows.some((row) => /\slabelled\s+[1-9]/.test(row)),
    rows.join("; "));
  await in_order(page);
});

check("the image is as wide as its place, whole, or as it is; + and - zoom", async () => {
  const page = await open_page("1893-04-02.png");
  const sizes = () => page.evaluate(() => {
    const view = document.querySelector("#view"), image = view.querySelector("img");
    return { width: image.getBoundingClientRect().width, height: image.getBoundingClientRect().height,
      natural: image.naturalWidth,
      across: view.clientWidth, down: view.clientHeight };
  });
  await page.waitForFunction(() => { const image = document.querySelector("#view img"); return image.naturalWidth
    && image.style.width; });
  let now = await sizes();
  assert.ok(Math.abs(now.width - now.across) <= 3, JSON.stringify(now));
  await page.keyboard.press("z");
  now = await sizes();
  assert.ok(now.height <= now.down && now.width <= now.across, JSON.stringify(now));
  await page.keyboard.press("z");
  now = await sizes();
  assert.equal(now.width, now.natural);
  await page.keyboard.press("-");
  assert.ok((await sizes()).width < now.natural);
  await page.keyboard.press("+");
  await page.keyboard.press("+");
  assert.ok((await sizes()).width > now.natural);
});

check("versions of a text and what has changed since them", async () => {
  const page = await open_page("1893-04-02.png");
  assert.match(await text(page, ".transcript .text"), /^Dear Margaret/);
  await page.keyboard.press("v");
  assert.match((await page.locator(".transcript del").allInnerTexts()).join(""), /```/);
  await page.keyboard.press("v");
  assert.match(await text(page, ".transcript .text"), /^```/);
  assert.match(await page.locator("#version option").last().innerText(), /^Returned by batch_/);
  await in_order(page);
});

check("an image that is gone shows its path and why; a hostile file name is a name", async () => {
  const page = await open_page("1893-08-30.jpg");
  assert.match(await text(page, ".scan .gone"), /^The image is not there any more:\s+pages\/1893-08-30\.jpg$/);
  const hostile = "<img src=x onerror=window.pwned=5>.png";
  await page.locator("#list a", { hasText: hostile }).click();
  await page.waitForFunction(() => { const image = document.querySelector("#view img"); return image
    && image.naturalWidth > 0; });
  assert.ok((await title(page)).endsWith(hostile));
  await page.locator("#list a", { hasText: "arrival" }).click();
  await page.waitForFunction(() => document.querySelector(".transcript .text").textContent.includes("onerror"));
  await in_order(page);

  fs.rmSync("many/page-06111.png");
  const moved = await open(MANY, { hash: item("many|page-06111.png") });
  await moved.waitForSelector(".view .gone");
  assert.match(await text(moved, ".view .gone"), /^The image cannot be shown\.[^]*many\/page-06111\.png$/);
  await in_order(moved, true);
});

check("images of one custom_id and one text are two items, with decisions of their own", async () => {
  const first = "pages|1893-04-02.png", twice = fs.readFileSync(REVIEW, "utf8")
    .replaceAll(/"sha256":"[0-9a-f]{64}"/g, `"sha256":"${"3".repeat(64)}"`)
    .replace('"id":"pages|arrival.PNG"', `"id":"${first}"`)
    .replace(/"key":"[0-9a-f]{64}"/, `"key":"${"4".repeat(64)}"`);
  fs.writeFileSync("twice.html", twice);
  const page = await open("twice.html", { hash: item(first) });
  assert.equal(await title(page), "pages/1893-04-02.png");
  await page.locator("#list a", { hasText: "arrival" }).click();
  await page.waitForFunction(() => document.querySelector("#item-title").textContent.endsWith("arrival.PNG"));
  assert.equal(await page.locator("#list a[aria-current]").count(), 1);
  await page.keyboard.press("a");
  await page.reload();
  await ready(page);
  await visit(page, "#:decisions");
  assert.match(await text(page, "#decisions-sum"), /^1 decision: 1 accepted/);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
  const file = await download.path(), lines = fs.readFileSync(file, "utf8").trim().split("\n");
  assert.deepEqual(lines.map((line) => JSON.parse(line).path), ["pages/arrival.PNG"]);
  fs.writeFileSync("twice.jsonl", lines.join("\n"));
  const other = await open("twice.html", { hash: "#:decisions" });
  await other.setInputFiles("#import", "twice.jsonl");
  await other.waitForFunction(() => document.querySelector("#import-note").textContent);
  assert.match(await text(other, "#decided"), /arrival\.PNG/);
  await in_order(other);
});

check("pages are filtered by state and findings; decisions about them name the path", async () => {
  const page = await with_filters(REVIEW);
  await choose(page, "filter-state", ".api");
  assert.match(await count(page), /^[12] of 5 pages$/);
  await page.click("#clear");
  await settled(page, "5 pages");
  await choose(page, "filter-findings", "suspicious");
  assert.ok((await names(page)).includes(SUSPICIOUS));
  await page.locator("#list a", { hasText: SUSPICIOUS }).click();
  await page.keyboard.press("r");
  await page.keyboard.type("it loops");
  await page.keyboard.press("Enter");
  await page.click("#clear");
  await choose(page, "filter-decision", "undecided");
  await settled(page, "4 of 5 pages");
  await page.click("nav a:text('Decisions')");
  assert.match(await text(page, "#command"), /^obatch deep_clean .*--decisions FILE$/);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
  const line = JSON.parse(fs.readFileSync(await download.path(), "utf8"));
  assert.equal(line.path.endsWith(SUSPICIOUS), true);
  assert.equal(line.note, "it loops");
});

// ---------------------------------------------------------------- 10,000 pages

const size = (page) => page.evaluate(() => document.querySelectorAll("*").length);
const scroll = (page, share) => page.evaluate((to) => new Promise((done) => {
  const box = document.querySelector("#list");
  box.scrollTop = to * box.scrollHeight;
  requestAnimationFrame(() => requestAnimationFrame(done));
}), share);

check("of 10,000 pages there are elements and images only for what is in sight", async () => {
  const page = await open(MANY, { hash: "#:items" });
  assert.equal(await count(page), "10,000 pages");
  for (const share of [0.1, 0.3, 0.5, 0.7, 0.9]) await scroll(page, share);
  await page.waitForFunction(() => [...document.querySelectorAll("#list img")].some((image) => image.src));
  assert.ok((await size(page)) < 1500, `${await size(page)} elements`);
  assert.ok(page.asked.filter((url) => url.endsWith(".png")).length < 80, `${page.asked.length} images`);
  await scroll(page, 1);
  assert.ok((await names(page)).includes("page-09999.png"));
  await page.locator("#list a", { hasText: "page-09999.png" }).click();
  await page.waitForFunction(() => document.querySelector("#position").textContent === "10,000 of 10,000");
  await page.keyboard.press("k");
  assert.equal(await text(page, "#position"), "9,999 of 10,000");
  assert.ok((await size(page)) < 1500);
  await in_order(page);
});

check("a random sample is the same after a reload and another with another draw, and stays while one decides",
  async () => {
  const page = await with_filters(MANY);
  await page.fill("#sample", "20");
  await settled(page, "20 of 10,000 pages");
  await page.keyboard.press("Escape");
  await page.keyboard.press("j");
  const first = (await names(page)).slice(0, 8);
  await page.reload();
  await ready(page);
  await settled(page, "20 of 10,000 pages");
  assert.deepEqual((await names(page)).slice(0, 8), first);
  await page.keyboard.press("a");
  await page.click("#filters-button");
  await choose(page, "filter-decision", "undecided");
  await settled(page, "19 of 10,000 pages");
  assert.deepEqual((await names(page)).slice(0, 7), first.slice(1));
  await choose(page, "filter-decision", "");
  await page.fill("#draw", "2");
  assert.notDeepEqual((await names(page)).slice(0, 8), first);
  await page.fill("#sample", "");
  await settled(page, "10,000 pages");
  await choose(page, "filter-state", ".api");
  assert.equal(await count(page), "200 of 10,000 pages");
  await page.fill("#search", "page-00057");
  await settled(page, "1 of 10,000 pages");
  await in_order(page);
});

// ---------------------------------------------------------------- everywhere

check("nothing is wider than a phone, in any part", async () => {
  const page = await open(JOB, PHONE);
  const fits = async (what) => assert.ok(
    await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), what);
  await fits("job");
  for (const hash of ["#:items", "#:decisions", item("long"), item("<script>window.pwned = 3</script>")]) {
    await visit(page, hash);
    await fits("job " + hash);
  }
  assert.ok(await page.locator(".side").isHidden(), "on a phone there is the item or the list");
  await page.click(".back");
  assert.ok(await page.locator("#list").isVisible());
  const review = await open_page(SUSPICIOUS, PHONE);
  assert.ok(await review.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "a page");
});

check("every control has a name, headings are in order, images and tables say what they are", async () => {
  for (const [file, hash] of [[JOB, ""], [JOB, item("broken-1")], [JOB, "#:decisions"], [REVIEW, "#:items"], [REVIEW,
    ""]]) {
    const page = await open(file, { hash });
    const summaries = hash === item("broken-1") ? await page.locator("#detail summary").all() : [];
    for (const summary of summaries) await summary.click();
    assert.deepEqual(await faults_of_access(page), [], file + hash);
  }
});

check("colours have contrast, in light and in dark", async () => {
  const pairs = [];
  for (const back of ["ground", "surface", "sunk"]) for (const front of ["ink", "quiet", "accent", "good",
    "bad"]) pairs.push([front, back]);
  pairs.push(["on-accent", "accent"], ["accent", "accent-soft"], ["quiet", "accent-soft"], ["ink", "mark"], ["ink",
    "new"], ["ink", "old"], ["unseen", "sunk"]);
  for (const name of ["valid", "refused", "permanent", "expired", "cancelled"]) pairs.push(["bar-ink", "k-" + name]);
  const grounds = [];
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(JOB, { colorScheme });
    const poor = (await contrasts(page, pairs)).filter(([, , ratio]) => !(ratio >= 4.5));
    assert.deepEqual(poor, [], colorScheme);
    grounds.push(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor));
  }
  assert.notEqual(grounds[0], grounds[1], "dark is as light");
});

check("the difference of two texts puts both together again, quickly also where they are long and strange",
  async () => {
  const page = await open(JOB);
  const wrong = await page.evaluate(() => {
    const random = (() => { let seed = 7; return (n) => { seed = (seed * 48271) % 2147483647; return seed % n; }; })();
    const text = (words, different) => Array.from({ length: words }, () => "w" + random(different)).join(" ");
    const pairs = [["", "a"], ["a", ""], ["x\ny", "x\r\ny"], ["\ud800 a", "a \udc00"]];
    for (let i = 0; i < 200; i++) pairs.push([text(random(30), 4), text(random(30), 4)]);
    const long = text(6000, 100000);
    pairs.push([text(5000, 3), text(5000, 3)], [long, long.split(" ").reverse().join(" ")], [long, long.replace(/w1/g,
      "v1")]);
    return pairs.filter(([a, b]) => {
      const pieces = difference(a, b);
      const put_together = (kind) => pieces.filter((p) => p.kind !== kind).map((p) => p.text).join("");
      return put_together("new") !== a || put_together("old") !== b;
    }).length + (difference("one two three", "one 2 three").map((p) => p.kind
      + p.text).join() === "sameone ,oldtwo,new2,same three" ? 0 : 1000);
  });
  assert.equal(wrong, 0);
});

check("it prints: the charts, and the item that is open without what one clicks on", async () => {
  const page = await open(JOB, { hash: item("broken-1") });
  await page.emulateMedia({ media: "print" });
  assert.ok(await page.locator(".attempt").first().isVisible());
  assert.ok(await page.locator(".side").isHidden());
  assert.ok(await page.locator("nav").isHidden());
  assert.ok(await page.locator(".deciding").isHidden());
  await visit(page, "#:overview");
  assert.ok(await page.locator(".chart .bar rect").first().isVisible());
  assert.ok(await page.locator(".batch rect").first().isVisible());
});

(async () => {
  process.chdir(__dirname + "/jobs");
  const wanted = checks.filter(([name]) => name.includes(process.argv[2] || ""));
  await launch();
  console.log(`1..${wanted.length}`);
  let failed = 0;
  for (const [i, [name, run]] of wanted.entries()) {
    try {
      await run();
      console.log(`ok ${i + 1} - report page: ${name}`);
    } catch (error) {
      failed++;
      console.log(`not ok ${i + 1} - report page: ${name}\n${String(error.stack).replace(/^/gm, "# ")}`);
    }
    await tidy();
  }
  await close();
  process.exitCode = failed ? 1 : 0;
})();
