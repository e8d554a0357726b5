/** The routes of the plugin, relative to the page's base: that also holds under a --path_prefix. */

/** What the server says in words when it refuses, or why it did not answer. */
export class ServerError extends Error {}

/**
 * @param {string} route
 * @param {Record<string, string | number | boolean | null | undefined>} [parameters] null and undefined are left out
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>} the JSON
 * @throws {ServerError} with a sentence for the user; an AbortError where `signal` has fired
 */
export async function get(route, parameters = {}, signal = undefined) {
  const url = new URL(route, document.baseURI);
  for (const [key, value] of Object.entries(parameters)) {
    if (value === null || value === undefined) continue;
    url.searchParams.set(key, typeof value === "boolean" ? String(Number(value)) : String(value));
  }
  return answer(await reach(() => fetch(url, { signal })), route);
}

/** @param {Response} response @param {string} route @returns {Promise<any>} */
export async function answer(response, route) {
  let data = null;
  try {
    data = await response.json();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    if (response.ok) throw new ServerError(`the server's answer to “${route}” was cut off`);
  }
  if (!response.ok || data?.error !== undefined) {
    throw new ServerError(String(data?.error ?? `the server answered “${route}” with HTTP ${response.status}`));
  }
  return data;
}

/** @param {() => Promise<Response>} ask */
async function reach(ask) {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServerError("TensorBoard does not answer");
  }
}

/** @param {unknown} error @returns {boolean} whether a newer request has overtaken this one */
export function overtaken(error) {
  return error instanceof DOMException && error.name === "AbortError";
}
