/** The hooks, in React and a document: strict, on the server, a frame at a time. */

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Window } from "happy-dom";

const window = new Window();
/** @type {any} */
const world = globalThis;
world.window = window;
world.document = window.document;
if (!world.navigator) world.navigator = window.navigator;
world.IS_REACT_ACT_ENVIRONMENT = true;

/** @type {Set<() => void>} */
const frames = new Set();
world.requestAnimationFrame = (/** @type {() => void} */ call) => {
  frames.add(call);
  return call;
};
world.cancelAnimationFrame = (/** @type {() => void} */ call) => frames.delete(call);

// Read when the modules are loaded, as a page has them then.
const { StrictMode, act, createElement } = await import("react");
const { createRoot, hydrateRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");
const { RunstreamProvider, useBatch, useConnection, useJobRun, useRun, useRuns, useRunsWithTag } = await import(
  "../react/index.js"
);
const { aBatch, aChange, aRun, aSnapshot, live } = await import("./builders.js");
const { aWorld } = await import("./world.js");

/** @type {any} */
const page = window.document;
/** @type {(() => void)[]} */
const cleanups = [];

afterEach(() => {
  for (const clean of cleanups.splice(0)) act(clean);
});

const frame = () =>
  act(() => {
    const due = [...frames];
    frames.clear();
    for (const call of due) call();
  });

/**
 * A component in a page, and how often it was rendered.
 *
 * @param {ReturnType<typeof aWorld>} server
 * @param {(props: any) => any} Component
 * @param {any} [props]
 */
function mounted(server, Component, props = {}) {
  const root = createRoot(page.createElement("div"));
  const tree = (/** @type {any} */ now) =>
    createElement(StrictMode, null, createElement(RunstreamProvider, { client: server.runs }, createElement(Component, now)));
  act(() => root.render(tree(props)));
  cleanups.push(() => root.unmount());
  return {
    root,
    show: (/** @type {any} */ now) => act(() => root.render(tree(now))),
    unmount: () => act(() => root.unmount()),
  };
}

test("a run is shown as it changes, with one render a frame, also under StrictMode", async () => {
  const server = aWorld();
  /** @type {any[]} */
  const seen = [];
  mounted(server, () => {
    const { run, status } = useRun("run_1");
    seen.push([status, run?.version]);
    return null;
  });
  server.socket.opens();
  await server.clock.pass(1_000);
  assert.deepEqual(server.socket.taken(), [{ type: "subscribeToRun", id: 1, runId: "run_1" }]);
  server.socket.says(aSnapshot(aRun()), live());
  await frame();
  assert.deepEqual(seen.at(-1), ["live", 1]);
  const before = seen.length;
  for (let version = 2; version < 200; version++) server.socket.says(aChange(version));
  assert.equal(seen.length, before);
  await frame();
  assert.deepEqual(seen.at(-1), ["live", 199]);
  assert.ok(seen.length <= before + 2, "StrictMode renders twice, and no more");
});

test("nothing comes after it is gone, and the stream is let go of", async () => {
  const server = aWorld();
  let renders = 0;
  const { unmount } = mounted(server, () => {
    renders++;
    useRun("run_1");
    return null;
  });
  server.socket.opens();
  server.socket.says(aSnapshot(aRun()), live());
  await frame();
  server.socket.says(aChange(2));
  unmount();
  const before = renders;
  server.socket.says(aChange(3));
  await frame();
  assert.equal(renders, before);
  await server.clock.pass(200);
  assert.deepEqual(server.socket.taken().at(-1), { type: "unsubscribe", id: 1 });
});

test("options that are written in place are the same as long as they say the same", async () => {
  const server = aWorld();
  const Tagged = (/** @type {{tag: string}} */ { tag }) => {
    useRunsWithTag(tag, { tasks: ["send-invoice"], delivery: "latest" });
    return null;
  };
  const { show } = mounted(server, Tagged, { tag: "a" });
  server.socket.opens();
  server.socket.taken();
  await show({ tag: "a" });
  await server.clock.pass(1_000);
  assert.deepEqual(server.socket.taken(), []);
  await show({ tag: "b" });
  await server.clock.pass(1_000);
  assert.deepEqual(
    server.socket.taken().map(({ type, tags }) => [type, tags?.[0]]),
    [
      ["subscribeToRunsWithTag", "b"],
      ["unsubscribe", undefined],
    ],
  );
});

test("without an id a hook waits for one", async () => {
  const server = aWorld();
  /** @type {any} */
  let value;
  const One = (/** @type {{id?: string}} */ { id }) => {
    value = useRun(id);
    return null;
  };
  const { show } = mounted(server, One);
  assert.deepEqual([server.sockets.length, value.status, value.run], [0, "connecting", undefined]);
  await show({ id: "run_1" });
  assert.equal(server.sockets.length, 1);
});

test("batches, job runs, all runs and the connection are shown alike", async () => {
  const server = aWorld();
  /** @type {any} */
  let seen;
  mounted(server, () => {
    seen = [useBatch("batch_1"), useJobRun("run_0"), useRuns({ limit: 10 }), useConnection().state];
    return null;
  });
  server.socket.opens();
  server.socket.says({ type: "batch", id: 1, batch: aBatch(2) }, live());
  server.socket.says({ ...aSnapshot(aRun("run_0"), aRun("run_5")), id: 2 }, { ...live(), id: 2 });
  await frame();
  const [batch, job, all, state] = seen;
  assert.deepEqual([batch.batch.final, job.run.id, job.runs.length, all.status, state], [2, "run_0", 1, "connecting", "OPEN"]);
});

test("it renders on a server without dialling, and is taken up in the page", async () => {
  const server = aWorld();
  const App = () => {
    const { run, status } = useRun("run_1");
    return createElement("p", null, `${status} ${run?.version ?? "-"}`);
  };
  const tree = createElement(RunstreamProvider, { client: server.runs }, createElement(App));
  const html = renderToString(tree);
  assert.equal(html, "<p>connecting -</p>");
  assert.equal(server.sockets.length, 0);
  const place = page.createElement("div");
  place.innerHTML = html;
  const root = await act(() => hydrateRoot(place, tree));
  cleanups.push(() => root.unmount());
  server.socket.opens();
  server.socket.says(aSnapshot(aRun()), live());
  await frame();
  assert.equal(place.textContent, "live 1");
});
