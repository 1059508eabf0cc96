/** A batch: how many of its runs are over, and how. */

import { counted, duration, full, number } from "./format.js";
import { RunList } from "./run-list.js";
import { STATUSES, lookOf } from "./status.js";
import { stacked } from "./values.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @import {Place} from "./address.js" */
/** @import {BatchValue} from "./client/types.js" */
/** @import {Dash} from "./dash.js" */

export class BatchPage {
  title = "Batch";
  /** @type {BatchValue} */
  value;
  #dash;
  #id;
  #list;
  #leave;

  /** @param {Dash} dash @param {Place} place */
  constructor(dash, { id }) {
    this.#dash = dash;
    this.#id = id;
    this.#list = new RunList("Runs of the batch", dash.go, dash.draw);
    const stream = dash.client.subscribeToBatch(id, {
      stopOnCompletion: false,
      delivery: "latest",
      skip: ["payload", "output"],
      limit: 5_000,
    });
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
    this.#list.close();
  }

  /** @param {Place} place */
  take({ view, id }) {
    return view === "batch" && id === this.#id;
  }

  /** @param {Element} root */
  rendered(root) {
    this.#list.rendered(root);
  }

  /** @param {number} now */
  render(now) {
    const { batch, runs, status } = this.value;
    if (!batch) {
      if (status !== "ended") return html`<div class="page"><p class="empty">Connecting …</p></div>`;
      return html`<div class="page"><h1>No such batch</h1><p>There is no batch <code>${this.#id}</code>, or this token may not see it.</p></div>`;
    }
    const { size, final, counts, sealedAt, completedAt, createdAt } = batch;
    const parts = STATUSES.filter((one) => counts[one]).map((one) => {
      const { label, tone } = lookOf(one);
      const count = counts[one] ?? 0;
      return { share: size ? count / size : 0, tone, title: `${label}: ${count}`, label, count };
    });
    // What is over stands first, so that the bar fills from the left.
    const order = (/** @type {string} */ tone) => ["good", "bad", "warn", "busy", "cold", "idle"].indexOf(tone);
    parts.sort((a, b) => order(a.tone) - order(b.tone));
    const took = (completedAt ? Date.parse(completedAt) : now) - Date.parse(createdAt);
    this.title = `${final} of ${size} · Batch`;
    return html`<header class="page-head slim">
        <div>
          <p class="crumb"><a href="/">Runs</a> <span aria-hidden="true">›</span> Batch</p>
          <h1>${completedAt ? "Complete" : sealedAt ? "In progress" : "Open"} <span class="muted">${number(final)} of ${number(size)} over</span></h1>
          <p class="ids"><code>${batch.id}</code></p>
        </div>
        <dl class="facts inline"><div><dt>Made</dt><dd>${full(createdAt)}</dd></div><div><dt>${completedAt ? "Took" : "Running for"}</dt><dd>${duration(took)}</dd></div></dl>
      </header>
      <section class="batch" aria-label="Progress">
        ${stacked(parts, `${final} of ${size} runs are over`)}
        <ul class="legend">${parts.map(({ tone, label, count }) => html`<li class=${tone}><span class="dot" aria-hidden="true"></span>${label} <strong>${number(count)}</strong></li>`)}</ul>
        ${sealedAt ? nothing : html`<p class="muted">More runs may be added until it is sealed.</p>`}
      </section>
      <p class="summary">${counted(runs.length, "run")}</p>
      ${this.#list.render(runs, now, { isCalm: this.#dash.isCalm })}`;
  }
}
