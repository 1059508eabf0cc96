/** How JSON, metadata and progress are shown. */

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";

/** @import {Run} from "./client/types.js" */

const MOST = 20_000;

/**
 * How far something says it is: a number up to 1, or per cent, or `{completed, total}`.
 *
 * @param {any} said
 * @returns {number | undefined} From 0 to 1.
 */
export function fraction(said) {
  if (typeof said === "object" && said !== null) {
    const done = said.completed ?? said.current ?? said.done ?? said.value;
    return typeof done === "number" && said.total > 0 ? within(done / said.total) : undefined;
  }
  if (typeof said !== "number" || !Number.isFinite(said)) return undefined;
  return within(said > 1 ? said / 100 : said);
}

/** @param {number} part */
const within = (part) => Math.min(1, Math.max(0, part));

/** @param {Run} run What its metadata says of how far it is. */
export function progressOf({ metadata }) {
  const part = fraction(metadata?.progress);
  const said = metadata?.message ?? metadata?.step ?? metadata?.text;
  return { part, text: typeof said === "string" ? said : "" };
}

/** @param {number} part @param {string} label */
export function bar(part, label) {
  const percent = Math.round(part * 100);
  return html`<span class="progress">
    <svg class="track" width="100%" height="6" role="progressbar" aria-label=${label} aria-valuemin="0"
      aria-valuemax="100" aria-valuenow=${percent}>
      <rect class="rest" width="100%" height="6" rx="3"></rect>
      <rect class="done" width="${part * 100}%" height="6" rx="3"></rect>
    </svg>
    <span class="percent">${percent} %</span>
  </span>`;
}

/**
 * Parts of a whole, beside each other.
 *
 * @param {{share: number, tone: string, title: string}[]} parts
 * @param {string} label
 */
export function stacked(parts, label) {
  let x = 0;
  return html`<svg class="stacked" width="100%" height="14" role="img" aria-label=${label}>
    <rect class="rest" width="100%" height="14"></rect>
    ${parts.map(({ share, tone, title }) => {
      const rect = svg`<rect class=${tone} x="${x * 100}%" width="${share * 100}%" height="14"><title>${title}</title></rect>`;
      x += share;
      return rect;
    })}
  </svg>`;
}

/**
 * Metadata as its job means it: progress as bars, long text as text, the rest by name.
 *
 * @param {Record<string, any>} metadata
 */
export function metadataView(metadata) {
  const entries = Object.entries(metadata ?? {});
  if (!entries.length) return html`<p class="muted">None.</p>`;
  return html`<dl class="metadata">
    ${entries.map(([name, value]) => html`<dt>${name}</dt><dd>${one(name, value)}</dd>`)}
  </dl>`;
}

/** @param {string} name @param {any} value */
function one(name, value) {
  const part = /progress/i.test(name) ? fraction(value) : fraction(value?.progress);
  const shown = part === undefined ? nothing : bar(part, name);
  if (part !== undefined && typeof value === "number") return shown;
  if (typeof value === "string") {
    return value.length > 120 || value.includes("\n")
      ? html`<div class="prose" tabindex="0" role="region" aria-label=${name}>${value}</div>`
      : value;
  }
  if (typeof value !== "object" || value === null) return html`<code>${String(value)}</code>`;
  return html`${shown}${json(value, name)}`;
}

/**
 * A value as JSON that can be read and copied.
 *
 * @param {any} value
 * @param {string} label
 */
export function json(value, label) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  const isCut = text.length > MOST;
  return html`<div class="json">
    <pre tabindex="0" role="region" aria-label=${label}>${colored(isCut ? text.slice(0, MOST) : text)}${isCut ? "…" : ""}</pre>
    ${isCut ? html`<p class="muted">The first ${MOST} of ${text.length} characters; copying takes all.</p>` : nothing}
    <button class="quiet copy" @click=${(/** @type {Event} */ event) => copy(event, text)}>Copy</button>
  </div>`;
}

/** @param {Event} event @param {string} text */
export async function copy(event, text) {
  const button = /** @type {HTMLElement} */ (event.currentTarget);
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = before), 1_200);
}

const TOKENS = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|(-?\d[\d.eE+-]*)/g;

/** @param {string} text */
function colored(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(TOKENS)) {
    const [whole, quoted, colon, word] = match;
    const kind = quoted ? (colon ? "key" : "string") : word ? "word" : "number";
    parts.push(text.slice(at, match.index), html`<span class=${kind}>${quoted ?? whole}</span>${colon ?? ""}`);
    at = (match.index ?? 0) + whole.length;
  }
  parts.push(text.slice(at));
  return parts;
}
