/** What an incident unfolds to: what happened, why, what to do, what could not be seen. */

import { copy } from "./clipboard.js";
import { el } from "./dom.js";
import { badge } from "./incidents.js";
import { plain, short, stepText, sure, words } from "./words.js";

const LONGEST_CODE = 1000; // characters, as on the Python side
const LAYERS_SHOWN = 8;
const SUPERSEDED = "The run was resumed from an earlier checkpoint since: this step was trained once more.";
const SAID = 1600; // milliseconds that a button says "copied"

/**
 * @param {HTMLElement} host
 * @param {import("./incidents.js").Incident | undefined} incident none: the host is empty
 * @param {(layer: string) => void} pickLayer
 */
export function showDetails(host, incident, pickLayer) {
  host.hidden = !incident;
  if (!incident) {
    host.replaceChildren();
    return;
  }
  host.replaceChildren(
    el(
      "header",
      { class: "details-head" },
      badge(incident.severity),
      el("h3", { text: words(incident.kind) }),
      el("span", { class: "quiet", text: `step ${stepText(incident.step)}` }),
      el("span", { class: "code", text: incident.code }),
    ),
    el(
      "div",
      {},
      el("p", { class: "message", text: plain(incident.message) }),
      incident.superseded ? el("p", { class: "quiet", text: SUPERSEDED }) : "",
      layerChips(incident, pickLayer),
      why(incident),
      unseen(incident) ?? "",
    ),
    remedies(incident),
  );
}

/** @param {import("./incidents.js").Incident} incident @param {(layer: string) => void} pickLayer */
function layerChips(incident, pickLayer) {
  if (!incident.layers.length) return "";
  const chips = incident.layers.slice(0, LAYERS_SHOWN).map((layer) =>
    el("button", {
      class: "chip", text: short(layer, 44),
      attributes: { type: "button", title: plain(layer, 300) },
      on: { click: () => pickLayer(layer) },
    }),
  );
  const rest = (incident.num_layers_named ?? incident.layers.length) - chips.length;
  if (rest > 0) chips.push(el("span", { class: "quiet", text: `and ${rest.toLocaleString("en-US")} more` }));
  return el("div", { class: "chips" }, ...chips);
}

/** The likeliest cause in full, the others folded. @param {import("./incidents.js").Incident} incident */
function why({ causes }) {
  const [first, ...others] = causes;
  const section = el("section", { class: "why" }, el("h4", { text: "Why" }));
  if (!first) {
    section.append(el("p", { text: "nothing that was measured tells what brought this about" }));
    return section;
  }
  section.append(el("div", { class: "cause" }, ...causeHead(first)), evidence(first.evidence));
  for (const cause of others) {
    const known = cause.remedies?.length > 0;
    section.append(
      el("details", { class: "other" }, el("summary", {}, "or ", ...causeHead(cause)), evidence(cause.evidence), known ? steps(cause.remedies) : ""),
    );
  }
  return section;
}

/** @param {{name: string, confidence: number, code?: string}} cause */
function causeHead({ name, confidence, code }) {
  return [el("strong", { text: words(name) }), confidenceOf(confidence), code && code !== "GW000" ? el("span", { class: "code", text: code }) : ""];
}

/** @param {string} text */
function evidence(text) {
  return text ? el("p", { class: "evidence", text: plain(text) }) : "";
}

/** @param {number} value 0 to 1 */
function confidenceOf(value) {
  const filled = { confident: 3, likely: 2, possible: 1 }[sure(value)];
  const dots = "●".repeat(filled) + "○".repeat(3 - filled);
  return el("span", { class: "confidence", attributes: { title: `confidence ${Math.round(100 * value)} %` } },
    el("span", { text: dots, attributes: { "aria-hidden": "true" } }), ` ${sure(value)} `);
}

/** The remedies of the likeliest cause that has any. @param {import("./incidents.js").Incident} incident */
function remedies({ causes }) {
  const section = el("section", { class: "what" }, el("h4", { text: "What to do" }));
  const cause = causes.find(({ remedies: known }) => known?.length);
  section.append(cause ? steps(cause.remedies) : el("p", { class: "quiet", text: "no remedy is known for this" }));
  return section;
}

/** @param {{action: string, reason: string, snippet: string}[]} known */
function steps(known) {
  return el("ol", { class: "remedies" }, ...known.map(({ action, reason, snippet }) =>
    el(
      "li",
      {},
      el("span", { text: plain(action) }),
      reason && el("span", { class: "quiet", text: `: ${plain(reason)}` }),
      snippet && codeBlock(snippet),
    ),
  ));
}

/** @param {string} snippet */
function codeBlock(snippet) {
  const text = snippet.slice(0, LONGEST_CODE).replace(/[\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, " ");
  const said = el("button", {
    class: "copy", text: "Copy",
    attributes: { type: "button", "aria-label": "Copy this code" },
    on: {
      click: async () => {
        said.textContent = (await copy(text)) ? "Copied" : "Select and press Ctrl+C";
        setTimeout(() => (said.textContent = "Copy"), SAID);
      },
    },
  });
  return el("div", { class: "snippet" }, el("pre", { attributes: { tabindex: 0, "aria-label": "code" } }, el("code", { text })), said);
}

/** @param {import("./incidents.js").Incident} incident */
function unseen({ unavailable }) {
  if (!unavailable?.length) return null;
  const rows = unavailable.map(({ what, because }) => el("li", { text: `${plain(what)}, because ${plain(because)}` }));
  return el("section", { class: "unseen" }, el("h4", { text: "What could not be seen" }), el("ul", {}, ...rows));
}

