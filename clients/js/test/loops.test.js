/** A loop over a stream: what it gives, in which order, at whose pace, and how it ends. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { RunstreamError } from "../src/index.js";
import { aChange, anEnter, aRun, aSnapshot, live, theEnd, welcome } from "./builders.js";
import { aWorld, settled } from "./world.js";
import { taken } from "./taking.js";

test("a loop gives each version once and in order, and is over when the stream is", async () => {
  const world = aWorld({ token: "t" });
  const { runs } = world;
  const { values, over } = taken(runs.subscribeToRun("run_1"));
  const { socket } = world;
  assert.equal(socket.url, "ws://test/v1/realtime");
  assert.deepEqual(socket.protocols, ["runstream.v1"]);
  socket.onopen?.({});
  assert.deepEqual(socket.taken(), [{ type: "authenticate", token: "t" }]);
  socket.says(welcome());
  assert.deepEqual(socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1" }]);
  socket.says(aSnapshot(aRun()), live(), aChange(2), aChange(2), aChange(1));
  socket.says(aChange(3, { status: "COMPLETED", output: { total: 99 } }), theEnd());
  await over;
  assert.deepEqual(
    values.map(({ version, status, isFinal, payload }) => [version, status, isFinal, payload.orderId]),
    [
      [1, "QUEUED", false, 42],
      [2, "EXECUTING", false, 42],
      [3, "COMPLETED", true, 42],
    ],
  );
  assert.deepEqual(values[2]?.output, { total: 99 });
  assert.equal(runs.stats.repeatsDropped, 2);
});

test("leaving a loop unsubscribes, and the connection is let go of after a while", async () => {
  const world = aWorld();
  const loop = (async () => {
    for await (const run of world.runs.subscribeToRun("run_1")) return run.version;
    return 0;
  })();
  await settled();
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live());
  assert.equal(await loop, 1);
  assert.deepEqual(world.socket.taken().at(-1), { type: "unsubscribe", id: 1 });
  assert.equal(world.socket.isClosed, false);
  await world.clock.pass(10_000);
  assert.equal(world.socket.isClosed, true);
  assert.equal(world.runs.connection.getSnapshot().state, "IDLE");
});

test("what is refused is thrown out of the loop, with its code", async () => {
  for (const [messages, code] of /** @type {[any[], string][]} */ ([
    [[{ type: "error", id: 1, code: "forbidden", message: "not yours" }], "forbidden"],
    [[{ type: "error", id: 1, code: "not_found", message: "no run" }, theEnd("not_found")], "not_found"],
    [[aSnapshot(aRun()), live(), theEnd("forbidden")], "forbidden"],
    [["nonsense"], "protocol"],
  ])) {
    const world = aWorld();
    const { over } = taken(world.runs.subscribeToRun("run_1"));
    world.socket.opens();
    world.socket.says(...messages);
    await assert.rejects(over, (error) => error instanceof RunstreamError && error.code === code);
  }
});

test("an aborted signal ends the loop with its reason, and the stream", async () => {
  const world = aWorld();
  const controller = new AbortController();
  const { over } = taken(world.runs.subscribeToRun("run_1", { signal: controller.signal }));
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live());
  controller.abort();
  await assert.rejects(over, { name: "AbortError" });
  assert.deepEqual(world.socket.taken().at(-1), { type: "unsubscribe", id: 1 });
  await assert.rejects(taken(world.runs.subscribeToRun("run_1", { signal: controller.signal })).over, { name: "AbortError" });
});

test("a slow loop asks the server to stop, and goes on from where it was", async () => {
  const world = aWorld();
  const loop = world.runs.subscribeToRun("run_1", { buffer: 6 })[Symbol.asyncIterator]();
  const first = loop.next();
  await settled();
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"), ...[2, 3, 4].map((version) => aChange(version)));
  world.socket.says({ type: "checkpoint", cursor: "c4" }, aChange(5), aChange(6));
  assert.deepEqual(world.socket.taken().at(-1), { type: "unsubscribe", id: 1 });
  world.socket.says(aChange(7), theEnd("unsubscribed"));
  assert.equal((await first).value?.version, 1);
  for (const version of [2, 3, 4, 5, 6]) assert.equal((await loop.next()).value?.version, version);
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1", cursor: "c4" }]);
  world.socket.says(aChange(5), aChange(6), aChange(7), aChange(8), live("c8", { resumed: true }));
  for (const version of [7, 8]) assert.equal((await loop.next()).value?.version, version);
  assert.equal(world.runs.stats.pauses, 1);
});

test("under latest a slow loop gets the newest, and no run loses its turn", async () => {
  const world = aWorld();
  const loop = world.runs.subscribeToRuns({ delivery: "latest" })[Symbol.asyncIterator]();
  const first = loop.next();
  await settled();
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live());
  assert.equal((await first).value?.version, 1);
  world.socket.says(aChange(2), anEnter(aRun("run_2")), aChange(3), aChange(9));
  assert.deepEqual([(await loop.next()).value?.version, (await loop.next()).value?.id], [9, "run_2"]);
});

/** A loop that has taken the first of three versions, of which a cursor covers two. */
async function inTheMiddle() {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  await settled();
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"), aChange(2), { type: "checkpoint", cursor: "c2" }, aChange(3));
  await first;
  return { stream, loop };
}

test("a cursor is of what was taken, not of what has come", async () => {
  const { stream, loop } = await inTheMiddle();
  assert.equal(stream.cursor, undefined);
  await loop.next();
  assert.equal(stream.cursor, "c1");
  await loop.next();
  assert.equal(stream.cursor, "c2");
});

test("the cursor after a loop was left is of what it took", async () => {
  const { stream, loop } = await inTheMiddle();
  await loop.next();
  await loop.return();
  assert.equal(stream.cursor, "c1", "version 2 was left in the middle");
});

test("a signal ends whatever it was given to, whenever it comes", async () => {
  const world = aWorld();
  const controller = new AbortController();
  const { signal } = controller;
  const store = world.runs.subscribeToRun("run_1", { signal });
  store.subscribe(() => {});
  const waiting = taken(world.runs.subscribeToRun("run_2", { signal }));
  controller.abort(new Error("enough"));
  await assert.rejects(waiting.over, { message: "enough" });
  assert.deepEqual([store.getSnapshot().status, store.getSnapshot().endReason], ["ended", "unsubscribed"]);
  assert.equal(world.socket.isClosed, true, "not even open yet");
  await assert.rejects(world.runs.request("GET", "/v1/runs", { signal }), { message: "enough" });
});
