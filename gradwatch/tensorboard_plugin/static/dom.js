/** Elements without HTML: whatever a name holds, it stays text. */

/**
 * @typedef {object} Properties
 * @property {string} [class]
 * @property {string} [text] becomes textContent, never HTML
 * @property {Record<string, string | number | boolean | null | undefined>} [attributes] null, undefined and false leave it out
 * @property {Record<string, (event: any) => void>} [on] event listeners
 */

/**
 * @param {string} tag
 * @param {Properties} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any} the element
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  if (properties.class) element.className = properties.class;
  if (properties.text !== undefined) element.textContent = properties.text;
  for (const [name, value] of Object.entries(properties.attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  for (const [name, listener] of Object.entries(properties.on ?? {})) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** @param {Element} element @param {string} text written only where it differs, so that no screen reader repeats it */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {() => void} action @param {number} milliseconds @returns {(() => void) & {cancel: () => void}} */
export function debounced(action, milliseconds) {
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
