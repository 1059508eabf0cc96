/** What each status is called and looks like: a form, a colour and a word, never the colour alone. */

import { isJob } from "./address.js";
import { html, svg } from "./vendor/lit-html/lit-html.js";

/** @import {RunStatus} from "./client/types.js" */

/** @typedef {{label: string, tone: string, icon: import("./vendor/lit-html/lit-html.js").TemplateResult}} Look */

const RING = svg`<circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2"/>`;
const DISC = svg`<circle cx="8" cy="8" r="7" fill="currentColor"/>`;
const CHECK = svg`${DISC}<path class="cut" d="M4.8 8.2l2.2 2.2 4.2-4.6"/>`;
const CROSS = svg`${DISC}<path class="cut" d="M5.5 5.5l5 5m0-5l-5 5"/>`;
const BAR = svg`${DISC}<path class="cut" d="M5 8h6"/>`;
const CLOCK = svg`${RING}<path class="line" d="M8 5v3l2 1.5"/>`;
const HANDS = svg`${DISC}<path class="cut" d="M8 4.8V8l2.2 1.6"/>`;
const ARC = svg`<circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2" opacity=".3"/>
  <path class="line turns" d="M8 2.5A5.5 5.5 0 0 1 13.5 8"/>`;
const AGAIN = svg`<path class="line" d="M13 8a5 5 0 1 1-1.6-3.7M13 2.5V5h-2.6"/>`;
const PAUSE = svg`${DISC}<path class="cut" d="M6.3 5.5v5m3.4-5v5"/>`;

/** In the order of the lifecycle. @type {Record<RunStatus, Look>} */
export const LOOKS = {
  WAITING_FOR_DEPLOY: { label: "Waiting for deploy", tone: "idle", icon: CLOCK },
  DELAYED: { label: "Delayed", tone: "idle", icon: CLOCK },
  QUEUED: { label: "Queued", tone: "idle", icon: RING },
  EXECUTING: { label: "Executing", tone: "busy", icon: ARC },
  REATTEMPTING: { label: "Reattempting", tone: "warn", icon: AGAIN },
  FROZEN: { label: "Frozen", tone: "cold", icon: PAUSE },
  COMPLETED: { label: "Completed", tone: "good", icon: CHECK },
  CANCELED: { label: "Canceled", tone: "idle", icon: BAR },
  FAILED: { label: "Failed", tone: "bad", icon: CROSS },
  CRASHED: { label: "Crashed", tone: "bad", icon: CROSS },
  INTERRUPTED: { label: "Interrupted", tone: "warn", icon: BAR },
  SYSTEM_FAILURE: { label: "System failure", tone: "bad", icon: CROSS },
  EXPIRED: { label: "Expired", tone: "warn", icon: HANDS },
  TIMED_OUT: { label: "Timed out", tone: "warn", icon: HANDS },
};

export const STATUSES = /** @type {RunStatus[]} */ (Object.keys(LOOKS));

/** @param {RunStatus} status @returns {Look} */
export function lookOf(status) {
  return LOOKS[status] ?? { label: status, tone: "idle", icon: RING };
}

/** @param {{taskIdentifier: string}} run What to call its task. */
export function taskOf({ taskIdentifier }) {
  return isJob(taskIdentifier) ? "Job run" : taskIdentifier;
}

/** @param {RunStatus} status */
export function badge(status) {
  const { label, tone, icon } = lookOf(status);
  return html`<span class="badge ${tone}"><svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">${icon}</svg>${label}</span>`;
}
