/** A run that is not held when a change of it comes: it is read, and all comes in order. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { aChange, anEnter, aRun, live, theEnd } from "./builders.js";
import { aWorld, settled } from "./world.js";
import { inShort, taken } from "./taking.js";

test("a change of a run that is not held is read once, and comes in order", async () => {
  /** @type {string[]} */
  const asked = [];
  const world = aWorld({
    fetch: async (url) => {
      asked.push(String(url));
      return Response.json(aRun("run_1", 4, { status: "EXECUTING" }));
    },
  });
  const { values } = taken(world.runs.subscribeToRuns({ snapshot: false }));
  world.socket.opens();
  world.socket.says(live(), aChange(3), aChange(4), aChange(5, { metadata: { progress: 1 } }));
  await settled();
  assert.deepEqual(asked, ["http://test/v1/runs/run_1"]);
  assert.deepEqual(values.map(({ version, payload }) => [version, payload.orderId]), [[4, 42], [5, 42]]);
});

/** A stream without a snapshot, of which run_1 is read at version 7 because of its version 3. */
async function aheadOfTheStream() {
  const world = aWorld({ fetch: async () => Response.json(aRun("run_1", 7)) });
  const loop = taken(world.runs.subscribeToRuns({ snapshot: false }).changes());
  world.socket.opens();
  world.socket.says(live(), aChange(3));
  await settled();
  return { world, told: () => inShort(loop.values).slice(1) };
}

test("a run that was read ahead of the stream leaves by what the stream says", async () => {
  const { world, told } = await aheadOfTheStream();
  world.socket.says(aChange(2, {}, "leave"));
  await settled();
  assert.deepEqual(told(), ["enter run_1 7"], "older than the change that it was read for");
  world.socket.says(aChange(4), aChange(5, {}, "leave"));
  await settled();
  assert.deepEqual(told(), ["enter run_1 7", "leave run_1 5"]);
});

test("if it enters again, it is news only from the version that was told", async () => {
  const { world, told } = await aheadOfTheStream();
  world.socket.says(aChange(4, {}, "leave"), anEnter(aRun("run_1", 5)), aChange(6));
  await settled();
  assert.deepEqual(told(), ["enter run_1 7", "leave run_1 4"]);
  world.socket.says(aChange(7), aChange(8));
  await settled();
  assert.deepEqual(told().slice(2), ["enter run_1 7", "change run_1 8"]);
});

test("a cursor does not cover a change whose run is still being read", async () => {
  /** @type {(answer: Response) => void} */
  let answer = () => assert.fail("nothing was asked");
  const world = aWorld({ fetch: () => new Promise((done) => (answer = done)) });
  const stream = world.runs.subscribeToRuns({ snapshot: false });
  const { values } = taken(stream.changes());
  world.socket.opens();
  world.socket.says(live("c1"), aChange(3), { type: "checkpoint", cursor: "c2" });
  await settled();
  assert.deepEqual([stream.cursor, values.length], ["c1", 1]);
  world.socket.says(theEnd());
  await settled();
  assert.equal(stream.getSnapshot().status, "live", "the end waits for it, too");
  answer(Response.json(aRun("run_1", 3)));
  await settled();
  assert.deepEqual([stream.cursor, inShort(values).at(-1), stream.getSnapshot().status], ["c2", "enter run_1 3", "ended"]);
});

test("a run whose read ended while nobody looked is read again", async () => {
  /** @type {((answer: Response) => void)[]} */
  const answers = [];
  const world = aWorld({ fetch: () => new Promise((answer) => answers.push(answer)) });
  const stream = world.runs.subscribeToRuns({ snapshot: false });
  const end = stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(live("c1"), aChange(3), { type: "checkpoint", cursor: "c2" });
  end();
  await world.clock.pass(200);
  answers[0]?.(Response.json(aRun("run_1", 3)));
  await settled();
  world.socket.says(theEnd("unsubscribed"));
  stream.subscribe(() => {});
  world.socket.says(live("c2", { resumed: true }));
  await settled();
  answers[1]?.(Response.json(aRun("run_1", 3)));
  await settled();
  assert.deepEqual(stream.getSnapshot().runs.map(({ version }) => version), [3]);
});
