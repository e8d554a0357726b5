/** Numbers and names in plain words, as the Python side says them. */

// What has no shape of its own, breaks a line or turns the reading direction: a name must not rearrange the page.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const SPELT = new Map([["lr", "learning rate"], ["relu", "ReLU"]]);
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** @param {unknown} text @param {number} [limit] characters @returns {string} one line */
export function plain(text, limit = 1000) {
  const line = String(text ?? "").slice(0, 4 * limit).replace(UNSEEN, " ").replace(/\s+/g, " ").trim();
  return line.length <= limit ? line : `${line.slice(0, limit - 1)}…`;
}

/** @param {string} text a layer's name @param {number} [limit] @returns {string} both ends kept: they tell layers apart */
export function short(text, limit = 48) {
  if (text.length > limit) {
    const tail = Math.floor((limit * 2) / 3);
    text = `${text.slice(0, limit - tail - 1)}…${text.slice(-tail)}`;
  }
  return plain(text, limit) || "(no name)";
}

/** @param {number | string | null} value also the words nan and inf @returns {string} `0.262`, `40,000`, `3.2e-12` */
export function number(value) {
  if (value === null || value === undefined) return "no value";
  if (value === "nan") return "NaN";
  if (typeof value === "string") return plain(value, 20);
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e5) {
    if (Number.isInteger(value) && size < 1e8) return value.toLocaleString("en-US");
    return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3)));
}

/** @param {number} exponent @returns {string} the power of ten: `0.01`, `1`, `1,000`, `10⁻⁷` */
export function power(exponent) {
  if (Math.abs(exponent) <= 3) {
    return exponent < 0 ? (10 ** exponent).toFixed(-exponent) : (10 ** exponent).toLocaleString("en-US");
  }
  const digits = [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPT[Number(digit)]).join("");
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

/** @param {number} num @param {string} noun @returns {string} `1 step`, `1,200 steps` */
export function count(num, noun) {
  return `${num.toLocaleString("en-US")} ${noun}${num === 1 ? "" : "s"}`;
}

/** @param {number} step @returns {string} */
export function stepText(step) {
  return Math.round(step).toLocaleString("en-US");
}

/** @param {string} identifier @returns {string} `dead ReLU` */
export function words(identifier) {
  return plain(identifier, 80).split("_").map((word) => SPELT.get(word) ?? word).join(" ");
}

/** @param {number} confidence 0 to 1 @returns {"confident" | "likely" | "possible"} */
export function sure(confidence) {
  if (confidence >= 0.8) return "confident";
  return confidence >= 0.5 ? "likely" : "possible";
}

/** What each statistic is called. @type {Record<string, {name: string, short: string}>} */
export const STATISTICS = {
  grad_norm: { name: "gradient norm", short: "L2 norm of the gradient, before clipping" },
  update_ratio: { name: "update ratio", short: "norm of the update over norm of the weight" },
  weight_norm: { name: "weight norm", short: "L2 norm of the weight, before the step" },
  num_nonfinite: { name: "non-finite count", short: "NaN and infinite elements of the gradient" },
  grad_max: { name: "gradient maximum", short: "largest absolute element of the gradient" },
};
