/**
 * The client's side of the protocol: what is known of the connection, and what follows.
 *
 * A core without I/O: each method is something that has happened, and returns the effects that it
 * asks for; the time is an argument, and so is chance. `docs/client-session.md` shows it as a table
 * of states and events, which tests hold against this file and against the Python client's.
 */

import { RunstreamError } from "./errors.js";
import { CLOSE, read } from "./protocol.js";
import { Pulse } from "./pulse.js";
import { Roster } from "./roster.js";
import { ShownToken } from "./shown-token.js";
import { Backoff, TIMING } from "./timing.js";
import { Way } from "./way.js";

/** @import {Effect, State, Transport} from "./effects.js" */
/** @import {Stream} from "./stream.js" */
/** @import {Timing} from "./timing.js" */
/** @import {Stats} from "./types.js" */

/** The state of one client's connection and of its subscriptions. */
export class Session {
  /** @type {State} */
  state = "IDLE";
  isStale = false;
  /** @type {string | undefined} */
  lastError;
  /** @type {string | undefined} */
  server;
  maxMessageBytes = 65_536;
  /** @type {Set<Stream>} */
  streams = new Set();
  /** @type {Stats} */
  stats = {
    connects: 0,
    reconnects: 0,
    resumes: 0,
    resets: 0,
    changes: 0,
    repeatsDropped: 0,
    gaps: 0,
    fetches: 0,
    pauses: 0,
  };
  #timing;
  #token;
  #backoff;
  #way;
  #pulse;
  #roster = new Roster();
  /** @type {Effect[]} */
  #effects = [];

  #patient = false;
  #asleep = false;
  #isWelcome = false;

  // Times, undefined where there is nothing to wait for.
  /** @type {number | undefined} The next try, or the end of this one. */
  #nextAt;
  /** @type {number | undefined} */
  #comeBackAt;
  /** @type {number | undefined} */
  #idleAt;

  /**
   * @param {object} facts
   * @param {string} [facts.token]
   * @param {boolean} [facts.hasProvider] Whether somebody gives a token when asked.
   * @param {() => number} facts.random
   * @param {() => number} facts.wall
   * @param {Partial<Timing>} [facts.timing]
   * @param {Transport[]} [facts.transports]
   */
  constructor({ token, hasProvider = false, random, wall, timing, transports }) {
    this.#timing = { ...TIMING, ...timing };
    this.#token = new ShownToken(token, hasProvider, this.#timing, wall);
    this.#backoff = new Backoff(this.#timing, random);
    this.#way = new Way(transports, this.#timing);
    this.#pulse = new Pulse(this.#timing);
  }

  /** The way of the present connection, or of the last one. @returns {Transport} */
  get transport() {
    return this.#way.transport;
  }

  get isConnected() {
    return this.state === "GREETING" || this.#isOpen;
  }

  get #isOpen() {
    return this.state === "OPEN" || this.state === "DRAINING";
  }

  // What callers ask

  /** @param {Stream} stream @param {number} now */
  subscribe(stream, now) {
    if (this.state === "CLOSED") {
      stream.fail(new RunstreamError("closed", "the client is closed"));
      return [/** @type {Effect} */ ({ do: "wake", streams: [stream] })];
    }
    this.streams.add(stream);
    this.#idleAt = undefined;
    if (this.state === "IDLE") this.#begin(now);
    else if (this.#isWelcome) this.#join([stream]);
    return this.#take();
  }

  /** @param {Stream} stream @param {number} now */
  unsubscribe(stream, now) {
    if (this.streams.has(stream)) {
      this.#letGo(stream);
      this.#drop(stream, now);
    }
    stream.rest();
    return this.#take();
  }

  /** The loop over a paused stream has caught up. @param {Stream} stream */
  drained(stream) {
    if (stream.state === "PAUSED" && this.streams.has(stream)) {
      stream.rest();
      if (this.#isWelcome) this.#join([stream]);
    }
    return this.#take();
  }

  /** The owner closes the client. */
  close() {
    if (this.state === "CLOSED") return [];
    const streams = [...this.streams];
    this.#hangUp();
    this.streams.clear();
    for (const stream of streams) stream.cut("closed");
    this.#turn("CLOSED");
    return this.#take();
  }

  /** The shell has failed: whoever waits is told, and the next subscription starts anew. @param {RunstreamError} error */
  breakOff(error) {
    if (this.state !== "CLOSED") {
      this.#effects.push({ do: "hangUp" });
      this.#giveUp(error);
    }
    return this.#take();
  }

  /** The tab is shown again, or the network is back. @param {number} now */
  woke(now) {
    this.#asleep = false;
    // A pause that the server asked for is kept, also by whoever looks again.
    if (this.state === "WAITING" && !(this.#patient && this.#nextAt !== undefined)) {
      this.#backoff.reset();
      this.#begin(now);
    } else if (this.#isOpen && this.#pulse.doubtedAt === undefined) {
      this.#doubt(now);
    }
    return this.#take();
  }

  /** The tab has been hidden for long, or is put away. */
  slept() {
    this.#asleep = true;
    if (this.isConnected || this.state === "DIALING" || this.state === "WAITING") {
      this.#hangUp();
      this.#turn(this.streams.size ? "WAITING" : "IDLE");
    }
    return this.#take();
  }

  // Tokens

  /** The provider gave one. @param {string} token @param {number} now */
  tokenCame(token, now) {
    if (this.state === "ASKING") {
      if (this.#token.wasRefused(token)) {
        this.#giveUp("unauthorized", "the token provider gave the token that was refused");
      } else {
        this.#token.replaced(token);
        this.#begin(now);
      }
    } else if (this.#isOpen && this.#token.isAskedEarly) {
      if (token === this.#token.value) {
        this.#token.stays(now);
      } else {
        this.#token.replaced(token);
        this.#send([{ type: "authenticate", token }]);
      }
    }
    return this.#take();
  }

  /**
   * The provider failed: with an error that ends the streams, or without, to ask it again.
   *
   * @param {RunstreamError | undefined} error
   * @param {number} now
   */
  tokenFailed(error, now) {
    if (this.state === "ASKING") {
      if (error) this.#giveUp(error);
      else this.#wait(now, this.#backoff.next());
    } else if (this.#token.isAskedEarly) {
      this.#token.stays(now);
    }
    return this.#take();
  }

  // The socket

  /** @param {number} now */
  opened(now) {
    if (this.state !== "DIALING") return [/** @type {Effect} */ ({ do: "hangUp" })];
    const token = this.#token.value;
    this.#pulse.heard(now);
    // Who shows no token is told so by the server when its patience ends, which is about the same.
    this.#nextAt = now + this.#timing.greetingMs * (token === undefined ? 1.5 : 1);
    this.#roster.clear();
    this.#turn("GREETING");
    if (token !== undefined) this.#send([{ type: "authenticate", token }]);
    return this.#take();
  }

  /** The socket could not be opened; a page cannot see why. @param {string} reason @param {number} now */
  dialFailed(reason, now) {
    if (this.state === "DIALING") {
      this.lastError = reason || "the server cannot be reached";
      this.#way.blocked();
      this.#lose();
      this.#wait(now, this.#backoff.next());
    }
    return this.#take();
  }

  /**
   * The socket is closed, or broke: then there is no code, or it is 1006.
   *
   * @param {number | undefined} code
   * @param {string} reason
   * @param {number} now
   */
  closed(code, reason, now) {
    if (!this.isConnected) return [];
    this.lastError = `closed with ${code ?? "no code"} ${reason}`.trimEnd();
    const comeBackAt = this.#comeBackAt;
    if (code === undefined || code === 1006) this.#way.broke(this.#isWelcome);
    this.#lose();
    if (code === CLOSE.UNAUTHORIZED) {
      this.#refusedToken(reason || "the token is not accepted", now);
    } else if (code !== undefined && code >= CLOSE.BAD_MESSAGE && code < 4408) {
      const word = code === CLOSE.FORBIDDEN ? "forbidden" : code === 4404 ? "not_found" : "bad_request";
      this.#giveUp(word, reason || `closed with ${code}`);
    } else if (comeBackAt !== undefined) {
      this.#wait(now, comeBackAt - now, true);
    } else {
      this.#wait(now, this.#backoff.next(code === CLOSE.BUSY), code === CLOSE.BUSY);
    }
    return this.#take();
  }

  /** A WebSocket message has come. @param {string} text @param {number} now */
  received(text, now) {
    if (!this.isConnected) return [];
    this.#pulse.heard(now);
    /** @type {Set<Stream>} */
    const touched = new Set();
    try {
      for (const message of read(text)) {
        this.#hear(message, touched, now);
        // The socket was given up: what is left on it is not heard.
        if (!this.isConnected) break;
      }
    } catch (error) {
      this.#hangUp();
      this.#giveUp(asError(error));
    }
    for (const stream of touched) this.#lookAfter(stream, now);
    if (touched.size) this.#effects.push({ do: "wake", streams: [...touched] });
    return this.#take();
  }

  /**
   * A run that was to be fetched; undefined if there is none.
   *
   * @param {string} id
   * @param {any} run
   * @param {number} now
   */
  fetched(id, run, now) {
    const touched = [];
    let again = false;
    for (const stream of [...this.streams]) {
      if (!stream.wants(id)) continue;
      if (stream.fetched(id, run)) {
        touched.push(stream);
        this.#lookAfter(stream, now);
      } else {
        again = true;
      }
    }
    if (again) this.#effects.push({ do: "fetch", id, again });
    if (touched.length) this.#effects.push({ do: "wake", streams: touched });
    return this.#take();
  }

  // Time

  /** When `tick` should be called at the latest. */
  get deadline() {
    let least = Infinity;
    const times = [this.#nextAt, this.#comeBackAt, this.#token.refreshAt, this.#idleAt];
    if (this.#isOpen) {
      times.push(this.#pulse.silentAt);
      for (const stream of this.streams) times.push(stream.retryAt);
    }
    for (const time of times) if (time !== undefined && time < least) least = time;
    return least === Infinity ? undefined : least;
  }

  /** @param {number} now */
  tick(now) {
    const isDue = due(this.#nextAt, now);
    if (this.state === "WAITING") {
      if (isDue) this.#begin(now);
    } else if (this.state === "DIALING" || this.state === "GREETING") {
      if (isDue) {
        this.#way.blocked();
        this.#broke(`the server does not ${this.state === "DIALING" ? "answer" : "say welcome"}`, now);
      }
    } else if (this.state === "DRAINING" && due(this.#comeBackAt, now)) {
      this.#hangUp();
      this.#begin(now);
    } else if (this.#isOpen) {
      this.#tickOpen(now);
    }
    return this.#take();
  }

  /** @param {number} now */
  #tickOpen(now) {
    if (now >= this.#pulse.silentAt) {
      if (this.#pulse.doubtedAt !== undefined) {
        this.#broke("the server is silent", now);
        return;
      }
      // Perhaps it was us who did not listen: a page that was busy, or asleep. What is in the
      // socket is read before the grace is over.
      this.#doubt(now);
    }
    if (due(this.#idleAt, now)) {
      this.#hangUp();
      this.#turn("IDLE");
      return;
    }
    if (due(this.#token.refreshAt, now)) {
      this.#token.askEarly();
      this.#effects.push({ do: "ask" });
    }
    this.#join([...this.streams].filter((stream) => due(stream.retryAt, now)));
  }

  /** @param {number} now */
  #doubt(now) {
    this.#pulse.doubtedAt = now;
    this.#send([{ type: "ping" }]);
  }

  // Messages

  /** @param {any} message @param {Set<Stream>} touched @param {number} now */
  #hear(message, touched, now) {
    const { type, id } = message;
    const { byId } = this.#roster;
    const stream = byId.get(id);
    switch (type) {
      case "change":
        for (const one of message.ids) {
          const changed = byId.get(one);
          if (!changed) continue;
          changed.change(message.kind, message.run);
          touched.add(changed);
        }
        return;
      case "heartbeat":
      case "checkpoint":
        // With an id it is of one stream only: that is how the fallback gives it.
        if (!message.cursor) return;
        for (const each of stream ? [stream] : byId.values()) {
          if (each.state === "LIVE") each.mark(message.cursor);
        }
        return;
      case "welcome":
        this.#welcome(message, now);
        return;
      case "authenticated":
        this.#token.accepted(message.expiresAt, now);
        return;
      case "reconnect":
        if (this.#comeBackAt === undefined) {
          this.#nextAt = undefined;
          this.#comeBackAt = now + message.afterMs;
          this.#turn("DRAINING");
        }
        return;
      case "stale":
      case "fresh":
        this.isStale = type === "stale";
        this.#wakeAll();
        this.#turn(this.state);
        return;
    }
    if (!stream) {
      if (type === "end") this.#roster.ended(id, message.reason);
      else if (type === "error" && id !== undefined) this.#roster.refused(id, message.code);
      else if (type === "error") this.lastError = `${message.code}: ${message.message}`;
      return;
    }
    touched.add(stream);
    switch (type) {
      case "snapshot":
        stream.snapshot(message.runs);
        return;
      case "live":
        this.#backoff.reset();
        stream.live(message);
        if (this.#way.live(now)) {
          this.#hangUp();
          this.#begin(now);
        }
        return;
      case "batch":
        stream.progress(message.batch);
        return;
      case "reset":
        stream.reset(message.reason);
        return;
      case "end":
        if (message.reason === "token_expired" || message.reason === "token_revoked") {
          // It is the grant that ends, for all streams; a close with 4401 would follow.
          this.#hangUp();
          this.#refusedToken(`the ${message.reason.replace("_", " is ")}`, now);
          return;
        }
        this.#roster.ended(id, message.reason);
        stream.end(message.reason);
        return;
      case "error": {
        const { code } = message;
        this.#roster.refused(id, code);
        // A limit may be reached for a moment only, as when many come back at once; whoever
        // asks for the first time is told.
        const isBusy = code === "too_many_requests" && stream.wasLive;
        if (code === "unavailable" || (isBusy && stream.refusals < this.#timing.busyRetries)) {
          stream.later(now + this.#backoff.after(stream.refusals, true));
        } else {
          stream.fail(new RunstreamError(code, message.message));
        }
      }
    }
  }

  /** @param {any} message @param {number} now */
  #welcome({ heartbeatS = 15, limits, server, expiresAt }, now) {
    this.#pulse.beats(heartbeatS);
    this.maxMessageBytes = limits?.messageBytes || 65_536;
    this.server = server;
    this.#token.accepted(expiresAt, now);
    // Later it only answers an `authenticate`.
    if (this.#isWelcome) return;
    this.#isWelcome = true;
    this.#nextAt = undefined;
    this.#way.welcome();
    if (this.stats.connects++) this.stats.reconnects++;
    this.lastError = undefined;
    if (!this.streams.size) this.#idleAt = now + this.#timing.lingerMs;
    if (this.state === "GREETING") this.#turn("OPEN");
    this.#join([...this.streams].filter((stream) => stream.state === "IDLE" && !stream.retryAt));
  }

  // Parts of the above

  /** @param {number} now */
  #begin(now) {
    this.#nextAt = undefined;
    if (!this.streams.size) this.#turn("IDLE");
    else if (this.#asleep) this.#turn("WAITING");
    else if (this.#token.isNeeded) {
      this.#turn("ASKING");
      this.#effects.push({ do: "ask" });
    } else {
      this.#dial(now);
    }
  }

  /** @param {number} now */
  #dial(now) {
    const transport = this.#way.choose(now);
    this.#nextAt = now + this.#timing.dialMs;
    this.#turn("DIALING");
    this.#effects.push({ do: "dial", transport });
  }

  /** @param {number} now @param {number} delay @param {boolean} [patient] */
  #wait(now, delay, patient = false) {
    if (!this.streams.size) {
      this.#turn("IDLE");
      return;
    }
    this.#patient = patient;
    this.#nextAt = this.#asleep ? undefined : now + Math.max(0, delay);
    this.#turn("WAITING");
  }

  /** @param {State} state */
  #turn(state) {
    this.state = state;
    // From here on nobody watches the tab, and would say that it wakes.
    if (state === "IDLE") this.#asleep = false;
    this.#effects.push({ do: "tell", state });
  }

  /** @param {string} reason @param {number} now */
  #broke(reason, now) {
    const comeBackAt = this.#comeBackAt;
    this.lastError = reason;
    this.#hangUp();
    if (comeBackAt === undefined) this.#wait(now, this.#backoff.next());
    else this.#wait(now, comeBackAt - now, true);
  }

  #hangUp() {
    if (this.isConnected || this.state === "DIALING") this.#effects.push({ do: "hangUp" });
    this.#lose();
  }

  #lose() {
    for (const stream of this.streams) stream.lost();
    this.#wakeAll();
    this.#roster.clear();
    this.#token.lost();
    this.#pulse.doubtedAt = this.#comeBackAt = this.#nextAt = this.#idleAt = undefined;
    this.isStale = this.#isWelcome = false;
  }

  #wakeAll() {
    if (this.streams.size) this.#effects.push({ do: "wake", streams: [...this.streams] });
  }

  /** @param {string} reason @param {number} now */
  #refusedToken(reason, now) {
    if (this.#token.refused() && this.streams.size) this.#begin(now);
    else this.#giveUp("unauthorized", reason);
  }

  /** @param {string | RunstreamError} error @param {string} [message] */
  #giveUp(error, message) {
    this.#backoff.reset();
    this.#token.startAnew();
    const streams = [...this.streams];
    this.#lose();
    this.streams.clear();
    const failure = typeof error === "string" ? new RunstreamError(error, message) : error;
    for (const stream of streams) stream.fail(failure);
    this.#turn("IDLE");
  }

  /** @param {Stream[]} streams */
  #join(streams) {
    this.#send(
      streams.flatMap((stream) => {
        const id = this.#roster.free;
        const message = stream.joining(id);
        if (bytes(message) > this.maxMessageBytes) {
          // The server would close the socket, for all streams, again and again.
          stream.fail(new RunstreamError("bad_request", "the subscription is longer than the server takes"));
          this.streams.delete(stream);
          if (!this.streams.size) this.#idleAt = this.#pulse.heardAt + this.#timing.lingerMs;
          this.#effects.push({ do: "wake", streams: [stream] });
          return [];
        }
        this.#roster.byId.set(id, stream);
        return [message];
      }),
    );
  }

  /** @param {Stream} stream */
  #letGo(stream) {
    this.#send(this.#roster.leave(stream));
  }

  /** @param {Stream} stream @param {number} now */
  #drop(stream, now) {
    this.streams.delete(stream);
    if (this.streams.size) return;
    if (this.#isOpen) {
      this.#idleAt = now + this.#timing.lingerMs;
    } else if (this.state !== "IDLE" && this.state !== "CLOSED") {
      this.#hangUp();
      this.#turn("IDLE");
    }
  }

  /** @param {Stream} stream @param {number} now */
  #lookAfter(stream, now) {
    if (stream.isOver) {
      this.#letGo(stream);
      this.#drop(stream, now);
      return;
    }
    for (const id of stream.wanted()) this.#effects.push({ do: "fetch", id, again: false });
    if (stream.id !== undefined && stream.isOverfull) {
      this.#letGo(stream);
      stream.pause();
    }
  }

  /** @param {any[]} messages */
  #send(messages) {
    if (messages.length) this.#effects.push({ do: "send", messages });
  }

  #take() {
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }
}

/** @param {any} message */
function bytes(message) {
  return new TextEncoder().encode(JSON.stringify(message)).length;
}

/** @param {number | undefined} at @param {number} now */
function due(at, now) {
  return at !== undefined && now >= at;
}

/** @param {unknown} error */
function asError(error) {
  if (error instanceof RunstreamError) return error;
  return new RunstreamError("protocol", `the server sent what cannot be understood: ${error}`, { cause: error });
}
