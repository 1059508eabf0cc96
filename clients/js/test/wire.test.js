/** The golden messages of `tests/wire`, which the server and all clients read alike. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { read, write } from "../src/protocol.js";
import { Session } from "../src/session.js";
import { Stream } from "../src/stream.js";
import { welcome } from "./builders.js";
import { aWorld } from "./world.js";

/** @param {string} name @returns {{name: string, message: any, why: string}[]} */
const golden = (name) => JSON.parse(readFileSync(new URL(`../../../tests/wire/${name}.json`, import.meta.url), "utf8"));

for (const { name, message } of golden("server")) {
  test(`it reads ${name} and goes on`, () => {
    const session = new Session({ token: "t", random: () => 0.5, wall: () => 0 });
    const stream = new Stream({ type: "subscribeToRuns" }, session.stats);
    session.subscribe(stream, 0);
    session.opened(0);
    session.received(JSON.stringify(welcome()), 0);
    assert.deepEqual(read(JSON.stringify(message)), [message]);
    session.received(JSON.stringify(message), 0);
    assert.notEqual(session.state, "CLOSED");
    assert.notEqual(stream.error?.code, "protocol");
  });
}

test("a run is given with every field that came", () => {
  const { message } = golden("server").find(({ name }) => name === "snapshot_every_field") ?? {};
  const stream = new Stream({ type: "subscribeToRuns" }, new Session({ random: () => 0, wall: () => 0 }).stats);
  stream.joining(1);
  stream.snapshot(message.runs);
  stream.live({ cursor: "c1" });
  const run = stream.shown.get(message.runs[0].id);
  assert.deepEqual(JSON.parse(JSON.stringify(run)), message.runs[0]);
  assert.equal(run?.isFinal && run.isSuccess && !run.isFailed && !run.isCanceled, true);
});

test("several messages come in one, and are sent in few", () => {
  const messages = golden("server").map(({ message }) => message);
  assert.deepEqual(read(messages.map((message) => JSON.stringify(message)).join("\n")), messages);
  const wishes = golden("client").map(({ message }) => message);
  const [all, ...more] = write(wishes, 65_536);
  assert.deepEqual([all?.split("\n").map((line) => JSON.parse(line)), more], [wishes, []]);
  for (const text of write(wishes, 300)) assert.ok(text.length <= 300 || !text.includes("\n"));
  assert.deepEqual(write(wishes, 300).flatMap((text) => text.split("\n")).length, wishes.length);
});

// How each of them is asked for; `id` is given by the session, and is another there.
/** @type {Record<string, (runs: import("../src/index.js").Runstream, wish: any) => any>} */
const METHODS = {
  subscribeToRun: (runs, { runId, ...options }) => runs.subscribeToRun(runId, options),
  subscribeToRunsWithTag: (runs, { tag, tags = tag, ...options }) => runs.subscribeToRunsWithTag(tags, options),
  subscribeToBatch: (runs, { batchId, ...options }) => runs.subscribeToBatch(batchId, options),
  subscribeToJobRun: (runs, { jobRunId, ...options }) => runs.subscribeToJobRun(jobRunId, options),
  subscribeToRuns: (runs, options) => runs.subscribeToRuns(options),
};

for (const { name, message } of golden("client")) {
  const { type, id, ...fields } = message;
  const method = METHODS[type];
  if (!method) continue;
  test(`it writes ${name}`, () => {
    const world = aWorld();
    method(world.runs, fields).subscribe(() => {});
    world.socket.opens();
    const { tag, ...rest } = fields;
    assert.deepEqual(world.socket.taken(), [{ type, id: 1, ...rest, ...(tag && { tags: [tag] }) }]);
  });
}

test("it writes the messages of the connection", () => {
  const names = golden("client").map(({ message }) => message.type);
  const others = new Set(names.filter((type) => !METHODS[type]));
  assert.deepEqual(others, new Set(["authenticate", "unsubscribe", "ping"]));
});
