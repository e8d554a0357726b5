/** What stands where: the bare elements of the page, without what they show. */

import { el } from "./dom.js";

const KEYS =
  "Arrow keys move from cell to cell, with Shift ten at a time. Plus and minus zoom. Enter selects. Escape shows everything.";
const MOUSE = "drag: zoom into a box · wheel: zoom the steps (Shift: the rows), once the map is clicked · Shift-drag: move · double click: show everything";

/**
 * @typedef {object} Layout
 * @property {HTMLElement} selectors
 * @property {HTMLElement} state
 * @property {HTMLElement} follow
 * @property {HTMLElement} trouble
 * @property {HTMLElement} verdict
 * @property {HTMLElement} badge
 * @property {HTMLElement} verdictText
 * @property {HTMLElement} verdictMore
 * @property {HTMLElement} incidents
 * @property {HTMLElement} list
 * @property {HTMLElement} details
 * @property {HTMLElement} skipped
 * @property {HTMLElement} controls
 * @property {HTMLElement} unit
 * @property {HTMLElement} map
 * @property {HTMLElement} compared
 * @property {HTMLElement} comparedName
 * @property {HTMLElement} hint
 * @property {HTMLElement} figures
 * @property {HTMLElement} main
 * @property {HTMLElement} empty
 */

/** @param {HTMLElement} body @returns {Layout} */
export function build(body) {
  const made = /** @type {any} */ ({
    selectors: el("div", { class: "selectors" }),
    state: el("span", { class: "state" }),
    follow: el("button", { class: "follow", text: "follow newest", attributes: { type: "button", "aria-pressed": "true" } }),
    trouble: el("p", { class: "trouble", attributes: { role: "status" } }),
    badge: el("span", { class: "badge large", attributes: { "aria-hidden": "true" } }),
    verdictText: el("h2", {}),
    verdictMore: el("span", { class: "quiet" }),
    list: el("div", { class: "list" }),
    details: el("article", { class: "details", attributes: { id: "details", "aria-label": "The chosen incident", "aria-live": "polite" } }),
    skipped: el("details", { class: "skipped quiet" }),
    controls: el("div", { class: "controls", attributes: { role: "group", "aria-label": "What the heat map shows" } }),
    unit: el("p", { class: "quiet unit" }),
    map: el("div", { class: "map-host" }),
    comparedName: el("h3", { class: "compared-name" }),
    hint: el("p", { class: "quiet hint", text: MOUSE }),
    figures: el("div", { class: "figures" }),
    empty: el("section", { class: "empty" }),
  });
  made.verdict = el("div", { class: "verdict", attributes: { role: "status" } }, made.badge, el("div", { class: "verdict-text" }, made.verdictText, made.verdictMore));
  made.incidents = el("div", { class: "incidents" }, made.list, made.details);
  made.compared = el("div", { class: "compared" }, made.comparedName);
  made.main = el(
    "main",
    {},
    el("section", { class: "card story", attributes: { "aria-label": "What was found" } }, made.verdict, made.incidents, made.skipped),
    el(
      "section",
      { class: "card", attributes: { "aria-label": "Heat map" } },
      made.controls,
      made.map,
      made.compared,
      el("div", { class: "below-map" }, legend(), made.unit),
      made.hint,
      el("p", { class: "offscreen", text: KEYS, attributes: { id: "map-keys" } }),
    ),
    made.figures,
  );
  made.compared.hidden = true;
  made.main.hidden = true;
  made.empty.hidden = true;
  const top = el("header", { class: "top" }, el("h1", { text: "gradwatch" }), made.selectors, el("span", { class: "spring" }), made.state, made.follow);
  body.replaceChildren(top, made.trouble, made.empty, made.main);
  return made;
}

/** The colours that stand for no size. */
function legend() {
  const states = [["nonfinite", "not finite"], ["zero", "exactly zero"], ["absent", "no value"], ["ring", "incident"]];
  return el("ul", { class: "legend", attributes: { "aria-label": "legend" } },
    ...states.map(([name, text]) => el("li", {}, el("span", { class: `swatch ${name}`, attributes: { "aria-hidden": "true" } }), text)));
}
