/** The one connection of a client: what shares it, when it is let go of, and when it comes back. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { aChange, aRun, aSnapshot, live, theEnd, welcome } from "./builders.js";
import { aWorld, settled } from "./world.js";
import { taken } from "./taking.js";

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

/** A store of run_1 that is live as id 1, and was just closed: its `unsubscribe` is on its way. */
function justClosed() {
  const world = aWorld();
  const first = world.runs.subscribeToRun("run_1");
  first.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"));
  first.close();
  world.socket.taken();
  const begins = () => {
    const stream = world.runs.subscribeToRun("run_2");
    stream.subscribe(() => {});
    return { stream, id: world.socket.taken()[0]?.id };
  };
  return { world, begins };
}

const NOT_FOUND = { type: "error", id: 1, code: "not_found", message: "there is no subscription 1" };

test("an id is not given anew while the answer to its unsubscribe is owed", () => {
  const { world, begins } = justClosed();
  world.socket.says(theEnd("completed"));
  const { stream, id } = begins();
  assert.equal(id, 2, "the server ended 1 before it heard of the unsubscribe");
  world.socket.says(NOT_FOUND);
  assert.equal(stream.getSnapshot().error, undefined);
  assert.equal(begins().id, 1, "that was the last of it");
});

test("nor while a refusal crosses it", () => {
  const { world, begins } = justClosed();
  world.socket.says({ ...NOT_FOUND, code: "unavailable" });
  assert.equal(begins().id, 2);
  world.socket.says(NOT_FOUND);
  assert.equal(begins().id, 1);
});

test("what was not found is said twice, and its id free after the second time", () => {
  const { world, begins } = justClosed();
  world.socket.says(theEnd("unsubscribed"));
  const one = begins();
  world.socket.says(NOT_FOUND);
  const other = begins();
  assert.deepEqual([one.id, one.stream.getSnapshot().error?.code, other.id], [1, "not_found", 2]);
  world.socket.says(theEnd("not_found"));
  assert.equal(other.stream.getSnapshot().error, undefined);
  assert.equal(begins().id, 1);
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

/** With the parts of a page that tell whether it is seen. @param {(page: Record<string, any>) => Promise<void>} play */
async function onAPage(play) {
  /** @type {Record<string, any>} */
  const page = { visibilityState: "visible", listeners: {} };
  page.addEventListener = (/** @type {string} */ name, /** @type {any} */ call, /** @type {any} */ { signal } = {}) => {
    page.listeners[name] = call;
    signal?.addEventListener("abort", () => delete page.listeners[name]);
  };
  const before = { document: globalThis.document, addEventListener: globalThis.addEventListener };
  Object.assign(globalThis, { document: page, addEventListener: page.addEventListener });
  try {
    await play(page);
  } finally {
    Object.assign(globalThis, before);
  }
}

test("a tab that was put away lets go, and goes on when it is shown", () =>
  onAPage(async (page) => {
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
  }));

test("what is let go of while a tab sleeps keeps nothing asleep that comes later", () =>
  onAPage(async (page) => {
    const world = aWorld({ sleepAfterMs: 60_000 });
    const old = world.runs.subscribeToRun("run_1");
    old.subscribe(() => {});
    world.socket.opens(welcome({ heartbeatS: 600 }));
    world.socket.says(aSnapshot(aRun()), live("c1"));
    page.visibilityState = "hidden";
    page.listeners.visibilitychange();
    await world.clock.pass(60_000);
    old.close();
    // Nobody watches the tab while there is nothing to watch for.
    page.visibilityState = "visible";
    page.listeners.visibilitychange?.();
    world.runs.subscribeToRun("run_2").subscribe(() => {});
    assert.deepEqual([world.sockets.length, world.runs.connection.getSnapshot().state], [2, "DIALING"]);
  }));

test("a page that is put away while its connection is only kept for a while begins anew", () =>
  onAPage(async (page) => {
    const world = aWorld();
    const old = world.runs.subscribeToRun("run_1");
    old.subscribe(() => {});
    world.socket.opens(welcome({ heartbeatS: 600 }));
    old.close();
    page.listeners.pagehide();
    page.listeners.pageshow?.({ persisted: true });
    world.runs.subscribeToRun("run_2").subscribe(() => {});
    assert.deepEqual([world.sockets.length, world.runs.connection.getSnapshot().state], [2, "DIALING"]);
  }));

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
