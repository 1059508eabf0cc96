/** How times, lengths and sizes are written. */

/** A length of time, as short as it can be read. @param {number} ms */
export function duration(ms) {
  if (!(ms >= 0)) return "–";
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const s = Math.round(ms / 1_000);
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ${pad(s % 60)} s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${pad(Math.floor(s / 60) % 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor(s / 3_600) % 24} h`;
}

/** How long ago. @param {string | null} time @param {number} now */
export function ago(time, now) {
  if (!time) return "–";
  const ms = now - Date.parse(time);
  if (ms < 2_000) return ms > -2_000 ? "now" : `in ${duration(-ms)}`;
  const s = Math.floor(ms / 1_000);
  if (s < 60) return `${s} s ago`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ago`;
  return `${Math.floor(s / 86_400)} d ago`;
}

/** The time of day, to the millisecond. @param {string | number | null} time */
export function clock(time) {
  if (time === null) return "–";
  const date = new Date(time);
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Date and time, as this browser's owner writes them. @param {string | null | undefined} time */
export function full(time) {
  return time ? FULL.format(new Date(time)) : "";
}

// Made once: to make one takes longer than all else in a row.
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** @param {number} size */
export function bytes(size) {
  if (size < 1_000) return `${size} B`;
  if (size < 1e6) return `${(size / 1e3).toFixed(1)} kB`;
  return `${(size / 1e6).toFixed(1)} MB`;
}

/** @param {number} count */
export const number = (count) => count.toLocaleString("en").replaceAll(",", "\u202f");

/** @param {number} count @param {string} noun */
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number} two */
const pad = (two) => String(two).padStart(2, "0");
