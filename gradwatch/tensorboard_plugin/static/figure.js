/** One figure: a plotly spec from the server, drawn by the plotly.js that comes with the installed plotly. */

import { get, overtaken } from "./api.js";
import { el, say } from "./dom.js";
import { theme } from "./theme.js";
import { plain } from "./words.js";

const CONFIG = {
  responsive: true, displaylogo: false, doubleClick: "reset", scrollZoom: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

const NAME_ROOM = 24; // pixels
const ROOM = 46; // pixels above the plot, for its legend
const OURS = { autosize: true, uirevision: "kept", paper_bgcolor: "rgba(0,0,0,0)" };
const ENTITIES = new Map([["&lt;", "<"], ["&gt;", ">"], ["&quot;", '"'], ["&#39;", "'"], ["&amp;", "&"]]);

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
    this.#title = el("h3", {});
    this.#line = el("span", { class: "quiet" });
    this.#plot = el("div", { class: "plot" });
    this.#empty = el("p", { class: "quiet plot-empty", text: "drawing…" });
    this.element = el("section", { class: `figure ${kind}`, attributes: { id: kind, "aria-busy": "true" } }, el("header", {}, this.#title, this.#line), this.#empty, this.#plot);
    host.append(this.element);
  }

  #pick; #title; #line; #plot; #empty;

  /**
   * @param {string} title until the figure has one of its own
   * @param {string} route
   * @param {Record<string, any>} parameters
   * @param {boolean} again also where nothing else is asked for than before
   */
  async show(title, route, parameters, again) {
    const wanted = JSON.stringify([route, parameters, theme()]);
    if (wanted === this.#shown && !again) return;
    this.#shown = wanted;
    this.#asking.abort();
    const asking = (this.#asking = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    try {
      const [Plotly, spec] = await Promise.all([plotly(), get(route, { ...parameters, theme: theme() }, asking.signal)]);
      if (asking.signal.aborted) return;
      if (spec.empty) this.#say(title, spec.empty);
      else await this.#draw(Plotly, spec);
    } catch (error) {
      if (overtaken(error)) return;
      this.#shown = "";
      this.#say(title, error instanceof Error ? error.message : String(error));
    }
    this.element.removeAttribute("aria-busy");
  }

  /** @param {any} Plotly @param {any} spec */
  async #draw(Plotly, spec) {
    this.#empty.hidden = true;
    this.#plot.hidden = false;
    const { title } = spec.layout ?? {};
    say(this.#title, unescaped(title?.text ?? ""));
    say(this.#line, unescaped(title?.subtitle?.text ?? ""));
    const layout = { ...spec.layout, ...OURS, margin: { ...spec.layout?.margin, t: ROOM } };
    for (const key of ["title", "width", "height"]) delete layout[key];
    layout.xaxis = thinned(layout.xaxis, this.element.clientWidth);
    await Plotly.react(this.#plot, spec.data, layout, CONFIG);
    if (this.#pick && !this.#plot.dataset.listens) {
      this.#plot.dataset.listens = "yes";
      this.#plot.on("plotly_click", (/** @type {any} */ event) => event.points?.length && this.#pick?.(event.points[0]));
    }
  }

  /** @param {string} title @param {string} text */
  #say(title, text) {
    say(this.#title, title);
    say(this.#line, "");
    this.#plot.hidden = true;
    this.#empty.hidden = false;
    say(this.#empty, plain(text, 400));
  }
}

/** As many names below an axis as there is room for: only the page knows how wide it is. @param {any} axis @param {number} width */
function thinned(axis, width) {
  const names = axis?.ticktext;
  if (!Array.isArray(names)) return axis;
  const stride = Math.ceil((names.length * NAME_ROOM) / Math.max(1, width));
  const keep = (/** @type {any} */ _, /** @type {number} */ index) => index % stride === 0;
  return { ...axis, ticktext: names.filter(keep), tickvals: axis.tickvals.filter(keep) };
}

/** plotly's titles are escaped markup; here they stand as text. @param {string} text */
function unescaped(text) {
  return plain(text.replace(/<br\s*\/?>/g, " · ").replace(/<\/?b>/g, "").replace(/&(lt|gt|quot|amp|#39);/g, (entity) => ENTITIES.get(entity) ?? entity), 300);
}
