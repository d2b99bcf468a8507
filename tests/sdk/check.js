// The official OpenAI Node SDK against a sandbox that run.sh started with the faults that the last
// checks expect. Prints TAP; exit code 1 when a check failed. OPENAI_BASE_URL says where it listens.
"use strict";

const buffer = require("node:buffer");
globalThis.File ??= buffer.File; // Node 18 has it, but not as a global

const assert = require("node:assert/strict");
const OpenAI = require("openai").default;
const { toFile } = OpenAI;

const client = new OpenAI({ apiKey: "sk-any", maxRetries: 0, timeout: 20000 });
const checks = [];
const check = (name, run) => checks.push([name, run]);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const endpoint = "/v1/chat/completions";
const line = (id, text) =>
  JSON.stringify({
    custom_id: id,
    method: "POST",
    url: endpoint,
    body: { model: "gpt-test", messages: [{ role: "user", content: text }] },
  });

const upload = (lines, name = "requests.jsonl") =>
  toFile(Buffer.from(lines.map((l) => l + "\n").join("")), name).then((file) =>
    client.files.create({ purpose: "batch", file }),
  );

async function ended(id) {
  for (let i = 0; i < 400; i++) {
    const batch = await client.batches.retrieve(id);
    if (["completed", "failed", "expired", "cancelled"].includes(batch.status)) return batch;
    await pause(50);
  }
  throw new Error(`batch ${id} does not end`);
}

async function refused(promise, ErrorClass, status) {
  const error = await promise.then(
    () => assert.fail(`no ${ErrorClass.name}`),
    (e) => e,
  );
  assert.ok(error instanceof ErrorClass, `${error.constructor.name}: ${error.message}`);
  if (status) {
    assert.equal(error.status, status);
    assert.match(error.requestID ?? "", /^req_/);
  }
  return error;
}

check("upload, create, poll, content: every request answered once, in any order", async () => {
  const ids = Array.from({ length: 30 }, (_, i) => `page-${i}`);
  const file = await upload(ids.map((id) => line(id, `text of ${id} é 😀`)));
  assert.match(file.id, /^file-/);
  assert.equal(file.object, "file");
  assert.equal(file.status, "processed");
  assert.equal(file.expires_at, file.created_at + 2592000);

  const made = await client.batches.create({
    input_file_id: file.id, endpoint, completion_window: "24h", metadata: { run: "sdk", part: "1" },
  });
  assert.equal(made.status, "validating");
  assert.deepEqual(made.request_counts, { total: 0, completed: 0, failed: 0 });
  assert.equal(made.expires_at, made.created_at + 86400);

  const batch = await ended(made.id);
  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 30, completed: 30, failed: 0 });
  assert.deepEqual(batch.metadata, { run: "sdk", part: "1" });
  assert.equal(batch.errors, null);
  assert.equal(batch.error_file_id, null);
  assert.ok(batch.usage.total_tokens > 0);

  const content = await client.files.content(batch.output_file_id);
  const text = await content.text();
  const about = await client.files.retrieve(batch.output_file_id);
  assert.equal(Buffer.byteLength(text), about.bytes);
  assert.equal(about.purpose, "batch_output");
  const results = text.trimEnd().split("\n").map((l) => JSON.parse(l));
  assert.deepEqual(results.map((r) => r.custom_id).sort(), [...ids].sort());
  assert.notDeepEqual(results.map((r) => r.custom_id), ids);
  for (const result of results) {
    assert.equal(result.response.status_code, 200);
    assert.equal(result.response.body.choices[0].message.content, `text of ${result.custom_id} é 😀`);
  }
});

check("an expiry policy reaches the file through the bracketed form fields", async () => {
  const file = await client.files.create({
    purpose: "batch",
    file: await toFile(Buffer.from(line("a", "b") + "\n"), "short.jsonl"),
    expires_after: { anchor: "created_at", seconds: 3600 },
  });
  assert.equal(file.expires_at, file.created_at + 3600);
});

check("lists page themselves to the end, newest first", async () => {
  for (let i = 0; i < 5; i++) await upload([line("x", "y")], `many-${i}.jsonl`);
  const names = [];
  for await (const file of client.files.list({ purpose: "batch", limit: 2 })) names.push(file.filename);
  assert.deepEqual(names.filter((n) => n.startsWith("many-")), [4, 3, 2, 1, 0].map((i) => `many-${i}.jsonl`));
  const ascending = [];
  for await (const file of client.files.list({ limit: 2, order: "asc" })) ascending.push(file.id);
  assert.equal(new Set(ascending).size, ascending.length);

  const file = await upload([line("x", "y")]);
  const made = [];
  for (let i = 0; i < 5; i++) {
    made.unshift((await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" })).id);
  }
  const seen = [];
  for await (const batch of client.batches.list({ limit: 2 })) seen.push(batch.id);
  assert.deepEqual(seen.slice(0, 5), made);
});

check("deleting while paging skips nothing", async () => {
  for await (const file of client.files.list({ purpose: "batch", limit: 2 })) {
    if (file.filename.startsWith("many-")) {
      assert.deepEqual(await client.files.delete(file.id), { id: file.id, object: "file", deleted: true });
    }
  }
  for await (const file of client.files.list({ purpose: "batch" })) assert.ok(!file.filename.startsWith("many-"));
});

check("a bad line fails the batch, after create said validating", async () => {
  const file = await upload([line("a", "b"), '{"custom_id":"c"', line("a", "b")]);
  const made = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
  const batch = await ended(made.id);
  assert.equal(batch.status, "failed");
  assert.deepEqual(batch.errors.data.map((e) => [e.code, e.line]), [["invalid_json_line", 2], ["duplicate_custom_id", 3]]);
  await refused(client.batches.cancel(made.id), OpenAI.ConflictError, 409);
});

check("cancel: cancelling, then cancelled; again allowed", async () => {
  const file = await upload(Array.from({ length: 50 }, (_, i) => line(`c-${i}`, "x")));
  const made = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
  assert.equal((await client.batches.cancel(made.id)).status, "cancelling");
  assert.equal((await ended(made.id)).status, "cancelled");
  assert.equal((await client.batches.cancel(made.id)).status, "cancelled");
});

check("multi-part uploads become a file", async () => {
  const bytes = Buffer.from(line("u-1", "one") + "\n" + line("u-2", "two") + "\n");
  const upload = await client.uploads.create({
    bytes: bytes.length, filename: "parts.jsonl", purpose: "batch", mime_type: "application/jsonl",
  });
  const parts = [];
  for (const piece of [bytes.subarray(0, 40), bytes.subarray(40)]) {
    parts.push((await client.uploads.parts.create(upload.id, { data: await toFile(piece, "part") })).id);
  }
  const whole = await client.uploads.complete(upload.id, { part_ids: parts });
  assert.equal(whole.status, "completed");
  assert.equal(await (await client.files.content(whole.file.id)).text(), bytes.toString());

  const other = await client.uploads.create({
    bytes: 5, filename: "parts.jsonl", purpose: "batch", mime_type: "application/jsonl",
  });
  assert.equal((await client.uploads.cancel(other.id)).status, "cancelled");
  await refused(client.uploads.parts.create(other.id, { data: await toFile(Buffer.from("x"), "part") }), OpenAI.BadRequestError, 400);
});

check("error classes by status", async () => {
  await refused(client.files.retrieve("file-none"), OpenAI.NotFoundError, 404);
  await refused(client.files.content("file-none"), OpenAI.NotFoundError, 404);
  await refused(client.files.delete("file-none"), OpenAI.NotFoundError, 404);
  await refused(client.batches.retrieve("batch_none"), OpenAI.NotFoundError, 404);
  await refused(client.get("/nothing/here"), OpenAI.NotFoundError, 404);

  const missing = await refused(client.batches.create({ endpoint, completion_window: "24h" }), OpenAI.BadRequestError, 400);
  assert.equal(missing.code, "missing_required_parameter");
  assert.equal(missing.param, "input_file_id");
  const bad = await refused(
    client.batches.create({ input_file_id: "f", endpoint: "/v1/nope", completion_window: "24h" }), OpenAI.BadRequestError, 400);
  assert.equal(bad.code, "invalid_value");
  const named = await refused(upload([line("a", "b")], "requests.txt"), OpenAI.BadRequestError, 400);
  assert.match(named.message, /Must be \.jsonl/);

  const nobody = new OpenAI({ apiKey: "sk-any", maxRetries: 0, defaultHeaders: { Authorization: null } });
  await refused(nobody.files.list(), OpenAI.AuthenticationError, 401);
});

check("faults by status: rate limit, quota, forbidden, unprocessable, server, no answer", async () => {
  const knock = () => client.uploads.complete("upload_none", { part_ids: [] });
  const limited = await refused(knock(), OpenAI.RateLimitError, 429);
  assert.equal(limited.code, "rate_limit_exceeded");
  assert.equal(limited.headers.get("retry-after"), "7");
  const quota = await refused(knock(), OpenAI.RateLimitError, 429);
  assert.equal(quota.code, "insufficient_quota");
  assert.equal(quota.type, "insufficient_quota");
  await refused(knock(), OpenAI.PermissionDeniedError, 403);
  await refused(knock(), OpenAI.UnprocessableEntityError, 422);
  await refused(knock(), OpenAI.InternalServerError, 502);
  await refused(knock(), OpenAI.APIConnectionError);
  await refused(knock(), OpenAI.NotFoundError, 404);
});

check("the SDK's own retries get through", async () => {
  const patient = new OpenAI({ apiKey: "sk-any", maxRetries: 3 });
  await refused(patient.uploads.cancel("upload_none"), OpenAI.NotFoundError, 404);
});

(async () => {
  console.log(`1..${checks.length}`);
  let failed = 0;
  for (const [i, [name, run]] of checks.entries()) {
    try {
      await run();
      console.log(`ok ${i + 1} - sdk: ${name}`);
    } catch (error) {
      failed++;
      console.log(`not ok ${i + 1} - sdk: ${name}\n${String(error.stack).replace(/^/gm, "# ")}`);
    }
  }
  process.exitCode = failed ? 1 : 0;
})();
