/** Where no WebSocket gets through: the same streams, with the same cursors, over server-sent events. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { aChange, anEnter, aRun, aSnapshot, live, theEnd, welcome } from "./builders.js";
import { aWorld, settled } from "./world.js";

/** A server of event streams that a test plays. */
class FakeStreams {
  /** @type {{url: URL, headers: Headers, says: (...messages: any[]) => void, saysAtOnce: (...messages: any[]) => void, ends: () => void, breaks: () => void, isAborted: boolean}[]} */
  requests = [];
  /** @type {Response | undefined} */
  refusal;

  /** @type {typeof globalThis.fetch} */
  fetch = async (input, init) => {
    /** @type {any} */
    let stream;
    const body = new ReadableStream({
      start(controller) {
        stream = controller;
      },
    });
    const encoder = new TextEncoder();
    const request = {
      url: new URL(String(input)),
      headers: new Headers(init?.headers),
      isAborted: false,
      /** @param {any[]} messages */
      says(...messages) {
        for (const message of messages) {
          const text = `event: ${message.type}\nid: ${message.cursor ?? ""}\ndata: ${JSON.stringify(message)}\n\n`;
          // Cut where no line ends, as a network does.
          stream.enqueue(encoder.encode(text.slice(0, 17)));
          stream.enqueue(encoder.encode(text.slice(17)));
        }
      },
      /** All in one piece. @param {any[]} messages */
      saysAtOnce(...messages) {
        stream.enqueue(encoder.encode(messages.map((message) => `data: ${JSON.stringify(message)}\n\n`).join("")));
      },
      ends: () => stream.close(),
      breaks: () => stream.error(new TypeError("network error")),
    };
    init?.signal?.addEventListener("abort", () => {
      request.isAborted = true;
      stream.error(init.signal?.reason);
    });
    this.requests.push(request);
    return this.refusal ?? new Response(body);
  };

  get last() {
    return this.requests.at(-1) ?? assert.fail("nothing was asked");
  }
}

/** @param {object} [options] */
function aMutedWorld(options = {}) {
  const streams = new FakeStreams();
  return { streams, world: aWorld({ fetch: streams.fetch, token: "t", ...options }) };
}

test("when WebSockets don't get through, events do", async () => {
  const { streams, world } = aMutedWorld();
  const stream = world.runs.subscribeToRunsWithTag(["a", "b:c"], { match: "any", tasks: ["x", "y"], skip: ["payload"] });
  stream.subscribe(() => {});
  world.socket.closes();
  await world.clock.pass(1_000);
  assert.equal(world.sockets.length, 2, "once may be chance");
  world.socket.closes();
  await world.clock.pass(1_000);
  assert.equal(world.runs.connection.getSnapshot().transport, "sse");
  assert.equal(
    streams.last.url.href,
    "http://test/v1/realtime/runs?tag=a&tag=b%3Ac&match=any&tasks=x&tasks=y&skip=payload",
  );
  assert.equal(streams.last.headers.get("authorization"), "Bearer t");
  streams.last.says(aSnapshot(aRun()), live("c1"), aChange(2));
  await settled();
  assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().runs[0]?.version], ["live", 2]);
});

test("a proxy that lets sockets open and then mutes them is seen", async () => {
  const { streams, world } = aMutedWorld({ timing: { fallbackAfter: 1 } });
  world.runs.subscribeToRun("run_1").subscribe(() => {});
  world.socket.onopen?.({});
  await world.clock.pass(11_000);
  assert.equal(streams.last.url.pathname, "/v1/realtime/runs/run_1");
});

test("the cursor is the same on both ways", async () => {
  const { streams, world } = aMutedWorld({ timing: { fallbackAfter: 1 } });
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("from-socket"));
  world.socket.closes();
  await world.clock.pass(1_000);
  world.socket.closes();
  await world.clock.pass(1_000);
  assert.equal(streams.last.url.searchParams.get("cursor"), "from-socket");
  streams.last.says(aChange(2), live("c2", { resumed: true }));
  await settled();
  // The server is there: the socket, which got through before, is tried once.
  world.socket.closes();
  await world.clock.pass(1_000);
  assert.equal(streams.last.url.searchParams.get("cursor"), "c2");
  streams.last.says(live("c2", { resumed: true }), { type: "checkpoint", cursor: "c3" });
  await settled();
  streams.last.breaks();
  await settled();
  assert.equal(stream.getSnapshot().status, "stale");
  await world.clock.pass(1_000);
  assert.equal(streams.requests.length, 3);
  assert.equal(streams.last.url.searchParams.get("cursor"), "c3");
});

test("a checkpoint holds for the stream it came on, and for no other", async () => {
  const { streams, world } = aMutedWorld({ WebSocket: null });
  const [first, second] = [world.runs.subscribeToRun("run_1"), world.runs.subscribeToRun("run_2")];
  first.subscribe(() => {});
  second.subscribe(() => {});
  await settled();
  const [one, two] = streams.requests;
  one?.says(aSnapshot(aRun()), live("one"));
  two?.says(aSnapshot(aRun("run_2")), live("two"), { type: "checkpoint", cursor: "two-later" });
  await settled();
  assert.deepEqual([first.cursor, second.cursor], ["one", "two-later"]);
});

test("unsubscribing ends the request; an end ends it by itself", async () => {
  const { streams, world } = aMutedWorld({ WebSocket: null });
  const stream = world.runs.subscribeToRun("run_1");
  const end = stream.subscribe(() => {});
  const over = world.runs.subscribeToRun("run_2");
  over.subscribe(() => {});
  await settled();
  streams.last.says(aSnapshot(aRun("run_2")), live(), theEnd());
  await settled();
  assert.deepEqual([over.getSnapshot().status, over.getSnapshot().endReason], ["ended", "completed"]);
  end();
  await world.clock.pass(200);
  assert.equal(streams.requests[0]?.isAborted, true);
});

test("what comes in one piece for a stream that was closed is not another's that took its id", async () => {
  const { streams, world } = aMutedWorld({ WebSocket: null });
  const first = world.runs.subscribeToRun("run_1", { stopOnCompletion: false });
  const second = world.runs.subscribeToRunsWithTag("b");
  first.subscribe(({ run, status }) => {
    if (!run?.isFinal || status === "ended") return;
    first.close();
    second.subscribe(() => {});
  });
  await settled();
  const completed = aChange(2, { status: "COMPLETED" });
  streams.last.saysAtOnce(aSnapshot(aRun()), live("c1"), completed, live("of-first"), anEnter(aRun("run_1", 3)));
  await settled();
  assert.equal(streams.requests.length, 2);
  const { status, runs } = second.getSnapshot();
  assert.deepEqual([status, runs, second.cursor], ["connecting", [], undefined]);
});

test("an error after the beginning is of its own stream only, also as the server ends it", async () => {
  for (const code of ["bad_request", "not_found"]) {
    const { streams, world } = aMutedWorld({ WebSocket: null });
    const [first, second] = [world.runs.subscribeToRun("run_1"), world.runs.subscribeToRun("run_2")];
    first.subscribe(() => {});
    second.subscribe(() => {});
    await settled();
    const [one, two] = streams.requests;
    one?.says(aSnapshot(aRun()), live("one"));
    two?.says(aSnapshot(aRun("run_2")), live("two"));
    one?.says({ type: "reset", id: 1, reason: "retention" }, { type: "error", id: 1, code, message: "no" });
    await settled();
    one?.ends();
    await settled();
    assert.deepEqual([first.getSnapshot().error?.code, second.getSnapshot().status], [code, "live"]);
    assert.equal(two?.isAborted, false);
  }
});

test("what is refused over HTTP is refused as over a socket", async () => {
  for (const [status, code] of /** @type {const} */ ([
    [401, "unauthorized"],
    [403, "forbidden"],
    [404, "not_found"],
    [400, "bad_request"],
  ])) {
    const { streams, world } = aMutedWorld({ WebSocket: null });
    streams.refusal = Response.json({ code, detail: "no" }, { status });
    const stream = world.runs.subscribeToRun("run_1");
    stream.subscribe(() => {});
    await settled();
    await settled();
    assert.deepEqual([stream.getSnapshot().status, stream.getSnapshot().error?.code], ["ended", code]);
  }
});

test("a stream that has gone silent is asked for again", async () => {
  const { streams, world } = aMutedWorld({ WebSocket: null });
  world.runs.subscribeToRun("run_1").subscribe(() => {});
  await settled();
  streams.last.says(aSnapshot(aRun()), live("c1"));
  await settled();
  await world.clock.pass(46_000);
  await world.clock.pass(1_000);
  assert.equal(streams.requests.length, 2);
  assert.equal(streams.last.url.searchParams.get("cursor"), "c1");
});

test("after a while WebSockets are tried again", async () => {
  const { streams, world } = aMutedWorld({ timing: { fallbackAfter: 1, fallbackMs: 5_000 } });
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.closes();
  await world.clock.pass(1_000);
  streams.last.says(aSnapshot(aRun()), live("c1"));
  await settled();
  await world.clock.pass(6_000);
  streams.last.breaks();
  await settled();
  await world.clock.pass(1_000);
  assert.equal(world.sockets.length, 2);
  world.socket.opens(welcome());
  assert.equal(world.runs.connection.getSnapshot().transport, "websocket");
});

test("a server that was away is no reason to stay with events", async () => {
  const { streams, world } = aMutedWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"));
  world.socket.closes();
  // It goes away: neither way leads to it.
  for (let n = 0; n < 20; n++) {
    await world.clock.pass(10_000);
    const { state, transport } = world.runs.connection.getSnapshot();
    if (state === "DIALING" && transport === "websocket") world.socket.closes();
    else if (state === "OPEN") streams.last.breaks();
    await settled();
  }
  const tries = world.sockets.length;
  assert.ok(tries > 5, "WebSockets are tried by turns");
  // It is back when it is the turn of events: those show that, and the socket is tried at once.
  while (world.runs.connection.getSnapshot().state !== "OPEN") {
    await world.clock.pass(1_000);
    if (world.runs.connection.getSnapshot().state === "DIALING") world.socket.closes();
  }
  const before = world.sockets.length;
  streams.last.says(live("c2", { resumed: true }));
  await settled();
  assert.equal(world.sockets.length, before + 1);
  world.socket.opens();
  assert.equal(world.socket.taken().at(-1)?.cursor, "c2");
  world.socket.says(live("c3", { resumed: true }));
  assert.deepEqual([stream.getSnapshot().status, world.runs.connection.getSnapshot().transport], ["live", "websocket"]);
});

test("where sockets stopped getting through, events take over for good", async () => {
  const { streams, world } = aMutedWorld();
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  world.socket.opens();
  world.socket.says(aSnapshot(aRun()), live("c1"));
  world.socket.closes();
  for (let n = 0; n < 6 && stream.getSnapshot().status !== "live"; n++) {
    await world.clock.pass(10_000);
    const { state } = world.runs.connection.getSnapshot();
    if (state === "DIALING") world.socket.closes();
    else if (state === "OPEN") streams.last.says(live("c2", { resumed: true }));
    await settled();
  }
  assert.deepEqual([stream.getSnapshot().status, world.runs.connection.getSnapshot().transport], ["live", "sse"]);
  const tries = world.sockets.length;
  await world.clock.pass(30_000);
  assert.equal(world.sockets.length, tries);
});

test("a token that ends over events is replaced, and its stream goes on from its cursor", async () => {
  let count = 0;
  const { streams, world } = aMutedWorld({ WebSocket: null, token: async () => `token-${++count}` });
  const stream = world.runs.subscribeToRun("run_1");
  stream.subscribe(() => {});
  await settled();
  await settled();
  streams.last.says(aSnapshot(aRun()), live("c1"), theEnd("token_expired"));
  await settled();
  await settled();
  assert.deepEqual(
    [streams.requests.length, streams.last.headers.get("authorization"), streams.last.url.searchParams.get("cursor")],
    [2, "Bearer token-2", "c1"],
  );
});

test("a server that is too busy for events is left in peace for a while", async () => {
  const { streams, world } = aMutedWorld({ WebSocket: null });
  const stream = world.runs.subscribeToRun("run_1");
  streams.refusal = Response.json({ code: "unavailable", detail: "no database" }, { status: 503 });
  stream.subscribe(() => {});
  await settled();
  await settled();
  streams.refusal = undefined;
  assert.equal(stream.getSnapshot().status, "connecting");
  await world.clock.pass(1_000);
  streams.last.says(aSnapshot(aRun()), live("c1"));
  await settled();
  assert.deepEqual([streams.requests.length, stream.getSnapshot().status], [2, "live"]);
});
