/** A stream as a store that a page shows: one value, until something has changed. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { AT, aBatch, aChange, anEnter, aRun, aSnapshot, live, theEnd } from "./builders.js";
import { aWorld } from "./world.js";

test("a store calls at once and after each change, and its value is the same until then", () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRunsWithTag("user:7");
  /** @type {import("../src/index.js").RunsValue[]} */
  const seen = [];
  const end = stream.subscribe((value) => seen.push(value));
  assert.deepEqual(seen, [{ runs: [], truncated: false, status: "connecting", error: undefined, endReason: undefined }]);
  world.socket.opens();
  world.socket.says(aSnapshot(aRun("run_2"), aRun("run_1")), live());
  const value = stream.getSnapshot();
  assert.equal(value, stream.getSnapshot());
  assert.equal(value, seen.at(-1));
  assert.deepEqual([value.status, value.runs.map(({ id }) => id)], ["live", ["run_2", "run_1"]]);
  world.socket.says({ type: "checkpoint", cursor: "c2" }, { type: "heartbeat", at: AT, cursor: "c3" });
  assert.equal(stream.getSnapshot(), value, "a cursor is nothing to show");
  world.socket.says(aChange(2), anEnter(aRun("run_3")));
  assert.notEqual(stream.getSnapshot(), value);
  assert.equal(value.runs.at(1)?.version, 1, "what was given before stays as it was");
  assert.deepEqual(stream.getSnapshot().runs.map(({ id, version }) => [id, version]), [["run_3", 1], ["run_2", 1], ["run_1", 2]]);
  end();
  world.socket.says(aChange(3));
  assert.equal(seen.at(-1)?.runs.at(-1)?.version, 2);
});

test("a store that is away shows what it had, as stale", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live());
  assert.equal(stream.getSnapshot().status, "live");
  world.socket.says({ type: "stale" });
  assert.equal(stream.getSnapshot().status, "stale");
  world.socket.says({ type: "fresh" });
  assert.equal(stream.getSnapshot().status, "live");
  world.socket.closes();
  assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().run?.version], ["stale", 1]);
  await world.clock.pass(100);
  world.socket.opens();
  world.socket.says({ type: "reset", id: 1, reason: "epoch" });
  assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().run?.version], ["stale", 1]);
  world.socket.says(aSnapshot(aRun("run_1", 5)), live("c9"));
  assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().run?.version], ["live", 5]);
});

test("a store that is left and taken up again at once keeps its stream", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {})();
  stream.subscribe(() => {});
  world.socket.opens();
  await world.clock.pass(1_000);
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1" }]);
});

test("nor does it ask for it again where it was asked for already", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  const end = stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"));
  world.socket.taken();
  end();
  await world.clock.pass(50);
  const endAgain = stream.subscribe(() => {});
  await world.clock.pass(200);
  assert.deepEqual(world.socket.taken(), []);
  endAgain();
  await world.clock.pass(200);
  assert.deepEqual(world.socket.taken(), [{ type: "unsubscribe", id: 1 }]);
});

test("a callback may close its own store", () => {
  for (const last of [aChange(2, { status: "COMPLETED" }), theEnd()]) {
    const world = aWorld();
    const stream = world.runs.subscribeToRun("run_1", { stopOnCompletion: false });
    let calls = 0;
    stream.subscribe(({ run, status }) => {
      calls++;
      if (run?.isFinal || status === "ended") stream.close();
    });
    world.socket.opens();
    world.socket.says(aSnapshot(aRun()), live("c1"));
    world.socket.taken();
    const before = calls;
    world.socket.says(last);
    assert.equal(calls, before + 2, "of what has come, and that it is over");
    assert.equal(stream.getSnapshot().status, "ended");
    assert.deepEqual(world.socket.taken(), last.type === "end" ? [] : [{ type: "unsubscribe", id: 1 }]);
  }
});

test("a callback that throws is reported, and keeps nothing from the others", async () => {
  /** @type {any[]} */
  const reported = [];
  const before = globalThis.reportError;
  globalThis.reportError = (error) => reported.push(error.message);
  try {
    const world = aWorld({
      trace: () => {
        throw new Error("of the trace");
      },
    });
    const bad = world.runs.subscribeToRun("run_1");
    bad.subscribe(({ status }) => {
      if (status === "stale") throw new Error("of a store");
    });
    world.runs.connection.subscribe(({ state }) => {
      if (state === "WAITING") throw new Error("of the connection");
    });
    const good = world.runs.subscribeToRun("run_2");
    good.subscribe(() => {});
    world.socket.opens();
    world.socket.says(aSnapshot(aRun()), live("c1"), { ...aSnapshot(aRun("run_2")), id: 2 }, live("c1", { id: 2 }));
    world.socket.closes();
    assert.equal(good.getSnapshot().status, "stale");
    await world.clock.pass(1_000);
    assert.equal(world.sockets.length, 2, "it comes back");
    assert.deepEqual([...new Set(reported)].sort(), ["of a store", "of the connection", "of the trace"]);
  } finally {
    globalThis.reportError = before;
  }
});

test("where nobody takes reports, what a callback throws is thrown out of everything", () => {
  const world = aWorld();
  const before = { queueMicrotask: globalThis.queueMicrotask, reportError: globalThis.reportError };
  /** @type {(() => void)[]} */
  const later = [];
  Object.assign(globalThis, { queueMicrotask: (/** @type {() => void} */ call) => later.push(call), reportError: undefined });
  try {
    world.runs.subscribeToRun("run_1").subscribe(() => {
      throw new Error("of the caller");
    });
  } finally {
    Object.assign(globalThis, before);
  }
  assert.equal(later.length, 1);
  assert.throws(() => later[0]?.(), { message: "of the caller" });
});

test("a store that nobody looks at lets go, and goes on from its cursor later", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  const end = stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c7"));
  end();
  end();
  await world.clock.pass(200);
  assert.deepEqual(world.socket.taken().at(-1), { type: "unsubscribe", id: 1 });
  world.socket.says(theEnd("unsubscribed"));
  stream.subscribe(() => {});
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1", cursor: "c7" }]);
  assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().run?.version], ["stale", 1]);
});

test("of a store an error is part of the value", () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says({ type: "error", id: 1, code: "forbidden", message: "not yours" });
  const { status, error } = stream.getSnapshot();
  assert.deepEqual([status, error?.code, error?.message], ["ended", "forbidden", "not yours"]);
});

test("a batch tells its progress, a job run its steps in order", () => {
  const world = aWorld();
  const batch = world.runs.subscribeToBatch("batch_1");
  batch.subscribe(() => {});
  const job = world.runs.subscribeToJobRun("run_0");
  job.subscribe(() => {});
  world.socket.opens();
  world.socket.says({ type: "batch", id: 1, batch: aBatch(2) }, aSnapshot(aRun()), live());
  assert.deepEqual([batch.getSnapshot().batch?.final, batch.getSnapshot().runs.length, batch.batch?.size], [2, 1, 3]);
  const steps = [aRun("run_8", 1, { position: 1 }), aRun("run_0"), aRun("run_9", 1, { position: 0 })];
  world.socket.says({ ...aSnapshot(...steps), id: 2 }, { ...live(), id: 2 });
  const { run, runs } = job.getSnapshot();
  assert.deepEqual([run?.id, runs.map(({ id }) => id)], ["run_0", ["run_9", "run_8"]]);
});
