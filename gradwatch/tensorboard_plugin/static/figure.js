/** One figure: a plotly spec from the server, drawn by the plotly.js that comes with the installed plotly. */

import { get, overtaken } from "./api.js";
import { el, say } from "./dom.js";
import { theme } from "./theme.js";
import { plain } from "./words.js";

const CONFIG = {
  responsive: true, displaylogo: false, doubleClick: "reset", scrollZoom: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

/** @type {Promise<any> | null} */
let loading = null;

/** @returns {Promise<any>} plotly.js of the installed package, loaded once */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = el("script", { attributes: { src: new URL("plotly.min.js", document.baseURI).href } });
    script.addEventListener("load", () => resolve(/** @type {any} */ (window).Plotly));
    script.addEventListener("error", () => {
      loading = null;
      reject(new Error("plotly.js could not be loaded: `pip install plotly` where TensorBoard runs"));
    });
    document.head.append(script);
  });
  return loading;
}

export class Figure {
  #asking = new AbortController();
  #shown = "";

  /** @param {HTMLElement} host @param {string} kind class and id @param {(point: any) => void} [pick] a click on a point */
  constructor(host, kind, pick = undefined) {
    this.#pick = pick;
    this.#title = el("h3", { text: "" });
    this.#plot = el("div", { class: "plot" });
    this.#empty = el("p", { class: "quiet plot-empty", text: "drawing…" });
    this.element = el("section", { class: `figure ${kind}`, attributes: { id: kind, "aria-busy": "true" } }, el("header", {}, this.#title), this.#empty, this.#plot);
    host.append(this.element);
  }

  #pick; #title; #plot; #empty;

  /** @param {string} text */
  setTitle(text) {
    say(this.#title, text);
  }

  /** @param {string} route @param {Record<string, any>} parameters @param {boolean} [again] also where nothing else is asked for than before */
  async show(route, parameters, again = false) {
    const wanted = JSON.stringify([route, parameters, theme()]);
    if (wanted === this.#shown && !again) return;
    this.#shown = wanted;
    this.#asking.abort();
    const asking = (this.#asking = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    try {
      const [Plotly, spec] = await Promise.all([plotly(), get(route, { ...parameters, theme: theme() }, asking.signal)]);
      if (asking.signal.aborted) return;
      if (spec.empty) this.#say(spec.empty);
      else await this.#draw(Plotly, spec);
    } catch (error) {
      if (overtaken(error)) return;
      this.#shown = "";
      this.#say(error instanceof Error ? error.message : String(error));
    }
    this.element.removeAttribute("aria-busy");
  }

  /** @param {any} Plotly @param {any} spec */
  async #draw(Plotly, spec) {
    this.#empty.hidden = true;
    this.#plot.hidden = false;
    const layout = { ...spec.layout, autosize: true, uirevision: "kept" };
    delete layout.width;
    delete layout.height;
    await Plotly.react(this.#plot, spec.data, layout, CONFIG);
    if (this.#pick && !this.#plot.dataset.listens) {
      this.#plot.dataset.listens = "yes";
      this.#plot.on("plotly_click", (/** @type {any} */ event) => event.points?.length && this.#pick?.(event.points[0]));
    }
  }

  /** @param {string} text */
  #say(text) {
    this.#plot.hidden = true;
    this.#empty.hidden = false;
    say(this.#empty, plain(text, 400));
  }
}
