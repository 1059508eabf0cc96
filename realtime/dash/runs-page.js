/** The live list of runs: filters, how many there are of each status, changes a second. */

import { addressOf } from "./address.js";
import { counted, number } from "./format.js";
import { Plot } from "./plot.js";
import { RunList } from "./run-list.js";
import { LOOKS, STATUSES, lookOf } from "./status.js";
import { live } from "./vendor/lit-html/directives/live.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @import {Place} from "./address.js" */
/** @import {Run, RunStatus, RunsValue} from "./client/types.js" */
/** @import {Dash} from "./dash.js" */

const LIMIT = 5_000;

export class RunsPage {
  title = "Runs";
  /** @type {RunsValue} */
  value;
  #dash;
  #place;
  #list;
  #plot = new Plot();
  #leave;
  /** @type {Map<RunStatus, number>} */
  #counts = new Map();
  #spokenAt = 0;

  /** @param {Dash} dash @param {Place} place */
  constructor(dash, place) {
    this.#dash = dash;
    this.#place = place;
    this.#list = new RunList("Runs", dash.go, dash.draw);
    const { tags, match, tasks, statuses } = place;
    const options = {
      delivery: /** @type {const} */ ("latest"),
      skip: ["payload", "output"],
      limit: LIMIT,
      tasks: tasks.length ? tasks : undefined,
      statuses: statuses.length ? /** @type {RunStatus[]} */ (statuses) : undefined,
    };
    const stream = tags.length
      ? dash.client.subscribeToRunsWithTag(tags, { ...options, match })
      : dash.client.subscribeToRuns(options);
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
    this.#plot.close();
  }

  /** @param {Place} place Whether it can show that without another stream. */
  take(place) {
    const streamOf = (/** @type {Place} */ { view, tags, match, tasks, statuses }) =>
      JSON.stringify([view, tags, tags.length > 1 && match, tasks, statuses]);
    if (streamOf(place) !== streamOf(this.#place)) return false;
    this.#place = place;
    return true;
  }

  /** @param {number} now */
  render(now) {
    const { runs, truncated, status } = this.value;
    const shown = this.#matching(runs);
    this.#counts = new Map();
    for (const run of shown) this.#counts.set(run.status, (this.#counts.get(run.status) ?? 0) + 1);
    const { rates } = this.#dash.feed;
    const rate = rates.at(-1) ?? 0;
    const most = Math.max(...rates);
    return html`<h1 class="unseen">Runs</h1>
      <section class="overview" aria-label="Overview">
        <div class="counts" role="group" aria-label="Filter by status">
          ${this.#statusButtons()}
        </div>
        <figure class="rate">
          <figcaption><strong>${number(rate)}</strong> changes/s <span class="span">last 2 minutes</span></figcaption>
          <div class="plot" role="img" aria-label="Changes a second over two minutes: ${rate} now, ${most} at most"></div>
        </figure>
      </section>
      ${this.#filters(runs)}
      <p class="summary">
        <span class="total">${counted(shown.length, "run")}</span>
        ${shown.length < runs.length ? html`<span class="muted">of ${number(runs.length)}</span>` : nothing}
        ${truncated ? html`<span class="muted">· the newest ${number(LIMIT)} are shown, and all that change</span>` : nothing}
        ${this.#isFiltered ? html`<button class="quiet" @click=${() => this.#filter({ tags: [], tasks: [], statuses: [], text: "" })}>Clear filters</button>` : nothing}
      </p>
      ${this.#list.render(shown, now, { empty: this.#emptiness(status), isCalm: this.#dash.isCalm })}`;
  }

  /** @param {Element} root */
  rendered(root) {
    this.#list.rendered(root);
    if (!this.#plot.isDrawn) this.ticked(root);
    this.#speak();
  }

  /** A second is over. @param {Element} root */
  ticked(root) {
    const place = /** @type {HTMLElement | null} */ (root.querySelector(".plot"));
    if (place) this.#plot.draw(place, this.#dash.feed.rates);
  }

  /** @param {string} status */
  #emptiness(status) {
    const { error } = this.value;
    if (error) {
      return html`<span class="bad">${error.message}</span>${error.code === "forbidden" ? html`<br>A token for some runs only shows them here when they are asked for by a tag or task that it covers.` : nothing}`;
    }
    if (status === "connecting") return "Connecting …";
    return this.#isFiltered
      ? "No run matches. New ones appear here the moment they do."
      : html`No runs yet. They appear here the moment they are made: <code>curl localhost:8080/v1/runs -d '{"taskIdentifier": "hello"}'</code>`;
  }

  get #isFiltered() {
    const { tags, tasks, statuses, text } = this.#place;
    return tags.length + tasks.length + statuses.length > 0 || text !== "";
  }

  /** @param {Run[]} runs */
  #matching(runs) {
    const words = this.#place.text.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return runs;
    return runs.filter((run) => {
      const text = `${run.id} ${run.number} ${run.taskIdentifier} ${run.tags?.join(" ")} ${run.error?.name ?? ""} ${run.error?.message ?? ""} ${run.metadata?.message ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }

  #statusButtons() {
    const { statuses } = this.#place;
    const isOnly = statuses.length > 0;
    return STATUSES.filter((status) => this.#counts.has(status) || statuses.includes(status)).map((status) => {
      const { label, tone, icon } = LOOKS[status];
      const isOn = statuses.includes(status);
      const others = isOn ? statuses.filter((one) => one !== status) : [...statuses, status];
      return html`<button class="count ${tone}" aria-pressed=${isOn} title=${isOn ? "Show all again" : isOnly ? "Show these, too" : "Show only these"}
        @click=${() => this.#filter({ statuses: others })}>
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">${icon}</svg>
        <span>${label}</span> <strong>${number(this.#counts.get(status) ?? 0)}</strong>
      </button>`;
    });
  }

  /** @param {Run[]} runs */
  #filters(runs) {
    const { tags, match, tasks, statuses, text } = this.#place;
    const hidden = STATUSES.filter((status) => !this.#counts.has(status) && !statuses.includes(status));
    return html`<search class="filters" aria-label="Filter runs">
      ${this.#words("tag", tags, (now) => this.#filter({ tags: now }), () => valuesOf(runs, (run) => run.tags ?? []))}
      ${
        tags.length > 1
          ? html`<label class="field narrow"><span>Tags</span><select .value=${live(match)} @change=${(/** @type {any} */ { target }) => this.#filter({ match: target.value })}>
              <option value="all">all of them</option><option value="any">any of them</option>
            </select></label>`
          : nothing
      }
      ${this.#words("task", tasks, (now) => this.#filter({ tasks: now }), () => valuesOf(runs, (run) => [run.taskIdentifier]))}
      <label class="field narrow"><span>Status</span><select .value=${live("")} @change=${(/** @type {any} */ { target }) => {
        if (target.value) this.#filter({ statuses: [...statuses, target.value] });
      }}>
        <option value="">${statuses.length ? "one more …" : "any"}</option>
        ${hidden.concat(STATUSES.filter((status) => !hidden.includes(status) && !statuses.includes(status))).map(
          (status) => html`<option value=${status}>${lookOf(status).label}</option>`,
        )}
      </select></label>
      <label class="field"><span>Text</span><input type="search" id="text-filter" placeholder="id, task, tag, error …" .value=${live(text)}
        @input=${(/** @type {any} */ { target }) => this.#filter({ text: target.value }, true)}></label>
    </search>`;
  }

  /**
   * A filter by words, each of which can be taken out again.
   *
   * @param {string} name
   * @param {string[]} words
   * @param {(now: string[]) => void} set
   * @param {() => string[]} known
   */
  #words(name, words, set, known) {
    const add = (/** @type {HTMLInputElement} */ input) => {
      const word = input.value.trim();
      input.value = "";
      if (word && !words.includes(word)) set([...words, word]);
    };
    const label = name === "tag" ? "Tag" : "Task";
    return html`<div class="field words"><label for="${name}-filter">${label}</label>
      ${words.map((word) => html`<span class="tag on">${word}<button aria-label="Without ${name} ${word}" @click=${() => set(words.filter((one) => one !== word))}>×</button></span>`)}
      <input id="${name}-filter" list="${name}-known" autocomplete="off" placeholder=${words.length ? "one more …" : `any ${name}`}
        @focus=${() => this.#dash.draw()}
        @change=${(/** @type {any} */ { target }) => add(target)}
        @keydown=${(/** @type {KeyboardEvent & {target: any}} */ event) => {
          if (event.key === "Enter") add(event.target);
          if (event.key === "Backspace" && !event.target.value && words.length) set(words.slice(0, -1));
        }}>
      <datalist id="${name}-known">${
        document.activeElement?.id === `${name}-filter` ? known().map((word) => html`<option value=${word}></option>`) : nothing
      }</datalist></div>`;
  }

  /** @param {Partial<Place>} changed @param {boolean} [isTyping] */
  #filter(changed, isTyping = false) {
    this.#dash.go(addressOf({ ...this.#place, ...changed }), isTyping);
  }

  // Now and then, and only what has become of it: a live region that tells each change shouts.
  #speak() {
    const now = performance.now();
    if (this.status !== "live" || now - this.#spokenAt < 20_000) return;
    this.#spokenAt = now;
    const parts = [...this.#counts].map(([status, count]) => `${count} ${lookOf(status).label.toLowerCase()}`);
    this.#dash.speak(`${counted(this.value.runs.length, "run")}: ${parts.join(", ") || "none"}`);
  }
}

/** @param {Run[]} runs @param {(run: Run) => string[]} of */
function valuesOf(runs, of) {
  const found = new Set();
  for (const run of runs) {
    for (const word of of(run)) found.add(word);
    if (found.size >= 200) break;
  }
  return [...found].sort();
}
