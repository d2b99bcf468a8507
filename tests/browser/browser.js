// Chromium for check.js: pages that are watched, and a few things to ask of any page.
const assert = require("node:assert/strict");
const { chromium } = require("playwright-core");
const { pathToFileURL } = require("node:url");

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

let browser;
const launch = async () => { browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS }); };
const close = () => browser.close();

/** Closes all that was opened. */
const tidy = () => Promise.all(browser.contexts().map((context) => context.close()));

/** Opens a report in a new context. What it asked for, complained of and was forbidden is in page.asked, page.said. */
async function open(file, { hash = "", before, context, ...options } = {}) {
  context = context || (await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options }));
  const page = await context.newPage();
  page.asked = [];
  page.said = [];
  page.on("request", (request) => page.asked.push(request.url()));
  page.on("pageerror", (error) => page.said.push(String(error.stack || error)));
  page.on("console", (message) => page.said.push(message.text()));
  page.on("dialog", (dialog) => { page.asked_to_stay = true; dialog.accept(); });
  await page.addInitScript(() => {
    window.forbidden = [];
    addEventListener("securitypolicyviolation", (event) => window.forbidden.push(event.violatedDirective));
  });
  if (before) await page.addInitScript(before);
  await page.goto(pathToFileURL(file).href + hash);
  await ready(page);
  return page;
}

const ready = (page) => page.waitForFunction(() => document.documentElement.dataset.ready === "yes");

/** A page in order: nothing ran that came with the data, no error, no violation, nothing asked of a network. */
async function in_order(page, may_miss) {
  assert.equal(await page.evaluate(() => window.pwned), undefined, "something in the data was run");
  assert.deepEqual(await page.evaluate(() => window.forbidden), [], "the policy was violated");
  const said = page.said.filter((words) => !(may_miss && words.includes("ERR_FILE_NOT_FOUND")));
  assert.deepEqual(said, [], "the console is not empty");
  const elsewhere = page.asked.filter((url) => !/^(file|data|blob):/.test(url));
  assert.deepEqual(elsewhere, [], "something was asked of a network");
}

/** What a person with a screen reader, or poor sight, cannot do without. */
const faults_of_access = (page) => page.evaluate(() => {
  const faults = [], seen = (node) => node.checkVisibility({ visibilityProperty: true });
  const name_of = (node) => (node.getAttribute("aria-label")
    || (node.labels && [...node.labels].map((label) => label.textContent).join("")) || node.textContent).trim();
  const named = "button, a, input, select, [tabindex='0'], [role=region], svg[role=img]";
  for (const node of document.querySelectorAll(named)) {
    const by = node.getAttribute("aria-labelledby"), other = by && document.getElementById(by);
    if (seen(node) && !name_of(node) && !(other && other.textContent)) faults.push("no name: "
      + node.outerHTML.slice(0, 100));
  }
  let level = 0;
  for (const node of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!node.checkVisibility()) continue;
    const own = Number(node.tagName[1]);
    if (own > level + 1) faults.push(`h${own} after h${level}: ${node.textContent.slice(0, 60)}`);
    level = own;
  }
  for (const image of document.querySelectorAll("img:not([alt])")) faults.push("no alt: " + image.outerHTML.slice(0,
    100));
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption || !table.querySelector("thead th[scope=col]")) faults.push("a table without caption or header");
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) faults.push("an id twice: " + id);
  for (const role of ["main", "header", "nav[aria-label]",
    "[role=status]"]) if (!document.querySelector(role)) faults.push("there is no " + role);
  if (!document.documentElement.lang) faults.push("no language");
  return faults;
});

/** Contrast of colours as they are shown: [foreground, background, ratio]. */
const contrasts = (page, pairs) => page.evaluate((list) => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const digits = style.getPropertyValue("--" + name).trim().slice(1);
    const [r, g, b] = [0, 2, 4].map((i) => parseInt(digits.slice(i, i + 2),
      16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return list.map(([front, back]) => {
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    return [front, back, (high + 0.05) / (low + 0.05)];
  });
}, pairs);

module.exports = { launch, close, tidy, open, ready, in_order, faults_of_access, contrasts };
