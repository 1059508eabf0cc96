/** How the connection stands: always in sight, and in words. */

import { clock } from "./format.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @import {ConnectionValue} from "./client/client.js" */
/** @import {StreamStatus, Stats} from "./client/types.js" */
/** @import {Feed} from "./feed.js" */

/**
 * @param {ConnectionValue} connection
 * @param {StreamStatus} status Of what is shown.
 * @returns {{tone: string, word: string, isLive: boolean}}
 */
export function linkOf(connection, status) {
  const isOpen = connection.state === "OPEN" || connection.state === "DRAINING";
  if (connection.isStale) return { tone: "warn", word: "Stale", isLive: false };
  if (isOpen && status === "live") return { tone: "good", word: "Live", isLive: true };
  if (status === "ended") return { tone: "idle", word: "Ended", isLive: false };
  if (isOpen) return { tone: "warn", word: "Catching up", isLive: false };
  if (status === "connecting") return { tone: "warn", word: "Connecting", isLive: false };
  return { tone: "bad", word: "Not live", isLive: false };
}

/**
 * @param {ConnectionValue} connection
 * @param {StreamStatus} status
 * @param {Feed} feed
 * @param {Readonly<Stats>} stats
 */
export function linkView(connection, status, feed, stats) {
  const { tone, word, isLive } = linkOf(connection, status);
  const lag = feed.lag === undefined ? "" : `${Math.round(feed.lag)} ms`;
  /** @type {[string, unknown][]} */
  const facts = [
    ["State", connection.state.toLowerCase()],
    ["Over", connection.transport === "sse" ? "server-sent events" : "WebSocket"],
    ["Server", connection.server || "–"],
    ["Lag", lag || "no changes yet"],
    ["Last heard", feed.heardAt ? clock(feed.heardAt) : "–"],
    ["Changes", stats.changes],
    ["Reconnects", stats.reconnects],
    ["Resumed", stats.resumes],
    ["Resets", stats.resets],
    ["Repeats dropped", stats.repeatsDropped],
    ["Versions missed", stats.gaps],
    ["Last trouble", connection.lastError ?? "none"],
  ];
  return html`<details class="link">
    <summary class=${tone} title="The connection in numbers"><span class="dot" aria-hidden="true"></span><span>${word}</span>${isLive && lag ? html`<span class="lag">${lag}</span>` : nothing}${stats.gaps ? html`<span class="lag">${stats.gaps} missed</span>` : nothing}</summary>
    <div class="panel"><dl class="facts">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></div>
  </details>`;
}

/**
 * What a page that is not live says, across its whole width.
 *
 * @param {ConnectionValue} connection
 * @param {StreamStatus} status
 * @param {number | undefined} since
 */
export function notLive(connection, status, since) {
  const { isLive, word } = linkOf(connection, status);
  if (isLive || status === "connecting" || status === "ended" || since === undefined) return nothing;
  const why = connection.isStale
    ? "The server can't read its database just now."
    : word === "Catching up"
      ? "What was missed is being read."
      : "The server can't be reached; it is tried again and again.";
  return html`<p class="banner">Not live: this is how it stood at ${clock(since)}. ${why}</p>`;
}
