/** What goes over the wire, as it is: for whoever writes a client, or wonders. */

import { bytes, clock, counted } from "./format.js";
import { repeat } from "./vendor/lit-html/directives/repeat.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @import {Place} from "./address.js" */
/** @import {Message} from "./feed.js" */
/** @import {RunsValue} from "./client/types.js" */
/** @import {Dash} from "./dash.js" */

const SHOWN = 200;

export class MessagesPage {
  title = "Messages";
  /** @type {RunsValue} */
  value;
  #dash;
  #leave;
  #words = "";

  /** @param {Dash} dash */
  constructor(dash) {
    this.#dash = dash;
    // Something to hear: all runs, from now on.
    const stream = dash.client.subscribeToRuns({ snapshot: false });
    this.value = stream.getSnapshot();
    this.#leave = stream.subscribe((value) => {
      this.value = value;
      dash.draw();
    });
  }

  get status() {
    return this.value.status;
  }

  get error() {
    return this.value.error;
  }

  close() {
    this.#leave();
  }

  /** @param {Place} place */
  take({ view }) {
    return view === "messages";
  }

  render() {
    const { feed, client } = this.#dash;
    const words = this.#words.toLowerCase();
    const found = words ? feed.messages.filter(({ text }) => text.toLowerCase().includes(words)) : feed.messages;
    const shown = found.slice(-SHOWN).reverse();
    const { stats } = client;
    return html`<div class="page messages">
      <header class="page-head slim"><div><h1>Messages</h1><p class="muted">The WebSocket messages of this page, the newest first; tokens are left out.</p></div></header>
      <dl class="facts inline stats">
        ${Object.entries(stats).map(([name, count]) => html`<div><dt>${name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}</dt><dd>${count}</dd></div>`)}
      </dl>
      <search class="filters" aria-label="Filter messages">
        <label class="field"><span>Text</span><input type="search" placeholder="type, run id, anything …" @input=${(/** @type {any} */ { target }) => {
          this.#words = target.value;
          this.#dash.draw();
        }}></label>
        <button aria-pressed=${feed.isPaused} @click=${() => this.#do(() => (feed.isPaused = !feed.isPaused))}>${feed.isPaused ? "Go on" : "Pause"}</button>
        <button @click=${() => this.#do(() => feed.clear())}>Clear</button>
        <span class="muted">${counted(found.length, "message")}${found.length > SHOWN ? `, the last ${SHOWN} shown` : ""}</span>
      </search>
      <ol class="wire" tabindex="0" aria-label="Messages">
        ${repeat(
          shown,
          ({ n }) => n,
          (message) => row(message),
        )}
        ${shown.length ? nothing : html`<li class="empty">Nothing has come yet.</li>`}
      </ol>
    </div>`;
  }

  /** @param {() => void} what */
  #do(what) {
    what();
    this.#dash.draw();
  }
}

/** @param {Message} message */
function row({ at, direction, text }) {
  const lines = text.split("\n");
  const types = [...new Set(lines.map((line) => /"type":"(\w+)"/.exec(line)?.[1] ?? "?"))].join(", ");
  return html`<li class=${direction}><details>
    <summary><time>${clock(at)}</time><span class="way">${direction === "in" ? "↓ in" : "↑ out"}</span><span class="types">${types}</span><span class="muted">${lines.length > 1 ? `${lines.length} messages, ` : ""}${bytes(text.length)}</span><code>${text.slice(0, 200)}</code></summary>
    <pre tabindex="0">${lines.map(pretty).join("\n")}</pre>
  </details></li>`;
}

/** @param {string} line */
function pretty(line) {
  try {
    return JSON.stringify(JSON.parse(line), null, 2).slice(0, 20_000);
  } catch {
    return line;
  }
}
