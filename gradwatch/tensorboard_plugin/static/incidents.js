/** The verdict and the list of incidents. */

import { el, say } from "./dom.js";
import { count, plain, stepText, words } from "./words.js";

const GAP = 4; // pixels
const URGENCY = { error: 0, warning: 1, info: 2 };
export const MARKS = { error: "✕", warning: "!", info: "i", ok: "✓", wait: "…" };

/**
 * @typedef {object} Incident as the route `incidents` tells it
 * @property {string} kind
 * @property {number} step
 * @property {string[]} layers
 * @property {string} severity
 * @property {string} message
 * @property {string} code
 * @property {string} headline
 * @property {number} optimizer
 * @property {any[]} causes
 * @property {{what: string, because: string}[]} unavailable
 * @property {number} num_layers
 * @property {number} num_layers_named
 * @property {string} key
 * @property {boolean} [superseded] a resumed session has trained that step again
 */

/** @param {Omit<Incident, "key">[]} incidents @returns {Incident[]} each with the key that the address names it by */
export function keyed(incidents) {
  /** @type {Map<string, number>} */
  const seen = new Map();
  return incidents.map((incident) => {
    const name = `${incident.code}@${incident.step}`;
    const number = seen.get(name) ?? 0;
    seen.set(name, number + 1);
    return { ...incident, key: number ? `${name}.${number}` : name };
  });
}

/** @param {Incident[]} incidents @returns {Incident | undefined} what to look at first: the earliest of the worst */
export function foremost(incidents) {
  return [...incidents].sort((a, b) => urgency(a) - urgency(b) || a.step - b.step)[0];
}

/** @param {Incident} incident @returns {string} its layers in a few words, as the headline has them */
export function place({ headline, code }) {
  const text = plain(headline, 300).split(" · ").slice(2).join(" · ");
  if (text === code) return "";
  return text.endsWith(` · ${code}`) ? text.slice(0, -code.length - 3) : text;
}

/**
 * The one line at the top.
 *
 * @param {any} run of the route `runs`
 * @param {Incident[]} incidents
 * @param {number} total all of them, also those that are not listed
 * @returns {{mark: "error" | "warning" | "info" | "ok" | "wait", text: string, more: string}}
 */
export function verdict(run, incidents, total) {
  const steps = count(run.steps, "step");
  if (!incidents.length) {
    if (!run.steps) return { mark: "wait", text: "No step yet", more: "the run has not made an optimizer step" };
    const text = run.state === "running" ? "Healthy so far" : "Healthy";
    return { mark: "ok", text, more: `${steps} watched, nothing found` };
  }
  const first = foremost(incidents) ?? incidents[0];
  const where = place(first);
  const text = `${words(first.kind)} at step ${stepText(first.step)}${where ? ` in ${where}` : ""}`;
  const more = total === 1 ? `the only incident in ${steps}` : `the first of ${worstFirst(incidents, total)} in ${steps}`;
  return { mark: mark(first.severity), text: text[0].toUpperCase() + text.slice(1), more };
}

/** The list; a press on an incident selects it, a second one folds it. */
export class IncidentList {
  /** @type {Map<string, HTMLElement>} */ #buttons = new Map();

  /** @param {HTMLElement} host @param {(incident: Incident) => void} pick */
  constructor(host, pick) {
    this.#pick = pick;
    this.#list = el("ol", { class: "incident-list", attributes: { "aria-label": "Incidents, the newest first" } });
    this.#rest = el("p", { class: "quiet" });
    host.append(this.#list, this.#rest);
  }

  #list; #rest; #pick;

  /** @param {Incident[]} incidents in order of step @param {number} total @param {Incident | undefined} chosen */
  show(incidents, total, chosen) {
    const focused = [...this.#buttons].find(([, button]) => button === document.activeElement)?.[0];
    this.#buttons.clear();
    const entries = [...incidents].reverse().map((incident) => this.#entry(incident, incident === chosen));
    this.#list.replaceChildren(...entries);
    this.#list.hidden = !entries.length;
    const missing = total - incidents.length;
    say(this.#rest, missing > 0 ? `and ${count(missing, "more incident")} between the first and the newest` : "");
    if (focused) this.#buttons.get(focused)?.focus({ preventScroll: true });
    this.#reveal(chosen);
  }

  /** Scrolls the list alone, never the page. @param {Incident | undefined} chosen */
  #reveal(chosen) {
    const button = chosen && this.#buttons.get(chosen.key);
    const host = this.#list.parentElement;
    if (!button || !host) return;
    const [inner, outer] = [button.getBoundingClientRect(), host.getBoundingClientRect()];
    if (inner.bottom > outer.bottom) host.scrollTop += inner.bottom - outer.bottom + GAP;
    else if (inner.top < outer.top) host.scrollTop += inner.top - outer.top - GAP;
  }

  /** @param {Incident} incident @param {boolean} chosen */
  #entry(incident, chosen) {
    const layers = place(incident);
    const button = el(
      "button",
      {
        class: `incident ${mark(incident.severity)}`,
        attributes: { type: "button", "aria-expanded": String(chosen), "aria-controls": "details", "data-code": incident.code },
        on: { click: () => this.#pick(incident) },
      },
      badge(incident.severity),
      el("span", { class: "incident-kind", text: words(incident.kind) }),
      el("span", { class: "incident-step", text: `step ${stepText(incident.step)}` }),
      el("span", { class: "incident-code", text: incident.code }),
      el("span", { class: "incident-where", text: plain(layers, 160) }),
      el("span", { class: "incident-line", text: plain(incident.message, 200) }),
    );
    this.#buttons.set(incident.key, button);
    return el("li", {}, button);
  }
}

/** @param {string} severity @returns {HTMLElement} shape, colour and a word: colour alone says nothing to many */
export function badge(severity) {
  const known = mark(severity);
  return el("span", { class: `badge ${known}`, text: MARKS[known], attributes: { role: "img", "aria-label": severity } });
}

/** @param {string} severity @returns {"error" | "warning" | "info"} */
export function mark(severity) {
  return Object.hasOwn(URGENCY, severity) ? /** @type {any} */ (severity) : "info";
}

/** @param {Incident} incident */
function urgency(incident) {
  return URGENCY[mark(incident.severity)];
}

/** @param {Incident[]} incidents @param {number} total @returns {string} `2 errors and 1 warning` */
function worstFirst(incidents, total) {
  if (total > incidents.length) return count(total, "incident");
  const nouns = { error: "error", warning: "warning", info: "remark" };
  const parts = Object.entries(nouns)
    .map(([severity, noun]) => [incidents.filter((incident) => mark(incident.severity) === severity).length, noun])
    .filter(([num]) => num)
    .map(([num, noun]) => count(Number(num), String(noun)));
  return parts.join(" and ");
}
