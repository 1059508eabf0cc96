/** Snapshots: nothing of one is shown by halves, and it says which runs have left. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { aChange, anEnter, aRun, aSnapshot, live, theEnd } from "./builders.js";
import { aWorld, settled } from "./world.js";
import { inShort, taken } from "./taking.js";

test("runs that a new snapshot does not have are gone when it is there", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRuns();
  const told = taken(stream.changes());
  world.socket.opens();
  world.socket.says(aSnapshot(aRun("run_1"), aRun("run_2")), live());
  world.socket.says({ type: "reset", id: 1, reason: "retention" }, aSnapshot(aRun("run_2", 4)), live("c9"));
  await settled();
  assert.deepEqual(
    told.values.map((change) => ("run" in change ? `${change.kind} ${change.run.id} ${change.run.version}` : change.kind)),
    ["enter run_1 1", "enter run_2 1", "live", "reset", "enter run_2 4", "leave run_1 1", "live"],
  );
});

test("a first snapshot that is cut off is not shown: the next may have other versions", async () => {
  const world = aWorld();
  const loop = taken(world.runs.subscribeToRuns().changes());
  const store = world.runs.subscribeToRuns();
  store.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun("run_1"), aRun("run_2")), { ...aSnapshot(aRun("run_1")), id: 2 });
  await settled();
  assert.deepEqual([loop.values, store.getSnapshot().runs, store.getSnapshot().status], [[], [], "connecting"]);
  world.socket.closes();
  await world.clock.pass(100);
  world.socket.opens();
  assert.deepEqual(world.socket.taken().map(({ cursor }) => cursor), [undefined, undefined]);
  // Of run_2 nothing comes again, run_3 changes before it is live.
  world.socket.says(aSnapshot(aRun("run_1", 5), aRun("run_3")), aChange(2, { id: "run_3" }));
  await settled();
  assert.deepEqual(loop.values, []);
  world.socket.says(live(), aChange(6));
  await settled();
  assert.deepEqual(inShort(loop.values), ["enter run_1 5", "enter run_3 1", "change run_3 2", "live", "change run_1 6"]);
});

test("a snapshot after a reset is not shown either before it is live", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRuns({ snapshot: false, cursor: "old" });
  const loop = taken(stream.changes());
  world.socket.opens();
  world.socket.says(anEnter(aRun("run_1")), { type: "reset", id: 1, reason: "retention" }, aSnapshot(aRun("run_1", 3)));
  await settled();
  assert.deepEqual(inShort(loop.values), ["enter run_1 1", "reset"]);
  world.socket.closes();
  await world.clock.pass(100);
  world.socket.opens();
  assert.deepEqual(
    world.socket.taken(),
    [{ type: "subscribeToRuns", id: 1, snapshot: true }],
    "the present state is still owed",
  );
  world.socket.says(aSnapshot(aRun("run_2", 5)), live());
  await settled();
  assert.deepEqual(inShort(loop.values).slice(2), ["enter run_2 5", "leave run_1 1", "live"]);
  world.socket.closes();
  await world.clock.pass(100);
  world.socket.opens();
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRuns", id: 1, snapshot: false, cursor: "c1" }]);
});

test("a reset to nothing is the end of what was there", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRuns();
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live(), { type: "reset", id: 1, reason: "token" });
  assert.deepEqual([stream.getSnapshot().runs.length, stream.getSnapshot().status], [1, "stale"]);
  world.socket.says(live("c2"));
  assert.deepEqual([stream.getSnapshot().runs.length, stream.getSnapshot().status], [0, "live"]);
});

test("a run that leaves between a reset and its live is told as left once", async () => {
  const reset = { type: "reset", id: 1, reason: "retention" };
  for (const runs of [[aRun("run_1", 3)], []]) {
    const world = aWorld();
    const { values } = taken(world.runs.subscribeToRuns().changes());
    world.socket.opens();
    world.socket.says(aSnapshot(aRun()), live("c1"));
    world.socket.says(reset, aSnapshot(...runs), aChange(4, {}, "leave"), live("c2"));
    await settled();
    const entered = runs.map(() => "enter run_1 3");
    assert.deepEqual(inShort(values).slice(2), ["reset", ...entered, "leave run_1 4", "live"]);
  }
});

/** A loop that was shown run_1 and run_2, and then that run_3 is among those that match. */
async function resetToATruncatedSnapshot() {
  const get = async () => Response.json(aRun("run_2", 4));
  const world = aWorld({ fetch: /** @type {any} */ (get) });
  const loop = taken(world.runs.subscribeToRuns().changes());
  world.socket.opens();
  world.socket.says(aSnapshot(aRun("run_1"), aRun("run_2")), live());
  world.socket.says({ type: "reset", id: 1, reason: "epoch" }, aSnapshot(aRun("run_3")), live("c2", { truncated: true }));
  await settled();
  assert.deepEqual(inShort(loop.values.splice(0)).slice(3), ["reset", "enter run_3 1", "live"]);
  return { world, told: () => inShort(loop.values.splice(0)) };
}

test("runs that a truncated snapshot had no room for have not left", async () => {
  const { world, told } = await resetToATruncatedSnapshot();
  world.socket.says(aChange(7, { id: "run_1" }, "leave"), aChange(4, { id: "run_2" }));
  for (let turn = 0; turn < 20; turn++) await settled();
  assert.deepEqual(told(), ["leave run_1 7", "enter run_2 4"]);
  world.socket.says({ type: "reset", id: 1, reason: "epoch" }, aSnapshot(aRun("run_3", 2)), live("c3"));
  await settled();
  assert.deepEqual(told(), ["reset", "enter run_3 2", "leave run_2 4", "live"]);
});

test("what a later snapshot has room for and does not hold has left", async () => {
  const { world, told } = await resetToATruncatedSnapshot();
  world.socket.says({ type: "reset", id: 1, reason: "epoch" }, aSnapshot(aRun("run_2", 5)), live("c3"));
  await settled();
  assert.deepEqual(told(), ["reset", "enter run_2 5", "leave run_1 1", "leave run_3 1", "live"]);
});

test("a run that leaves while a truncated snapshot is joined has left", async () => {
  const { world, told } = await resetToATruncatedSnapshot();
  const leave = aChange(7, { id: "run_1" }, "leave");
  world.socket.says({ type: "reset", id: 1, reason: "epoch" }, aSnapshot(aRun("run_3", 2)), leave, live("c3", { truncated: true }));
  await settled();
  assert.deepEqual(told(), ["reset", "enter run_3 2", "leave run_1 7", "live"]);
});

test("a loop that begins in the middle of a snapshot gets all of it", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRuns();
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun("run_1")));
  const loop = taken(stream.changes());
  world.socket.says(aSnapshot(aRun("run_2")), live());
  await settled();
  assert.deepEqual(inShort(loop.values), ["enter run_1 1", "enter run_2 1", "live"]);
});

test("a first snapshot that is refused before it is live throws, and shows nothing by halves", async () => {
  const world = aWorld();
  const { values, over } = taken(world.runs.subscribeToRuns());
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), theEnd("forbidden"));
  await assert.rejects(over, { code: "forbidden" });
  assert.deepEqual(values, []);
});
