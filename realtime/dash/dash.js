/** Puts the page together: where it is, what is shown there, and one drawing a frame. */

import { addressOf, placeOf, readAddress } from "./address.js";
import { BatchPage } from "./batch-page.js";
import { Runstream } from "./client/index.js";
import { Feed } from "./feed.js";
import { JobPage } from "./job-page.js";
import { linkOf, linkView, notLive } from "./link.js";
import { MessagesPage } from "./messages-page.js";
import { RunPage } from "./run-page.js";
import { RunsPage } from "./runs-page.js";
import { keepToken, keptToken, readsOnly, signIn } from "./sign-in.js";
import { theme, turnTheme } from "./theme.js";
import { html, nothing, render } from "./vendor/lit-html/lit-html.js";

/** @import {Place} from "./address.js" */
/** @import {RunstreamError} from "./client/index.js" */
/** @import {StreamStatus} from "./client/types.js" */

/**
 * What a place shows.
 *
 * @typedef {object} View
 * @property {string} title
 * @property {StreamStatus} status
 * @property {RunstreamError | undefined} error
 * @property {(now: number) => unknown} render
 * @property {(place: Place) => boolean} take Whether it can show that place, too; then it does.
 * @property {(root: Element) => void} [rendered]
 * @property {(root: Element) => void} [ticked]
 * @property {() => void} close
 */

const PAGES = { runs: RunsPage, run: RunPage, batch: BatchPage, job: JobPage, messages: MessagesPage };
const THEMES = /** @type {Record<string, string>} */ ({ auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" });

/** Changes a second. */
const CALM = 40;

export class Dash {
  feed = new Feed();
  /** @type {Runstream} */
  client;
  mayWrite = true;

  #root;
  #spoken;
  /** @type {string | undefined} */
  #token;
  /** @type {View | undefined} */
  #view;
  #place = readAddress();
  #isDrawing = false;
  /** @type {number | undefined} When what is shown was last known to be true. */
  #liveAt;
  /** @type {number | undefined} */
  #notLiveSince;
  #wasLive = true;
  #signIn = { isOpen: false, isBusy: false, error: "" };
  /** @type {{title: string, text: string, word: string, act: () => Promise<unknown>} | undefined} */
  #question;
  #notice = "";
  /** @type {any} */
  #noticeTimer;

  /** @param {HTMLElement} root @param {HTMLElement} spoken */
  constructor(root, spoken) {
    this.#root = root;
    this.#spoken = spoken;
    this.client = this.#connect(undefined);
    addEventListener("popstate", () => this.#arrive());
    addEventListener("click", this.#clicked);
    addEventListener("keydown", this.#pressed);
    addEventListener("themechange", this.draw);
    addEventListener("resize", this.draw);
    setInterval(() => {
      this.feed.tick(this.client);
      this.#view?.ticked?.(this.#root);
      this.draw();
    }, 1_000);
    void this.#enter(keptToken());
  }

  // Who looks

  /** @param {string | undefined} token */
  #connect(token) {
    this.#token = token;
    this.mayWrite = !readsOnly(token);
    const client = new Runstream({ url: location.origin, token, trace: this.feed.trace });
    client.connection.subscribe(this.draw);
    return client;
  }

  /** @param {string | undefined} token */
  async #enter(token) {
    this.#signIn = { isOpen: this.#signIn.isOpen, isBusy: true, error: "" };
    this.draw();
    const isOpen = await this.#mayRead(token);
    if (isOpen) {
      keepToken(token);
      this.client.close();
      this.client = this.#connect(token);
      this.#signIn = { isOpen: false, isBusy: false, error: "" };
      this.#arrive();
    } else {
      this.#signIn = { isOpen: true, isBusy: false, error: token ? "The server does not accept this." : "" };
      this.draw();
    }
  }

  /** Whether the server takes the token, as far as a call can tell. @param {string | undefined} token */
  async #mayRead(token) {
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : undefined;
      const { status } = await fetch("/v1/runs?limit=1", { headers });
      // One that may read some runs only is refused here, and is good nevertheless.
      return status !== 401;
    } catch {
      // The server is away; the page says so, and comes back with it.
      return true;
    }
  }

  #leave = () => {
    keepToken(undefined);
    this.#view?.close();
    this.#view = undefined;
    this.client.close();
    this.client = this.#connect(undefined);
    this.#signIn = { isOpen: true, isBusy: false, error: "" };
    this.draw();
  };

  // Where it is

  /** @param {string} address @param {boolean} [replaces] Whether the way back skips the present one. */
  go = (address, replaces = false) => {
    if (address === location.pathname + location.search) return;
    history[replaces ? "replaceState" : "pushState"](null, "", address);
    this.#arrive();
  };

  #arrive() {
    const before = this.#place;
    this.#place = readAddress();
    if (!this.#view?.take(this.#place)) {
      this.#view?.close();
      this.#view = new PAGES[this.#place.view](this, this.#place);
      this.#liveAt = this.#notLiveSince = undefined;
      this.#wasLive = true;
      if (before.view !== this.#place.view || before.id !== this.#place.id) scrollTo(0, 0);
    }
    this.draw();
  }

  /** @param {MouseEvent} event */
  #clicked = (event) => {
    const link = /** @type {Element} */ (event.target).closest?.("a");
    const open = document.querySelector("details.link[open]");
    if (open && !open.contains(/** @type {Node} */ (event.target))) open.removeAttribute("open");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (link.origin !== location.origin || link.pathname !== "/" || link.hasAttribute("download")) return;
    event.preventDefault();
    this.go(link.pathname + link.search);
  };

  /** @param {KeyboardEvent} event */
  #pressed = (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.key !== "/" || event.ctrlKey || event.metaKey || target.closest("input, select, textarea")) return;
    const input = /** @type {HTMLElement | null} */ (this.#root.querySelector("#text-filter") ?? this.#root.querySelector("#jump"));
    if (!input) return;
    event.preventDefault();
    input.focus();
  };

  // What is done

  /** Does it, and says so if it is refused. @param {() => Promise<unknown>} act */
  async attempt(act) {
    try {
      await act();
    } catch (error) {
      const { code, message } = /** @type {any} */ (error);
      if (code === "forbidden") this.mayWrite = false;
      this.notice(code === "forbidden" ? "This token may look, and no more." : message);
    }
  }

  /** @param {string} title @param {string} text @param {string} word @param {() => Promise<unknown>} act */
  ask(title, text, word, act) {
    this.#question = { title, text, word, act };
    this.draw();
  }

  /** @param {string} text */
  notice(text) {
    this.#notice = text;
    clearTimeout(this.#noticeTimer);
    this.#noticeTimer = setTimeout(() => {
      this.#notice = "";
      this.draw();
    }, 6_000);
    this.draw();
  }

  /** @param {string} path @returns {Promise<Blob>} */
  async download(path) {
    const headers = this.#token ? { Authorization: `Bearer ${this.#token}` } : undefined;
    const response = await fetch(path, { headers });
    if (!response.ok) throw new Error(`It can't be read: ${response.status}`);
    return response.blob();
  }

  /** Says it to whoever listens to the page. @param {string} text */
  speak(text) {
    this.#spoken.textContent = text;
  }

  // How it is drawn

  /** Whether so little changes that each change can be followed. */
  get isCalm() {
    return (this.feed.rates.at(-1) ?? 0) < CALM;
  }

  /** Once a frame, however often it is asked for; where much changes, every second frame. */
  draw = () => {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    const drawNow = () => {
      this.#isDrawing = false;
      this.#drawNow();
    };
    requestAnimationFrame(this.isCalm ? drawNow : () => requestAnimationFrame(drawNow));
  };

  #drawNow() {
    const { isOpen, error, isBusy } = this.#signIn;
    if (isOpen) {
      document.title = "Runstream";
      render(signIn(error, isBusy, (token) => this.#enter(token)), this.#root);
      return;
    }
    if (!this.#view) return;
    if (this.#view.error?.code === "unauthorized") {
      this.#leave();
      this.#signIn.error = this.#token ? "The token has ended, or is not accepted any more." : "";
      return;
    }
    this.#watchLink(this.#view.status);
    render(this.#frame(this.#view), this.#root);
    document.title = `${this.#view.title} – Runstream`;
    this.#view.rendered?.(this.#root);
    const dialog = /** @type {HTMLDialogElement | null} */ (this.#root.querySelector("dialog"));
    if (dialog && !dialog.open) dialog.showModal();
  }

  /** @param {StreamStatus} status */
  #watchLink(status) {
    const { isLive, word } = linkOf(this.client.connection.getSnapshot(), status);
    if (isLive) {
      this.#liveAt = Date.now();
      this.#notLiveSince = undefined;
    } else if (this.#liveAt !== undefined) {
      this.#notLiveSince ??= this.#liveAt;
    }
    if (isLive !== this.#wasLive && (this.#liveAt !== undefined || isLive)) this.speak(isLive ? "Live again" : word);
    this.#wasLive = isLive;
  }

  /** @param {View} view */
  #frame(view) {
    const { client, feed } = this;
    const connection = client.connection.getSnapshot();
    const at = this.#place.view;
    const tab = (/** @type {Partial<Place>} */ place, /** @type {string} */ word) =>
      html`<a href=${addressOf(place)} aria-current=${at === (place.view ?? "runs") ? "page" : nothing}>${word}</a>`;
    const { isLive } = linkOf(connection, view.status);
    return html`<a class="skip" href="#main">To the content</a>
      <header class="top">
        <a class="brand" href="/" aria-label="Runstream, all runs"><img src="/dash/icon.svg" width="24" height="24" alt=""><span>Runstream</span></a>
        <nav aria-label="Pages">${tab({}, "Runs")}${tab({ view: "messages" }, "Messages")}</nav>
        <form class="jump" role="search" aria-label="Go to" @submit=${this.#jump}><input id="jump" name="id" type="search" aria-label="Go to a run or batch by its id" placeholder="Go to run_… or batch_…" autocomplete="off" spellcheck="false"></form>
        <span class="spacer"></span>
        ${linkView(connection, view.status, feed, client.stats)}
        <button class="quiet icon" aria-label=${THEMES[theme()] ?? ""} title=${THEMES[theme()] ?? ""} @click=${turnTheme}>${theme() === "dark" ? "☾" : theme() === "light" ? "☀" : "◐"}</button>
        ${this.#token ? html`<button class="quiet" @click=${this.#leave}>Sign out</button>` : nothing}
      </header>
      ${notLive(connection, view.status, this.#notLiveSince)}
      <main id="main" tabindex="-1" class="view ${at} ${isLive || view.status === "connecting" || view.status === "ended" ? "" : "old"}">${view.render(Date.now())}</main>
      ${this.#notice ? html`<p class="notice" role="alert">${this.#notice}</p>` : nothing}
      ${this.#question ? this.#dialog(this.#question) : nothing}`;
  }

  /** @param {{title: string, text: string, word: string, act: () => Promise<unknown>}} question */
  #dialog({ title, text, word, act }) {
    const close = () => {
      this.#question = undefined;
      this.draw();
    };
    const yes = () => {
      close();
      void this.attempt(act);
    };
    return html`<dialog aria-labelledby="question" @close=${close} @cancel=${close}>
      <h2 id="question">${title}</h2>
      <p>${text}</p>
      <div class="actions"><button @click=${close}>Keep it</button><button class="danger solid" @click=${yes}>${word}</button></div>
    </dialog>`;
  }

  /** @param {SubmitEvent} event */
  #jump = (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const place = placeOf(String(new FormData(form).get("id")));
    if (!place) {
      this.notice("An id begins with run_ or batch_.");
      return;
    }
    form.reset();
    this.go(addressOf(place));
  };
}

const root = document.getElementById("dash");
const spoken = document.getElementById("spoken");
if (root && spoken) new Dash(root, spoken);
