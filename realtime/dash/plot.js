/** The small plot of changes a second. */

import uPlot from "./vendor/uplot/uPlot.esm.js";

export class Plot {
  /** @type {uPlot | undefined} */
  #plot;
  /** @type {HTMLElement | undefined} */
  #place;
  /** @type {number[]} */
  #rates = [];
  #observer = new ResizeObserver(() => this.#resize());

  constructor() {
    addEventListener("themechange", this.#rebuild);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.#rebuild);
  }

  get isDrawn() {
    return this.#plot !== undefined;
  }

  /** Draws into this place, as wide as it is. @param {HTMLElement} place @param {number[]} rates */
  draw(place, rates) {
    if (place !== this.#place) {
      this.#plot?.destroy();
      this.#observer.disconnect();
      this.#place = place;
      this.#plot = undefined;
      this.#observer.observe(place);
    }
    this.#rates = rates;
    const seconds = rates.map((_, n) => n - rates.length + 1);
    if (this.#plot) this.#plot.setData([seconds, rates]);
    else if (place.clientWidth) this.#plot = new uPlot(this.#options(place), [seconds, rates], place);
  }

  close() {
    removeEventListener("themechange", this.#rebuild);
    matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", this.#rebuild);
    this.#observer.disconnect();
    this.#plot?.destroy();
  }

  #rebuild = () => {
    this.#plot?.destroy();
    this.#plot = undefined;
    if (this.#place?.isConnected) this.draw(this.#place, this.#rates);
  };

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#place ?? { clientWidth: 0, clientHeight: 0 };
    if (width) this.#plot?.setSize({ width, height });
  }

  /** @param {HTMLElement} place @returns {uPlot.Options} */
  #options(place) {
    const style = getComputedStyle(place);
    const line = style.getPropertyValue("--busy").trim();
    const muted = style.getPropertyValue("--muted").trim();
    const grid = style.getPropertyValue("--line").trim();
    return {
      width: place.clientWidth,
      height: place.clientHeight,
      padding: [8, 2, 6, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false }, y: { range: (_plot, _low, high) => [0, Math.max(5, high * 1.15)] } },
      axes: [
        { show: false },
        {
          stroke: muted,
          size: 34,
          gap: 4,
          font: "11px system-ui, sans-serif",
          grid: { stroke: grid, width: 1 },
          ticks: { show: false },
          space: 26,
        },
      ],
      series: [{}, { stroke: line, width: 1.5, fill: `${line}26`, points: { show: false } }],
    };
  }
}
