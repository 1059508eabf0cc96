/** Asks for a token, once. It stays in this tab, and is forgotten with it. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";

const KEY = "runstream-token";

export function keptToken() {
  try {
    return sessionStorage.getItem(KEY) ?? undefined;
  } catch {
    return undefined;
  }
}

/** @param {string | undefined} token */
export function keepToken(token) {
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Then it is kept in memory alone, and asked for again after a reload.
  }
}

/**
 * @param {string} error
 * @param {boolean} isBusy
 * @param {(token: string) => void} enter
 */
export function signIn(error, isBusy, enter) {
  const submit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    enter(String(new FormData(form).get("token")).trim());
  };
  return html`<main class="sign-in">
    <form @submit=${submit}>
      <img src="/dash/icon.svg" width="48" height="48" alt="">
      <h1>Runstream</h1>
      <p>This server wants an API key or a public access token.</p>
      <label for="token">Key or token</label>
      <input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required autofocus aria-describedby="token-note ${error ? "token-error" : ""}">
      ${error ? html`<p id="token-error" class="bad" role="alert">${error}</p>` : nothing}
      <button class="primary" ?disabled=${isBusy}>${isBusy ? "Looking …" : "Open"}</button>
      <p id="token-note" class="muted">It is kept in this tab only, until the tab is closed. For looking, a read-only key does: <code>realtime key create NAME --read-only</code></p>
    </form>
  </main>`;
}

/** Whether a token says of itself that it may only read. Of a key only the server knows. @param {string | undefined} token */
export function readsOnly(token) {
  try {
    const part = token?.split(".")[1] ?? "";
    const claims = JSON.parse(atob(part.replaceAll("-", "+").replaceAll("_", "/")));
    const scopes = claims.scopes ?? claims.scope;
    return (Array.isArray(scopes) ? scopes : String(scopes).split(" ")).every((scope) => String(scope).startsWith("read:"));
  } catch {
    return false;
  }
}
