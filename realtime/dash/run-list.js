/**
 * A list of runs of which only the rows in sight are in the page, so that thousands cost what a
 * screenful costs. What is being read stays in place while others come in above it.
 */

import { addressOf, placeOfRun } from "./address.js";
import { ago, duration, full } from "./format.js";
import { badge, taskOf } from "./status.js";
import { bar, progressOf } from "./values.js";
import { repeat } from "./vendor/lit-html/directives/repeat.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @import {Run} from "./client/types.js" */

const EXTRA = 6;
const FRESH_MS = 900;
const NARROW = matchMedia("(max-width: 760px)");

export class RunList {
  /** @type {Run[]} */
  #runs = [];
  #top = 0;
  #height = 600;
  /** @type {string | undefined} The row that the keys move. */
  #active;
  /** @type {string | undefined} The first row in sight. */
  #anchor;
  #moved = false;
  #isCalm = true;
  /** @type {Element | undefined} */
  #watched;
  #observer = new ResizeObserver(([entry]) => {
    const height = entry?.contentRect.height;
    if (!height || height === this.#height) return;
    this.#height = height;
    this.#draw();
  });
  #label;
  #go;
  #draw;

  /**
   * @param {string} label
   * @param {(address: string) => void} go
   * @param {() => void} draw
   */
  constructor(label, go, draw) {
    this.#label = label;
    this.#go = go;
    this.#draw = draw;
  }

  get #rowHeight() {
    return NARROW.matches ? 76 : 44;
  }

  /**
   * @param {Run[]} runs
   * @param {number} now
   * @param {object} [how]
   * @param {unknown} [how.empty] What to say if there are none.
   * @param {boolean} [how.isCalm] Whether a change may be made to stand out: where all flash, none does.
   */
  render(runs, now, { empty = "No runs.", isCalm = true } = {}) {
    this.#isCalm = isCalm;
    this.#runs = runs;
    const rowHeight = this.#rowHeight;
    this.#keepPlace(rowHeight);
    const first = Math.max(0, Math.floor(this.#top / rowHeight) - EXTRA);
    const last = Math.min(runs.length, Math.ceil((this.#top + this.#height) / rowHeight) + EXTRA);
    const shown = runs.slice(first, last);
    const activeIndex = this.#active ? runs.findIndex(({ id }) => id === this.#active) : -1;
    const isShown = activeIndex >= first && activeIndex < last;
    return html`<div class="list" role="grid" aria-label=${this.#label} aria-rowcount=${runs.length + 1} tabindex="0"
      aria-activedescendant=${isShown ? `row-${this.#active}` : nothing}
      @scroll=${this.#scrolled} @keydown=${this.#pressed}>
      <div role="rowgroup" class="list-head">
        <div role="row" aria-rowindex="1" class="row">
          <span role="columnheader" class="c-status">Status</span>
          <span role="columnheader" class="c-task">Task</span>
          <span role="columnheader" class="c-progress">Progress</span>
          <span role="columnheader" class="c-tags">Tags</span>
          <span role="columnheader" class="c-when">Created</span>
          <span role="columnheader" class="c-took">Took</span>
        </div>
      </div>
      <div role="rowgroup" class="list-space">
        <div role="presentation" class="list-rows" data-offset=${first * rowHeight}>
          ${repeat(
            shown,
            ({ id }) => id,
            (run, n) => this.#row(run, first + n, now),
          )}
        </div>
      </div>
      ${runs.length ? nothing : html`<div class="empty" role="row"><span role="gridcell">${empty}</span></div>`}
    </div>`;
  }

  /** After it was drawn: the heights, which templates may not set under our policy. @param {Element} root */
  rendered(root) {
    const list = /** @type {HTMLElement | null} */ (root.querySelector(".list"));
    const space = /** @type {HTMLElement | null} */ (root.querySelector(".list-space"));
    const rows = /** @type {HTMLElement | null} */ (root.querySelector(".list-rows"));
    if (!list || !space || !rows) return;
    const height = `${this.#runs.length * this.#rowHeight}px`;
    if (space.style.height !== height) space.style.height = height;
    const offset = `translateY(${rows.dataset.offset}px)`;
    if (rows.style.transform !== offset) rows.style.transform = offset;
    // Asked for each frame, they would make the browser lay the page out each frame.
    if (list !== this.#watched) {
      this.#watched = list;
      this.#observer.disconnect();
      this.#observer.observe(list);
    }
    if (this.#moved) list.scrollTop = this.#top;
    this.#moved = false;
  }

  /** It is shown no more. */
  close() {
    this.#observer.disconnect();
  }

  /** @param {number} rowHeight */
  #keepPlace(rowHeight) {
    if (this.#top < rowHeight / 2) {
      // Who is at the top wants to see what comes.
      this.#anchor = undefined;
      return;
    }
    const was = Math.floor(this.#top / rowHeight);
    if (this.#anchor && this.#runs[was]?.id !== this.#anchor) {
      const is = this.#runs.findIndex(({ id }) => id === this.#anchor);
      if (is >= 0) {
        this.#top += (is - was) * rowHeight;
        this.#moved = true;
      }
    }
    this.#anchor = this.#runs[Math.floor(this.#top / rowHeight)]?.id;
  }

  /** @param {Run} run @param {number} index @param {number} now */
  #row(run, index, now) {
    const { part, text } = progressOf(run);
    const isFresh = this.#isCalm && now - Date.parse(run.updatedAt) < FRESH_MS;
    const took = run.startedAt ? (run.isFinal ? run.durationMs : now - Date.parse(run.startedAt)) : NaN;
    const error = run.isFailed && run.error ? `${run.error.name}: ${run.error.message}` : text;
    const address = addressOf(placeOfRun(run));
    return html`<div role="row" id="row-${run.id}" aria-rowindex=${index + 2} data-run=${run.id} data-version=${run.version}
      class="row ${run.id === this.#active ? "active" : ""} ${isFresh ? `fresh${run.version % 2}` : ""}"
      @click=${this.#clicked}>
      <span role="gridcell" class="c-status">${badge(run.status)}</span>
      <span role="gridcell" class="c-task"><a href=${address} tabindex="-1">${taskOf(run)}</a><span class="muted nr"> #${run.number}</span></span>
      <span role="gridcell" class="c-progress" title=${error}>${
        part === undefined || run.isFinal ? nothing : bar(part, "Progress")
      }<span class="said ${run.isFailed ? "bad" : ""}">${error}</span></span>
      <span role="gridcell" class="c-tags">${(run.tags ?? []).map((tag) => html`<span class="tag">${tag}</span>`)}</span>
      <span role="gridcell" class="c-when" title=${full(run.createdAt)}>${ago(run.createdAt, now)}</span>
      <span role="gridcell" class="c-took">${duration(took)}</span>
    </div>`;
  }

  /** @param {Event} event */
  #scrolled = ({ currentTarget }) => {
    const list = /** @type {HTMLElement} */ (currentTarget);
    this.#top = list.scrollTop;
    this.#anchor = this.#runs[Math.floor(this.#top / this.#rowHeight)]?.id;
    this.#draw();
  };

  /** @param {MouseEvent} event */
  #clicked = (event) => {
    const { run } = /** @type {HTMLElement} */ (event.currentTarget).dataset;
    // Links do what links do, and text can be selected.
    if (!run || /** @type {Element} */ (event.target).closest("a") || getSelection()?.toString()) return;
    this.#open(run);
  };

  /** @param {string} id */
  #open(id) {
    const run = this.#runs.find((one) => one.id === id);
    if (run) this.#go(addressOf(placeOfRun(run)));
  }

  /** @param {KeyboardEvent} event */
  #pressed = (event) => {
    const list = /** @type {HTMLElement} */ (event.currentTarget);
    const rowHeight = this.#rowHeight;
    const page = Math.max(1, Math.floor(this.#height / rowHeight) - 1);
    const at = this.#runs.findIndex(({ id }) => id === this.#active);
    const from = at < 0 ? Math.floor(this.#top / rowHeight) - 1 : at;
    /** @type {Record<string, number>} */
    const moves = {
      ArrowDown: from + 1,
      ArrowUp: from - 1,
      PageDown: from + page,
      PageUp: from - page,
      Home: 0,
      End: this.#runs.length - 1,
    };
    if (event.key === "Enter" && this.#active) {
      this.#open(this.#active);
    } else if (event.key in moves && this.#runs.length) {
      const to = Math.min(this.#runs.length - 1, Math.max(0, moves[event.key] ?? 0));
      this.#active = this.#runs[to]?.id;
      const head = rowHeight;
      if (to * rowHeight < list.scrollTop) list.scrollTop = to * rowHeight;
      else if ((to + 1) * rowHeight > list.scrollTop + this.#height - head) {
        list.scrollTop = (to + 1) * rowHeight - this.#height + head;
      }
      this.#top = list.scrollTop;
      this.#draw();
    } else {
      return;
    }
    event.preventDefault();
  };
}
