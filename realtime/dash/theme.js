/** Light or dark: as the system has it, unless this page was told otherwise. */

const KEY = "runstream-theme";
const NEXT = /** @type {Record<string, string>} */ ({ auto: "light", light: "dark", dark: "auto" });

export function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

/** The next one of auto, light and dark. */
export function turnTheme() {
  set(NEXT[theme()] ?? "auto");
}

/** @param {string} name */
function set(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem(KEY, name);
  } catch {
    // Where a browser keeps nothing, it holds until the page is left.
  }
  dispatchEvent(new Event("themechange"));
}

try {
  const kept = localStorage.getItem(KEY);
  if (kept && kept !== "auto") set(kept);
} catch {}
