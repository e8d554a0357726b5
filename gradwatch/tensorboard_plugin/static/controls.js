/** What the heat map shows: statistic, rows, absolute or relative; the chosen layer and step; the zoom. */

import { debounced, el } from "./dom.js";
import { STATISTICS, short } from "./words.js";

const OFFERED = 3000; // names in the list of layers: a browser slows down with more

export class Controls {
  /**
   * @param {HTMLElement} host
   * @param {(change: Partial<import("./store.js").State>) => void} change
   * @param {{zoom: (factor: number) => void, reset: () => void}} map
   */
  constructor(host, change, map) {
    this.#change = change;
    this.#statistic = el("select", { attributes: { id: "statistic" }, on: { change: () => change({ statistic: this.#statistic.value }) } });
    this.#optimizer = el("select", { attributes: { id: "optimizer" }, on: { change: () => change({ optimizer: Number(this.#optimizer.value) }) } });
    this.#optimizerField = field("optimizer", "optimizer", this.#optimizer);
    this.#rows = new Segments("rows", [["parameters", "parameters"], ["modules", "modules"]], (rows) =>
      change({ rows: rows === "modules" ? "modules" : "parameters" }));
    this.#relative = new Segments("colour", [["absolute", "absolute"], ["relative", "÷ own median"]], (word) => change({ relative: word === "relative" }));
    this.#names = el("datalist", { attributes: { id: "names" } });
    this.#layer = el("input", {
      attributes: { id: "layer", type: "text", list: "names", spellcheck: "false", autocomplete: "off", placeholder: "find a layer" },
      on: { change: () => this.#pickLayer(), input: () => this.#isName() && this.#pickLayer() },
    });
    this.#step = el("input", {
      attributes: { id: "step", type: "number", min: 0, placeholder: "newest" },
      on: { input: debounced(() => this.#pickStep(), 300), change: () => this.#pickStep() },
    });
    const zoom = el("div", { class: "buttons", attributes: { role: "group", "aria-label": "zoom" } },
      button("+", "zoom in", () => map.zoom(0.5)), button("−", "zoom out", () => map.zoom(2)), button("⤢", "show everything", map.reset));
    host.append(
      field("statistic", "show", this.#statistic), this.#optimizerField, this.#rows.element, this.#relative.element,
      el("span", { class: "spring" }),
      field("layer", "layer", this.#layer), this.#names, field("step", "step", this.#step), zoom,
    );
  }

  #change; #statistic; #optimizer; #optimizerField; #rows; #relative; #layer; #names; #step;
  /** @type {string[]} */ #known = [];

  /** @param {import("./store.js").State} state @param {import("./runs.js").Run | undefined} run */
  show(state, run) {
    const offered = Object.keys(STATISTICS).filter((name) => run?.statistics.includes(name) ?? name === state.statistic);
    options(this.#statistic, offered.map((name) => [name, STATISTICS[name].name]), state.statistic);
    const optimizers = run?.optimizers ?? [0];
    options(this.#optimizer, optimizers.map((index) => [String(index), String(index)]), String(state.optimizer));
    this.#optimizerField.hidden = optimizers.length < 2;
    this.#rows.show(state.rows);
    this.#relative.show(state.relative ? "relative" : "absolute");
    if (document.activeElement !== this.#layer) this.#layer.value = state.layer === null ? "" : short(state.layer, 200);
    if (document.activeElement !== this.#step) this.#step.value = state.step === null ? "" : String(state.step);
  }

  /** @param {string[]} names all rows */
  setNames(names) {
    this.#known = names;
    this.#names.replaceChildren(...names.slice(0, OFFERED).map((name) => {
      const option = el("option");
      option.value = short(name, 200);
      return option;
    }));
  }

  /** @returns {string | undefined} the layer whose (shortened) name was entered */
  #isName() {
    const text = this.#layer.value;
    return this.#known.find((name) => name === text) ?? this.#known.find((name) => short(name, 200) === text);
  }

  #pickLayer() {
    const text = this.#layer.value.trim();
    const layer = this.#isName() ?? this.#known.find((name) => text && name.includes(text));
    if (layer !== undefined) this.#change({ layer });
  }

  #pickStep() {
    const text = this.#step.value;
    if (text === "") this.#change({ step: null });
    else if (/^\d{1,15}$/.test(text)) this.#change({ step: Number(text) });
  }
}

/** A few choices side by side: radio buttons, so that arrow keys and screen readers know them. */
class Segments {
  /** @param {string} name @param {string[][]} choices value and text @param {(value: string) => void} pick */
  constructor(name, choices, pick) {
    this.element = el("fieldset", { class: "segments" }, el("legend", { class: "offscreen", text: name }));
    for (const [value, text] of choices) {
      const input = el("input", { attributes: { type: "radio", name, value, id: `${name}-${value}` }, on: { change: () => pick(value) } });
      this.#inputs.set(value, input);
      this.element.append(input, el("label", { text, attributes: { for: `${name}-${value}` } }));
    }
  }

  /** @type {Map<string, HTMLInputElement>} */ #inputs = new Map();

  /** @param {string} value */
  show(value) {
    const input = this.#inputs.get(value);
    if (input) input.checked = true;
  }
}

/** @param {string} id @param {string} text @param {HTMLElement} control */
function field(id, text, control) {
  return el("label", { class: "field", attributes: { for: id } }, text, control);
}

/** @param {string} text @param {string} label @param {() => void} press */
function button(text, label, press) {
  return el("button", { text, attributes: { type: "button", "aria-label": label, title: label }, on: { click: press } });
}

/** @param {HTMLSelectElement} select @param {string[][]} wanted value and text @param {string} value */
function options(select, wanted, value) {
  const shown = JSON.stringify(wanted);
  if (select.dataset.shown !== shown) {
    select.dataset.shown = shown;
    select.replaceChildren(...wanted.map(([key, text]) => {
      const option = el("option", { text });
      option.value = key;
      return option;
    }));
  }
  select.value = value;
}
