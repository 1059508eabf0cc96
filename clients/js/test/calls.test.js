/** HTTP calls: what is tried again, and how a refusal is thrown. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Runstream, RunstreamError } from "../src/index.js";
import { aRun } from "./builders.js";
import { aWorld, settled } from "./world.js";

test("a call that is never answered ends as a lost connection", async () => {
  const world = aWorld({
    fetch: (url, init) =>
      new Promise((_, fail) => init?.signal?.addEventListener("abort", () => fail(init.signal?.reason))),
  });
  const call = world.runs.get("run_1");
  const rejected = assert.rejects(call, { code: "connection_lost" });
  for (let n = 0; n < 5; n++) {
    await settled();
    await world.clock.pass(40_000);
  }
  await rejected;
});

for (const { code, status } of [
  { code: "unavailable", status: 503 },
  { code: "too_many_requests", status: 429 },
]) {
  test(`a server that asks for patience gets it: ${status}`, async () => {
    let asked = 0;
    const world = aWorld({
      fetch: async () =>
        asked++ ? Response.json(aRun()) : Response.json({ code }, { status, headers: { "Retry-After": "7" } }),
    });
    const call = world.runs.get("run_1");
    await settled();
    await world.clock.pass(6_900);
    assert.equal(asked, 1);
    await world.clock.pass(1_000);
    assert.equal((await call).id, "run_1");
  });
}

test("calls are tried again where that is safe, with the key of the first", async () => {
  /** @type {any[]} */
  const asked = [];
  const answers = [
    () => Promise.reject(new TypeError("Failed to fetch")),
    () => Response.json({ code: "unavailable", detail: "busy" }, { status: 503 }),
    () => Response.json(aRun("run_9")),
  ];
  const world = aWorld({
    token: "t",
    fetch: async (url, init) => {
      asked.push([String(url), init?.method, new Headers(init?.headers).get("idempotency-key")]);
      return (answers.shift() ?? assert.fail("asked too often"))();
    },
  });
  const made = world.runs.trigger("send-invoice", { orderId: 42 }, { tags: ["user:7"] });
  for (let n = 0; n < 4; n++) {
    await settled();
    await world.clock.pass(2_000);
  }
  assert.equal((await made).id, "run_9");
  assert.equal(asked.length, 3);
  assert.deepEqual(asked[0]?.slice(0, 2), ["http://test/v1/runs", "POST"]);
  assert.equal(new Set(asked.map(([, , key]) => key)).size, 1);
});

test("a call that is refused throws what the server says, and a wrong address says so at once", async () => {
  const world = aWorld({
    fetch: async () => Response.json({ code: "conflict", detail: "run_1 is COMPLETED", run: aRun() }, { status: 409 }),
  });
  await assert.rejects(world.runs.cancel("run_1"), (error) => {
    assert.ok(error instanceof RunstreamError);
    assert.deepEqual([error.code, error.status, error.message, error.details.run.id], ["conflict", 409, "run_1 is COMPLETED", "run_1"]);
    return true;
  });
  assert.throws(() => new Runstream({ url: "ftp://test" }), TypeError);
  assert.throws(() => new Runstream(), TypeError);
});
