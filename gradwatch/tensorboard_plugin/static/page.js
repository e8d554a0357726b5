/** The page: who tells whom, and what happens when time passes. */

import { onAddress, readAddress, writeAddress } from "./address.js";
import { answer, get, overtaken } from "./api.js";
import { Controls } from "./controls.js";
import { showDetails } from "./details.js";
import { debounced, el, say } from "./dom.js";
import { Figures } from "./figures.js";
import { HeatMap } from "./heatmap.js";
import { IncidentList, MARKS, foremost, keyed, verdict } from "./incidents.js";
import { build } from "./layout.js";
import { keepAsking } from "./live.js";
import { RunSelector, foremostRun, stateText } from "./runs.js";
import { INITIAL, NO_ZOOM, Store } from "./store.js";
import { followTheme } from "./theme.js";
import { STATISTICS, count, plain, short, stepText } from "./words.js";

const WRITTEN = 200; // milliseconds after the last change
const HINTED = 2600;
const SOURCE = ["run", "optimizer", "statistic", "rows", "relative"];
const ZOOM = ["first", "last", "row_first", "row_last"];

/** @param {HTMLElement} body @param {Promise<Response>} runs already asked for */
export async function start(body, runs) {
  await new Page(body).begin(runs);
}

class Page {
  /** @type {import("./runs.js").Run[]} */ #runs = [];
  /** @type {import("./incidents.js").Incident[]} in order of step */ #incidents = [];
  /** @type {string[]} */ #names = [];
  #total = 0;
  #drawn = false;
  #notice = "";

  /** @param {HTMLElement} body */
  constructor(body) {
    const parts = (this.#parts = build(body));
    const store = (this.#store = new Store(readAddress()));
    this.#selector = new RunSelector(parts.selectors, (run) => this.#pickRun(run), (compare) => store.set({ compare }));
    this.#list = new IncidentList(parts.list, (incident) => this.#pickIncident(incident, true));
    this.#map = this.#newMap(parts.map, "Layers in depth order against steps", (range) => store.set({ ...NO_ZOOM, ...range }));
    this.#second = this.#newMap(parts.compared, "The run that is compared", (range) => store.set({ ...NO_ZOOM, ...range }));
    this.#controls = new Controls(parts.controls, (change) => this.#change(change), this.#map);
    this.#figures = new Figures(parts.figures, (change) => this.#change(change));
    parts.follow.addEventListener("click", () => this.#follow());
    const write = debounced(() => writeAddress(store.state), WRITTEN);
    store.subscribe((_, changed) => this.#changed(changed));
    store.subscribe(write);
    onAddress(() => this.#readAgain());
    followTheme(() => this.#redraw());
  }

  #parts; #store; #selector; #list; #map; #second; #controls; #figures;

  get #run() {
    return this.#runs.find(({ run }) => run === this.#store.state.run);
  }

  get #chosen() {
    return this.#incidents.find((incident) => incident.key === this.#store.state.incident);
  }

  /** @param {Promise<Response>} runs */
  async begin(runs) {
    try {
      this.#runs = (await answer(await runs, "runs")).runs;
    } catch {
      await this.#ask(); // once more, and with words this time
    }
    await this.#enter();
    keepAsking(() => this.#ask());
  }

  /** Show the run that the address names; without one the run to look at first. */
  async #enter() {
    const { run, compare } = this.#store.state;
    const known = (/** @type {string | null} */ name) => this.#runs.some((one) => one.run === name);
    this.#showEmpty();
    if (!this.#runs.length) return;
    this.#notice = run === null || known(run) ? "" : `there is no run “${short(run)}” here; another one is shown`;
    say(this.#parts.trouble, this.#notice);
    const shown = known(run) ? run : (foremostRun(this.#runs)?.run ?? null);
    const change = { run: shown, compare: compare !== shown && known(compare) ? compare : null, ...this.#offered(shown) };
    if (shown === run) this.#store.set(change);
    else this.#store.set({ ...change, ...(run === null ? {} : { ...NO_ZOOM, incident: null, step: null, layer: null }) });
    if (shown === run) await this.#open(); // the store has told nobody of what it began with
  }

  /** Of statistic and optimizer what the run has, whatever the address says. @param {string | null} name */
  #offered(name) {
    const { statistic, optimizer } = this.#store.state;
    const { statistics = [], optimizers = [] } = this.#runs.find(({ run }) => run === name) ?? {};
    return {
      statistic: statistics.includes(statistic) ? statistic : INITIAL.statistic,
      optimizer: optimizers.includes(optimizer) ? optimizer : (optimizers[0] ?? INITIAL.optimizer),
    };
  }

  /** Another run, statistic, ... */
  async #open() {
    const { state } = this.#store;
    if (state.run === null) return;
    const found = this.#loadIncidents();
    this.#showRun();
    this.#map.setRange(range(state));
    this.#map.select(state.step, state.layer);
    await Promise.all([this.#map.open(source(state)), found]);
    this.#openSecond();
    this.#loadNames();
    this.#showFigures(true);
  }

  async #loadIncidents() {
    const { run } = this.#store.state;
    await this.#careful(async () => {
      const found = await get("incidents", { run });
      if (run !== this.#store.state.run) return;
      this.#incidents = keyed(found.incidents);
      this.#total = found.total;
      this.#showSkipped(found.skipped ?? []);
      this.#chooseFirst();
      this.#showIncidents();
    });
  }

  /** Where nobody has chosen anything, what is worst is chosen: a first look shall say what is wrong. */
  #chooseFirst() {
    const { incident, step, layer } = this.#store.state;
    const first = foremost(this.#incidents);
    if (first && incident === null && step === null && layer === null) this.#pickIncident(first, false);
  }

  async #loadNames() {
    const { run, optimizer, rows } = this.#store.state;
    await this.#careful(async () => {
      const { names } = await get("names", { run, optimizer, rows });
      const { state } = this.#store;
      if (run !== state.run || optimizer !== state.optimizer || rows !== state.rows) return;
      this.#names = names;
      this.#map.setNames(names);
      this.#controls.setNames(names);
      this.#showFigures(false);
    });
  }

  async #openSecond() {
    const { state } = this.#store;
    const { compared, comparedName } = this.#parts;
    compared.hidden = state.compare === null;
    if (state.compare === null || !this.#map.scale) return;
    say(comparedName, `compared with ${short(state.compare, 80)}`);
    this.#second.setRange(range(state));
    this.#second.select(state.step, state.layer);
    await this.#second.open({ ...source(state), run: state.compare }, this.#map.scale);
  }

  /** A round of live reload. @returns {Promise<boolean>} whether it went well */
  async #ask() {
    return this.#careful(async () => {
      const before = new Map(this.#runs.map((run) => [run.run, JSON.stringify(run)]));
      this.#runs = (await get("runs")).runs;
      const { run, compare, step } = this.#store.state;
      if (run === null || !this.#run) {
        if (this.#runs.length) await this.#enter();
        return;
      }
      const news = (/** @type {string | null} */ name) =>
        JSON.stringify(this.#runs.find((one) => one.run === name)) !== before.get(name ?? "");
      this.#showRun();
      if (news(run)) {
        await Promise.all([this.#loadIncidents(), this.#map.refresh(step === null)]);
        this.#showFigures(true);
      }
      if (compare !== null && news(compare)) await this.#second.refresh(step === null);
    });
  }

  /** @param {Partial<import("./store.js").State>} change by a control or a figure */
  #change(change) {
    this.#store.set(change);
    if ("layer" in change || "step" in change) this.#map.reveal(change.step ?? null, change.layer ?? null);
  }

  /** @param {Set<string>} changed keys of the state */
  #changed(changed) {
    const { state } = this.#store;
    const has = (/** @type {string[]} */ keys) => keys.some((key) => changed.has(key));
    if (has(["rows", "optimizer"]) && has(ZOOM) === false && range(state)) {
      this.#store.set({ row_first: null, row_last: null, first: null, last: null }); // other rows: the zoom means nothing
    }
    if (has(["step", "layer"])) for (const map of [this.#map, this.#second]) map.select(state.step, state.layer);
    if (has(["incident"])) this.#showIncidents();
    if (has(ZOOM)) for (const map of [this.#map, this.#second]) map.setRange(range(state));
    this.#showControls();
    if (has(SOURCE)) this.#open();
    else {
      if (has(["compare"])) this.#openSecond();
      this.#showFigures(false);
    }
  }

  /** @param {string} run */
  #pickRun(run) {
    this.#notice = "";
    this.#incidents = [];
    this.#total = 0;
    const { compare } = this.#store.state;
    const nothing = { ...NO_ZOOM, incident: null, step: null, layer: null };
    this.#store.set({ ...nothing, run, compare: compare === run ? null : compare, ...this.#offered(run) });
  }

  /** @param {import("./incidents.js").Incident} incident @param {boolean} folds whether a second press folds it */
  #pickIncident(incident, folds) {
    if (folds && this.#chosen?.key === incident.key) {
      this.#store.set({ incident: "" });
      return;
    }
    const layer = incident.layers[0] ?? this.#store.state.layer;
    const { optimizers = [0] } = this.#run ?? {};
    const optimizer = optimizers.includes(incident.optimizer) ? incident.optimizer : this.#store.state.optimizer;
    this.#store.set({ incident: incident.key, step: incident.step, layer, optimizer });
    this.#map.reveal(incident.step, layer);
  }

  #follow() {
    const { step } = this.#store.state;
    this.#store.set({ step: step === null ? Math.max(0, this.#run?.last_step ?? 0) : null });
  }

  #readAgain() {
    const known = { ...INITIAL, ...readAddress() };
    if (this.#runs.some(({ run }) => run === known.run)) this.#store.set({ ...known, ...this.#offered(known.run) });
  }

  #showEmpty() {
    const { empty, main } = this.#parts;
    main.hidden = !this.#runs.length;
    empty.hidden = this.#runs.length > 0;
    if (empty.hidden || empty.childElementCount) return;
    empty.append(
      el("h2", { text: "No run recorded by gradwatch yet" }),
      el("p", { text: "This page fills by itself as soon as a training writes into this log directory:" }),
      el("pre", {}, el("code", { text: 'with gradwatch.watch(model, logdir="runs/a") as watch:\n    ...' })),
    );
  }

  #showRun() {
    const run = this.#run;
    const { state } = this.#store;
    this.#selector.show(this.#runs, state.run, state.compare);
    this.#showControls();
    if (!run) return;
    say(this.#parts.state, stateText(run));
    say(this.#parts.follow, run.state === "finished" ? "newest step" : "follow newest");
    this.#parts.state.className = `state ${run.state}`;
  }

  #showControls() {
    const { state } = this.#store;
    this.#controls.show(state, this.#run);
    this.#parts.follow.setAttribute("aria-pressed", String(state.step === null));
    const { name, short: unit } = STATISTICS[state.statistic] ?? { name: state.statistic, short: "" };
    const measured = `${name}${state.relative ? ", each row against its own median over the run" : ""} · ${unit}`;
    const seen = range(state);
    const part = seen && `steps ${stepText(seen.first)} to ${stepText(seen.last)}, rows ${stepText(seen.row_first + 1)} to ${stepText(seen.row_last + 1)} · `;
    say(this.#parts.unit, `${part ?? ""}${measured}`);
  }

  #showIncidents() {
    const run = this.#run;
    const [chosen, { verdict: line, badge, verdictText, verdictMore, incidents, details }] = [this.#chosen, this.#parts];
    if (!run) return;
    const { mark, text, more } = verdict(run, this.#incidents, this.#total);
    line.className = `verdict ${mark}`;
    badge.className = `badge large ${mark}`;
    say(badge, MARKS[mark]);
    say(verdictText, text);
    say(verdictMore, more);
    incidents.hidden = !this.#incidents.length;
    incidents.classList.toggle("folded", !chosen);
    this.#list.show(this.#incidents, this.#total, chosen);
    showDetails(details, chosen, (layer) => this.#change({ layer }));
    this.#map.setIncidents(this.#incidents, chosen ? this.#incidents.indexOf(chosen) : -1);
  }

  /** @param {string[]} skipped */
  #showSkipped(skipped) {
    const host = this.#parts.skipped;
    host.hidden = !skipped.length;
    if (!skipped.length) return;
    const rows = skipped.slice(0, 50).map((text) => el("li", { text: plain(text, 300) }));
    const open = host.hasAttribute("open");
    host.replaceChildren(el("summary", { text: `${count(skipped.length, "part")} of this run could not be read` }), el("ul", {}, ...rows));
    host.toggleAttribute("open", open);
  }

  /** @param {boolean} again also where nothing else was chosen */
  #showFigures(again) {
    if (this.#drawn && this.#run) this.#figures.show(this.#store.state, this.#run, this.#names, again);
  }

  #redraw() {
    this.#map.draw();
    this.#second.draw();
    this.#showFigures(false);
  }

  /** @param {HTMLElement} host @param {string} label @param {(range: import("./cells.js").Range | null) => void} zoom */
  #newMap(host, label, zoom) {
    return new HeatMap(host, label, {
      zoom,
      pick: ({ step, layer, incident }) => {
        const ringed = incident === null ? undefined : this.#incidents[incident];
        if (ringed) this.#pickIncident(ringed, false);
        else this.#store.set({ step, layer: layer ?? this.#store.state.layer });
      },
      drawn: () => this.#firstPicture(),
      failed: (error) => this.#tell(error),
      hint: () => this.#hint(),
    });
  }

  #firstPicture() {
    this.#drawn = true;
    /** @type {any} */ (window).gradwatchFirstPicture ??= performance.now();
  }

  #hint() {
    const { hint } = this.#parts;
    hint.classList.add("now");
    clearTimeout(this.#hinting);
    this.#hinting = setTimeout(() => hint.classList.remove("now"), HINTED);
  }

  #hinting = 0;

  /** Do what asks the server; an error is a quiet line. @param {() => Promise<void>} action @returns {Promise<boolean>} */
  async #careful(action) {
    try {
      await action();
    } catch (error) {
      return this.#tell(error);
    }
    say(this.#parts.trouble, this.#notice);
    return true;
  }

  /** @param {unknown} error @returns {boolean} whether it was none */
  #tell(error) {
    if (overtaken(error)) return true;
    const text = error instanceof Error ? error.message : String(error);
    say(this.#parts.trouble, `${plain(text, 300)} · what is shown may be old; asking again in a moment`);
    return false;
  }
}

/** @param {Readonly<import("./store.js").State>} state @returns {import("./cells.js").Source} */
function source({ run, statistic, optimizer, rows, relative }) {
  return { run: run ?? "", statistic, optimizer, rows, relative };
}

/** @param {Readonly<import("./store.js").State>} state @returns {import("./cells.js").Range | null} */
function range({ first, last, row_first, row_last }) {
  if (first === null || last === null || row_first === null || row_last === null) return null;
  return last > first && row_last >= row_first ? { first, last, row_first, row_last } : null;
}
