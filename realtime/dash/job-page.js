/** A job run: its steps, one after the other. */

import { addressOf } from "./address.js";
import { duration, full } from "./format.js";
import { badge, lookOf } from "./status.js";
import { bar, metadataView, progressOf } from "./values.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @import {Place} from "./address.js" */
/** @import {JobRunValue, Run} from "./client/types.js" */
/** @import {Dash} from "./dash.js" */

/** @typedef {{workflowId: string, position: number, name: string}} Step */

export class JobPage {
  /** @type {JobRunValue} */
  value;
  #dash;
  #id;
  #leave;
  #controller = new AbortController();
  /** @type {Step[]} */
  #steps = [];
  #name = "";

  /** @param {Dash} dash @param {Place} place */
  constructor(dash, { id }) {
    this.#dash = dash;
    this.#id = id;
    const stream = dash.client.subscribeToJobRun(id, { stopOnCompletion: false });
    this.value = stream.getSnapshot();
    this.#leave = stream.subscribe((value) => {
      this.value = value;
      dash.draw();
    });
    void this.#plan();
  }

  get title() {
    const { run } = this.value;
    return run ? `${lookOf(run.status).label} · ${this.#name || "Job run"}` : "Job run";
  }

  get status() {
    return this.value.status;
  }

  get error() {
    return this.value.error;
  }

  close() {
    this.#leave();
    this.#controller.abort();
  }

  /** @param {Place} place */
  take({ view, id }) {
    return view === "job" && id === this.#id;
  }

  // The names of the job and of the steps that are yet to come, which are no runs.
  async #plan() {
    const { client } = this.#dash;
    const { signal } = this.#controller;
    try {
      const jobRun = await client.request("GET", `/v1/job-runs/${encodeURIComponent(this.#id)}`, { signal });
      const order = /** @type {string[]} */ (jobRun.jobConfigJsonSnapshot?.workflowExecutionOrder ?? []);
      this.#steps = order.map((workflowId, position) => ({ workflowId, position, name: workflowId }));
      this.#dash.draw();
      const [job, ...workflows] = await Promise.allSettled([
        client.request("GET", `/v1/jobs/${encodeURIComponent(jobRun.jobId)}`, { signal }),
        ...order.map((id) => client.request("GET", `/v1/workflows/${encodeURIComponent(id)}`, { signal })),
      ]);
      if (job?.status === "fulfilled") this.#name = job.value.name;
      this.#steps = this.#steps.map((step, n) => {
        const found = workflows[n];
        return found?.status === "fulfilled" ? { ...step, name: found.value.name } : step;
      });
    } catch {
      // Without it the runs are shown by their ids.
    }
    this.#dash.draw();
  }

  /** @param {number} now */
  render(now) {
    const { run, runs, status } = this.value;
    if (!run) {
      if (status !== "ended") return html`<div class="page"><p class="empty">Connecting …</p></div>`;
      return html`<div class="page"><h1>No such job run</h1><p>There is no job run <code>${this.#id}</code>, or this token may not see it.</p></div>`;
    }
    const steps = this.#steps.length
      ? this.#steps
      : runs.map(({ workflowId, position, taskIdentifier }) => ({ workflowId: workflowId ?? "", position: position ?? 0, name: taskIdentifier }));
    const done = runs.filter(({ isSuccess }) => isSuccess).length;
    const took = run.startedAt ? (run.isFinal ? run.durationMs : now - Date.parse(run.startedAt)) : NaN;
    return html`<article class="page">
      <header class="page-head">
        <div>
          <p class="crumb"><a href="/">Runs</a> <span aria-hidden="true">›</span> Job run #${run.number}</p>
          <h1>${this.#name || "Job run"} ${badge(run.status)}</h1>
          <p class="ids"><code>${run.id}</code> <a href=${addressOf({ view: "run", id: run.id })}>as a run</a></p>
        </div>
        <div class="actions">
          ${run.isFinal ? nothing : html`<button class="danger" ?hidden=${!this.#dash.mayWrite} @click=${() => this.#dash.ask("Cancel this job run?", "The step that executes is canceled, and the rest are not begun.", "Cancel the job run", () => this.#dash.client.request("POST", `/v1/job-runs/${encodeURIComponent(run.id)}/cancel`))}>Cancel job run</button>`}
        </div>
      </header>
      <div class="now">${bar(steps.length ? done / steps.length : 0, "Steps completed")}<span class="said">${done} of ${steps.length} steps${took >= 0 ? ` · ${duration(took)}` : ""}</span></div>
      <section class="card"><h2>Steps</h2>
        <ol class="steps">
          ${steps.map((step) => this.#step(step, runs.find(({ position }) => position === step.position), now))}
        </ol>
      </section>
      ${run.error ? html`<section class="card error"><h2>Error</h2><p><strong>${run.error.name}</strong>: ${run.error.message}</p></section>` : nothing}
      <section class="card"><h2>Metadata</h2>${metadataView(run.metadata)}</section>
      <p class="muted">Created ${full(run.createdAt)}${run.finishedAt ? `, finished ${full(run.finishedAt)}` : ""}.</p>
    </article>`;
  }

  /** @param {Step} step @param {Run | undefined} run @param {number} now */
  #step({ position, name }, run, now) {
    if (!run) {
      return html`<li class="idle planned"><span class="nr">${position + 1}</span><span class="step-name">${name}</span><span class="muted">Not begun</span></li>`;
    }
    const { part, text } = progressOf(run);
    const took = run.startedAt ? (run.isFinal ? run.durationMs : now - Date.parse(run.startedAt)) : NaN;
    return html`<li class=${lookOf(run.status).tone}>
      <span class="nr">${position + 1}</span>
      <a class="step-name" href=${addressOf({ view: "run", id: run.id })}>${name}</a>
      ${badge(run.status)}
      <span class="muted">${took >= 0 ? duration(took) : ""}</span>
      ${part === undefined || run.isFinal ? nothing : html`<span class="wide">${bar(part, "Progress")}${text}</span>`}
      ${run.error && run.isFailed ? html`<span class="bad wide">${run.error.name}: ${run.error.message}</span>` : nothing}
    </li>`;
  }
}
