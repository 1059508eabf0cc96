/** One run: how it stands, how it came there, what it was given and what it gave back. */

import { addressOf, isJob } from "./address.js";
import { bytes, clock, counted, duration, full } from "./format.js";
import { History } from "./history.js";
import { badge, lookOf, taskOf } from "./status.js";
import { bar, copy, json, metadataView, progressOf } from "./values.js";
import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";

/** @import {Place} from "./address.js" */
/** @import {Run, RunValue} from "./client/types.js" */
/** @import {Subscription} from "./client/index.js" */
/** @import {Dash} from "./dash.js" */

const MOST_CHILDREN = 50;

export class RunPage {
  /** @type {RunValue} */
  value;
  #dash;
  #id;
  #history = new History();
  #controller = new AbortController();
  #leave;
  /** @type {Map<string, Subscription<RunValue, Run>>} */
  #children = new Map();
  /** @type {(() => void)[]} */
  #childLeaves = [];
  /** @type {any[]} */
  #artifacts = [];
  #rereadAt = 0;
  /** @type {string | undefined} */
  #rereadFor;

  /** @param {Dash} dash @param {Place} place */
  constructor(dash, { id }) {
    this.#dash = dash;
    this.#id = id;
    const { signal } = this.#controller;
    const stream = dash.client.subscribeToRun(id, { stopOnCompletion: false, signal });
    this.value = stream.getSnapshot();
    this.#leave = stream.subscribe((value) => {
      this.value = value;
      dash.draw();
    });
    void this.#history.read(dash.client, id, signal).then(dash.draw);
    void this.#follow(stream);
    void this.#reread();
  }

  get title() {
    const { run } = this.value;
    return run ? `${lookOf(run.status).label} · ${taskOf(run)}` : "Run";
  }

  get status() {
    return this.value.status;
  }

  get error() {
    return this.value.error;
  }

  close() {
    this.#leave();
    for (const leave of this.#childLeaves) leave();
    this.#controller.abort();
  }

  /** @param {Place} place */
  take({ view, id }) {
    return view === "run" && id === this.#id;
  }

  ticked() {
    // What no stream tells of: children and artifacts that came meanwhile.
    const { run } = this.value;
    const seen = run && `${run.version}`;
    if (seen !== this.#rereadFor && performance.now() - this.#rereadAt > 2_000) {
      this.#rereadFor = seen;
      void this.#reread();
    }
  }

  /** @param {Subscription<RunValue, Run>} stream */
  async #follow(stream) {
    /** @type {Run | undefined} */
    let before;
    try {
      for await (const run of stream) {
        this.#history.take(run, before);
        before = run;
      }
    } catch {
      // The value has the error.
    }
  }

  async #reread() {
    this.#rereadAt = performance.now();
    const { client } = this.#dash;
    const { signal } = this.#controller;
    const path = `/v1/runs/${encodeURIComponent(this.#id)}/artifacts`;
    const [children, artifacts] = await Promise.allSettled([
      client.request("GET", "/v1/runs", { query: { parentRunId: this.#id, limit: MOST_CHILDREN }, signal }),
      client.request("GET", path, { signal }),
    ]);
    if (signal.aborted) return;
    if (children.status === "fulfilled") {
      for (const { id } of children.value.data) {
        if (this.#children.has(id)) continue;
        const stream = client.subscribeToRun(id, { skip: ["payload", "output"], delivery: "latest" });
        this.#children.set(id, stream);
        this.#childLeaves.push(stream.subscribe(this.#dash.draw));
      }
    }
    if (artifacts.status === "fulfilled") this.#artifacts = artifacts.value?.data ?? [];
    this.#dash.draw();
  }

  /** @param {number} now */
  render(now) {
    const { run, status } = this.value;
    if (!run) {
      if (status !== "ended") return html`<div class="page"><p class="empty">Connecting …</p></div>`;
      return html`<div class="page"><h1>No such run</h1><p>There is no run <code>${this.#id}</code>, or this token may not see it.</p></div>`;
    }
    const { part, text } = progressOf(run);
    return html`<article class="page">
      <header class="page-head">
        <div>
          <p class="crumb"><a href="/">Runs</a> <span aria-hidden="true">›</span> #${run.number}</p>
          <h1>${taskOf(run)} ${badge(run.status)}</h1>
          <p class="ids"><code>${run.id}</code><button class="quiet" @click=${(/** @type {Event} */ event) => copy(event, run.id)}>Copy</button></p>
        </div>
        <div class="actions">
          ${run.isFinal ? nothing : html`<button class="danger" ?hidden=${!this.#dash.mayWrite} @click=${() => this.#dash.ask(`Cancel ${taskOf(run)} #${run.number}?`, "It stops where it is, and stays canceled.", "Cancel the run", () => this.#dash.client.cancel(run.id))}>Cancel run</button>`}
          <button ?hidden=${!this.#dash.mayWrite} @click=${() => this.#replay(run)}>Replay</button>
        </div>
      </header>
      ${part === undefined || run.isFinal ? nothing : html`<div class="now">${bar(part, "Progress")}${text ? html`<span class="said">${text}</span>` : nothing}</div>`}
      ${run.error ? html`<section class="card error ${run.isFinal ? "" : "past"}"><h2>${run.isFinal ? "Error" : "Error of the last attempt"}</h2><p><strong>${run.error.name}</strong>: ${run.error.message}</p>${run.error.stack ? html`<details><summary>Stack</summary><pre tabindex="0" role="region" aria-label="Stack">${run.error.stack}</pre></details>` : nothing}</section>` : nothing}
      <div class="columns">
        <div>
          <section class="card"><h2>Timeline</h2>${this.#timeline(run, now)}</section>
          <section class="card"><h2>Metadata</h2>${metadataView(run.metadata)}</section>
          <section class="card"><h2>Output</h2>${run.output === null || run.output === undefined ? html`<p class="muted">${run.isFinal ? "None." : "Not yet."}</p>` : json(run.output, "Output")}</section>
          <section class="card"><h2>Payload</h2>${json(run.payload, "Payload")}</section>
        </div>
        <div>
          <section class="card"><h2>Facts</h2>${this.#facts(run, now)}</section>
          ${this.#children.size ? html`<section class="card"><h2>Children</h2>${this.#childList(now)}</section>` : nothing}
          <section class="card"><h2>Artifacts</h2>${this.#artifactList()}</section>
        </div>
      </div>
    </article>`;
  }

  /** @param {Run} run */
  async #replay(run) {
    await this.#dash.attempt(async () => {
      const made = await this.#dash.client.replay(run.id);
      this.#dash.go(addressOf({ view: "run", id: made.id }));
    });
  }

  /** @param {Run} run @param {number} now */
  #timeline(run, now) {
    const { transitions, spans, entries, isTruncated, error } = this.#history;
    if (error) return html`<p class="muted">Its history could not be read.</p>`;
    const first = transitions[0];
    if (!first) return html`<p class="muted">…</p>`;
    const end = run.isFinal ? (transitions.at(-1)?.at ?? now) : Math.max(now, first.at);
    const whole = Math.max(1, end - first.at);
    const others = entries.length - transitions.length;
    return html`<svg class="spans" width="100%" height="22" role="img" aria-label="How long it was in which status">
        ${spans.map(({ status, from, to = end }) => {
          const width = Math.max(0.4, ((to - from) / whole) * 100);
          return svg`<rect class=${lookOf(status).tone} x="${((from - first.at) / whole) * 100}%" width="${width}%" y="3" height="16" rx="3"><title>${lookOf(status).label}: ${duration(to - from)}</title></rect>`;
        })}
      </svg>
      <ol class="timeline">
        ${spans.map(({ status, from, to, attempt }, n) => {
          const failed = transitions[n]?.error;
          return html`<li class=${lookOf(status).tone}>
            <span class="what">${badge(status)}${status === "EXECUTING" ? html`<span class="muted">attempt ${attempt}</span>` : nothing}</span>
            <time datetime=${new Date(from).toISOString()} title=${full(new Date(from).toISOString())}>${clock(from)}</time>
            <span class="for">${to === undefined && run.isFinal ? "" : duration((to ?? now) - from)}</span>
            ${failed?.message && status === "REATTEMPTING" ? html`<span class="bad wide">${failed.name}: ${failed.message}</span>` : nothing}
          </li>`;
        })}
      </ol>
      <p class="muted">Version ${run.version}${others > 0 ? html`, with ${counted(others, "change")} of progress, metadata or tags between` : nothing}${isTruncated ? "; only its beginning is shown" : ""}.</p>`;
  }

  /** @param {Run} run @param {number} now */
  #facts(run, now) {
    const took = run.startedAt ? (run.isFinal ? run.durationMs : now - Date.parse(run.startedAt)) : NaN;
    const waited = run.queuedAt && run.startedAt ? Date.parse(run.startedAt) - Date.parse(run.queuedAt) : NaN;
    const link = (/** @type {Partial<Place>} */ place, /** @type {string} */ id) => html`<a href=${addressOf(place)}><code>${id}</code></a>`;
    /** @type {[string, unknown][]} */
    const facts = [
      ["Created", full(run.createdAt)],
      ["Delayed until", full(run.delayedUntil)],
      ["Started", full(run.startedAt)],
      ["Finished", full(run.finishedAt)],
      ["Executing", took >= 0 ? duration(took) : ""],
      ["Waited", waited >= 0 && run.attempt === 1 ? duration(waited) : ""],
      ["Attempts", run.attempt || ""],
      ["Tags", run.tags.length ? run.tags.map((tag) => html`<a class="tag" href=${addressOf({ tags: [tag] })}>${tag}</a> `) : ""],
      ["Batch", run.batchId ? link({ view: "batch", id: run.batchId }, run.batchId) : ""],
      ["Parent", run.parentRunId ? link({ view: run.workflowId ? "job" : "run", id: run.parentRunId }, run.parentRunId) : ""],
      ["Root", run.rootRunId && run.rootRunId !== run.parentRunId ? link({ view: "run", id: run.rootRunId }, run.rootRunId) : ""],
      ["Job run", isJob(run.taskIdentifier) ? link({ view: "job", id: run.id }, "its steps") : ""],
      ["Step", run.position === null ? "" : run.position + 1],
      ["May wait", run.ttl === null ? "" : duration(run.ttl * 1_000)],
      ["May execute", run.maxDuration === null ? "" : duration(run.maxDuration * 1_000)],
      ["Idempotency key", run.idempotencyKey ? html`<code>${run.idempotencyKey}</code>` : ""],
      ["Cost", run.costInCents ? `${run.costInCents} ¢` : ""],
      ["Test", run.isTest ? "yes" : ""],
    ];
    return html`<dl class="facts">${facts.filter(([, value]) => value !== "").map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
  }

  /** @param {number} now */
  #childList(now) {
    const runs = [...this.#children.values()].flatMap((stream) => stream.getSnapshot().run ?? []);
    return html`<ul class="children">
      ${runs.map((run) => {
        const { part } = progressOf(run);
        const took = run.startedAt ? (run.isFinal ? run.durationMs : now - Date.parse(run.startedAt)) : NaN;
        return html`<li>${badge(run.status)} <a href=${addressOf({ view: "run", id: run.id })}>${run.taskIdentifier} #${run.number}</a>
          <span class="muted">${took >= 0 ? duration(took) : ""}</span>${part === undefined || run.isFinal ? nothing : bar(part, "Progress")}</li>`;
      })}
    </ul>`;
  }

  #artifactList() {
    if (!this.#artifacts.length) return html`<p class="muted">None.</p>`;
    return html`<ul class="artifacts">
      ${this.#artifacts.map(
        ({ id, name, contentType, size }) => html`<li>
          <button class="link" @click=${() => this.#dash.attempt(() => this.#download(id, name))}>${name}</button>
          <span class="muted">${contentType} · ${bytes(size)}</span>
        </li>`,
      )}
    </ul>`;
  }

  // A link can't show a token, so the bytes are read first and handed over then.
  /** @param {string} id @param {string} name */
  async #download(id, name) {
    const blob = await this.#dash.download(`/v1/artifacts/${encodeURIComponent(id)}/content`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
