/** Tokens: when a provider is asked, and what becomes of those who wait for it. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { aRun, aSnapshot, live, theEnd, welcome } from "./builders.js";
import { aWorld, settled } from "./world.js";
import { taken } from "./taking.js";

test("a token provider is asked before the token ends, and when it is refused", async () => {
  let count = 0;
  const world = aWorld({ token: async () => `token-${++count}` });
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  await settled();
  const inTenSeconds = () => new Date(world.clock.wall() + 10_000).toISOString();
  world.socket.onopen?.({});
  assert.deepEqual(world.socket.taken(), [{ type: "authenticate", token: "token-1" }]);
  world.socket.says(welcome({ expiresAt: inTenSeconds() }), aSnapshot(aRun()), live("c1"));
  world.socket.taken();
  await world.clock.pass(8_000);
  assert.deepEqual(world.socket.taken(), [{ type: "authenticate", token: "token-2" }]);
  world.socket.says({ type: "authenticated", expiresAt: inTenSeconds() });
  world.socket.says(theEnd("token_revoked"));
  assert.equal(world.socket.isClosed, true);
  await settled();
  assert.equal(world.sockets.length, 2);
  world.socket.onopen?.({});
  assert.deepEqual(world.socket.taken(), [{ type: "authenticate", token: "token-3" }]);
  assert.equal(stream.getSnapshot().status, "stale");
});

test("a fixed token that is refused is told at once", async () => {
  const world = aWorld({ token: "wrong" });
  const { over } = taken(world.runs.subscribeToRun("run_1"));
  world.socket.onopen?.({});
  world.socket.closes(4401);
  await assert.rejects(over, { code: "unauthorized" });
});

test("without a token, a server that wants one is waited for until it says so", async () => {
  const world = aWorld();
  const { over } = taken(world.runs.subscribeToRun("run_1"));
  world.socket.onopen?.({});
  assert.deepEqual(world.socket.taken(), []);
  await world.clock.pass(11_000);
  world.socket.closes(4401);
  await assert.rejects(over, { code: "unauthorized" });
});

test("a provider that is away is asked again, one that fails is told", async () => {
  let count = 0;
  const world = aWorld({
    token: async () => {
      if (count++ < 2) throw new TypeError("Failed to fetch");
      return "t";
    },
  });
  world.runs.subscribeToRun("run_1").subscribe(() => {});
  await settled();
  await world.clock.pass(1_000);
  assert.equal(world.sockets.length, 1);
  const broken = aWorld({
    token: () => {
      throw new Error("no session");
    },
  });
  await assert.rejects(taken(broken.runs.subscribeToRun("run_1")).over, { code: "unauthorized" });
});

test("a signal is heard while a token is waited for, the first or a fresh one", async () => {
  /** @type {((token: string) => void)[]} */
  const asked = [];
  const world = aWorld({
    token: () => new Promise((give) => asked.push(give)),
    fetch: async () => Response.json({ code: "unauthorized" }, { status: 401 }),
  });
  for (const refused of [undefined, "old"]) {
    const controller = new AbortController();
    const call = world.runs.request("GET", "/v1/runs", { signal: controller.signal });
    const loop = taken(world.runs.subscribeToRun("run_1", { signal: controller.signal })).over;
    await settled();
    // One that is refused: another is asked for.
    if (refused) asked.shift()?.(refused);
    await settled();
    assert.equal(asked.length, 1);
    controller.abort(new Error("enough"));
    await assert.rejects(call, { message: "enough" });
    await assert.rejects(loop, { message: "enough" });
  }
});

test("a provider that never answers is asked again, and a call that waits for it ends", async () => {
  let asked = 0;
  const world = aWorld({ token: () => (asked++ ? "t" : new Promise(() => {})) });
  world.runs.subscribeToRun("run_1").subscribe(() => {});
  const calls = [1, 2].map(() => assert.rejects(world.runs.get("run_1"), { code: "connection_lost" }));
  await settled();
  await world.clock.pass(29_000);
  assert.deepEqual([asked, world.sockets.length], [1, 0]);
  await world.clock.pass(2_000);
  await Promise.all(calls);
  assert.deepEqual([asked, world.sockets.length], [2, 1]);
});

test("a call for which there is no token throws an error of ours", async () => {
  const world = aWorld({
    token: async () => {
      throw new TypeError("Failed to fetch");
    },
  });
  await assert.rejects(world.runs.get("run_1"), (/** @type {any} */ error) => {
    assert.deepEqual([error.name, error.code, error.cause.name], ["RunstreamError", "connection_lost", "TypeError"]);
    return true;
  });
});
