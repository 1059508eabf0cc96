/** The client as a page uses it: loops and stores over a socket that the test plays the server of. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Runstream, RunstreamError } from "../src/index.js";
import { AT, aBatch, aChange, anEnter, aRun, aSnapshot, aWorld, live, settled, theEnd, welcome } from "./builders.js";

/** What a loop gives, taken as it comes. @template R @param {AsyncIterable<R>} loop */
function taken(loop) {
  /** @type {R[]} */
  const values = [];
  const over = (async () => {
    for await (const value of loop) values.push(value);
  })();
  over.catch(() => {});
  return { values, over };
}

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

test("a lost connection is gone on from, and what is repeated is dropped", async () => {
  const world = aWorld();
  const { values } = taken(world.runs.subscribeToRun("run_1"));
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"), aChange(2), { type: "checkpoint", cursor: "c2" }, aChange(3));
  world.socket.closes();
  assert.equal(world.runs.connection.getSnapshot().state, "WAITING");
  await world.clock.pass(100);
  assert.equal(world.sockets.length, 2);
  world.socket.opens();
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1", cursor: "c2" }]);
  world.socket.says(aChange(3), aChange(4), live("c3", { resumed: true }));
  await settled();
  assert.deepEqual(values.map(({ version }) => version), [1, 2, 3, 4]);
  assert.deepEqual([world.runs.stats.reconnects, world.runs.stats.resumes], [1, 1]);
});

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

/** What a loop over `changes()` was told, in short. @param {import("../src/index.js").Change[]} changes */
const inShort = (changes) =>
  changes.map((change) => ("run" in change ? `${change.kind} ${change.run.id} ${change.run.version}` : change.kind));

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
  assert.deepEqual(told(), ["reset", "enter run_3 2", "leave run_1 1", "live"]);
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

test("a store that is left and taken up again at once keeps its stream", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {})();
  stream.subscribe(() => {});
  world.socket.opens();
  await world.clock.pass(1_000);
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1" }]);
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

test("all subscriptions share one socket, and one change may be for several", () => {
  const world = aWorld();
  const first = world.runs.subscribeToRun("run_1");
  const second = world.runs.subscribeToRuns({ skip: ["payload"] });
  first.subscribe(() => {});
  second.subscribe(() => {});
  world.socket.opens();
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(world.socket.taken().map(({ id }) => id), [1, 2]);
  world.socket.says(aSnapshot(aRun()), { ...aSnapshot(aRun()), id: 2 }, live(), { ...live(), id: 2 });
  world.socket.says({ ...aChange(2), ids: [1, 2, 17] });
  assert.equal(first.getSnapshot().run?.version, 2);
  assert.equal(second.getSnapshot().runs[0]?.version, 2);
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

test("of a store an error is part of the value", () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says({ type: "error", id: 1, code: "forbidden", message: "not yours" });
  const { status, error } = stream.getSnapshot();
  assert.deepEqual([status, error?.code, error?.message], ["ended", "forbidden", "not yours"]);
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

test("a cursor is of what was taken, not of what has come", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  const loop = stream[Symbol.asyncIterator]();
  const first = loop.next();
  await settled();
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"), aChange(2), { type: "checkpoint", cursor: "c2" }, aChange(3));
  await first;
  assert.equal(stream.cursor, undefined);
  await loop.next();
  assert.equal(stream.cursor, "c1");
  await loop.next();
  assert.equal(stream.cursor, "c2");
});

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

test("a checkpoint holds for the streams that are live, and for no other", async () => {
  const world = aWorld();
  const [first, second] = [world.runs.subscribeToRun("run_1"), world.runs.subscribeToRun("run_2", { cursor: "own" })];
  first.subscribe(() => {});
  second.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"), { type: "checkpoint", cursor: "c2" });
  assert.deepEqual([first.cursor, second.cursor], ["c2", "own"]);
});

test("a subscription that is given up early frees its number when the server says so", async () => {
  const world = aWorld();
  const early = world.runs.subscribeToRun("run_1");
  early.subscribe(() => {});
  world.socket.opens();
  early.close();
  const next = world.runs.subscribeToRun("run_2");
  next.subscribe(() => {});
  assert.deepEqual(world.socket.taken().map(({ type, id }) => [type, id]), [
    ["subscribeToRun", 1],
    ["unsubscribe", 1],
    ["subscribeToRun", 2],
  ]);
  world.socket.says(aSnapshot(aRun()), live(), theEnd("unsubscribed"));
  assert.deepEqual([early.getSnapshot().endReason, early.getSnapshot().run], ["unsubscribed", undefined]);
  world.runs.subscribeToRun("run_3").subscribe(() => {});
  assert.equal(world.socket.taken()[0]?.id, 1);
});

test("a close says whether to come back: from the cursor, patiently, or not at all", async () => {
  for (const code of [1000, 1001, 1006, 1008, 1009, 1011, 1012, 4408]) {
    const world = aWorld();
    const stream = world.runs.subscribeToRun("run_1");
    stream.subscribe(() => {});
    world.socket.opens();
    world.socket.says(aSnapshot(aRun()), live("c1"));
    world.socket.closes(code);
    assert.equal(stream.getSnapshot().status, "stale", `${code}`);
    await world.clock.pass(100);
    world.socket.opens();
    assert.equal(world.socket.taken()[0]?.cursor, "c1", `${code}`);
  }
  const busy = aWorld();
  busy.runs.subscribeToRun("run_1").subscribe(() => {});
  busy.socket.opens();
  busy.socket.closes(4429);
  await busy.clock.pass(499);
  assert.equal(busy.sockets.length, 1);
  await busy.clock.pass(501);
  assert.equal(busy.sockets.length, 2);
  for (const [code, word] of /** @type {const} */ ([[4400, "bad_request"], [4403, "forbidden"], [4404, "not_found"], [4405, "bad_request"]])) {
    const world = aWorld();
    const { over } = taken(world.runs.subscribeToRun("run_1"));
    world.socket.opens();
    world.socket.closes(code, "no");
    await assert.rejects(over, { code: word, message: "no" });
    await world.clock.pass(120_000);
    assert.equal(world.sockets.length, 1, "and nothing is tried again");
  }
});

test("what is longer than the server takes is refused here, and costs nobody else the socket", async () => {
  const world = aWorld();
  const small = world.runs.subscribeToRun("run_1");
  small.subscribe(() => {});
  const tasks = Array.from({ length: 9_000 }, (_, n) => `task-${n}`);
  const { over } = taken(world.runs.subscribeToRuns({ tasks }));
  world.socket.opens();
  await assert.rejects(over, { code: "bad_request" });
  assert.deepEqual(world.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1" }]);
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

test("told to come back, it comes back then and no later", async () => {
  const world = aWorld();
  world.runs.subscribeToRun("run_1").subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live(), { type: "reconnect", afterMs: 750, reason: "draining" });
  world.socket.closes(1012);
  await world.clock.pass(749);
  assert.equal(world.sockets.length, 1);
  await world.clock.pass(1);
  assert.equal(world.sockets.length, 2);
});

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

test("a tab that was put away lets go, and goes on when it is shown", async () => {
  /** @type {Record<string, any>} */
  const page = { visibilityState: "visible", listeners: {} };
  page.addEventListener = (/** @type {string} */ name, /** @type {any} */ call) => (page.listeners[name] = call);
  const before = { document: globalThis.document, addEventListener: globalThis.addEventListener };
  Object.assign(globalThis, { document: page, addEventListener: page.addEventListener });
  try {
    const world = aWorld({ sleepAfterMs: 60_000 });
    const stream = world.runs.subscribeToRun("run_1");
    stream.subscribe(() => {});
    world.socket.opens(welcome({ heartbeatS: 600 }));
    world.socket.says(aSnapshot(aRun()), live("c1"));
    page.visibilityState = "hidden";
    page.listeners.visibilitychange();
    await world.clock.pass(10_000);
    assert.equal(world.socket.isClosed, false, "not for a moment");
    await world.clock.pass(50_000);
    assert.deepEqual([world.socket.isClosed, stream.getSnapshot().status], [true, "stale"]);
    await world.clock.pass(600_000);
    assert.equal(world.sockets.length, 1, "nothing is tried while it sleeps");
    page.visibilityState = "visible";
    page.listeners.visibilitychange();
    world.socket.opens();
    assert.equal(world.socket.taken()[0]?.cursor, "c1");
    world.socket.closes();
    page.listeners.online();
    assert.equal(world.sockets.length, 3, "with the network back, nothing is waited for");
  } finally {
    Object.assign(globalThis, before);
  }
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

test("a server that is silent is asked, and left if it stays so", async () => {
  const world = aWorld();
  world.runs.subscribeToRun("run_1").subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live());
  world.socket.taken();
  await world.clock.pass(20_000);
  assert.deepEqual(world.socket.taken(), [{ type: "ping" }]);
  world.socket.says({ type: "pong" });
  await world.clock.pass(20_000);
  assert.deepEqual(world.socket.taken(), [{ type: "ping" }]);
  await world.clock.pass(5_100);
  assert.equal(world.sockets.length, 2);
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

test("closing the client ends every stream, and a later one is refused", async () => {
  const world = aWorld();
  const stream = world.runs.subscribeToRun("run_1");
  const { over } = taken(stream);
  world.socket.opens();
  world.runs.close();
  await over;
  assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().endReason], ["ended", "closed"]);
  await assert.rejects(taken(world.runs.subscribeToRun("run_2")).over, { code: "closed" });
});

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
