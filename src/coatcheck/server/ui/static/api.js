// The REST API as the page uses it: one call, and one kind of error that says in words what happened.
// Leaves to its callers what a refusal means where they are; asks again who one is where an action wants to know it freshly.

import { t } from "./dom.js";

export class Problem extends Error {
  // RFC 9457, with the fields that are wrong; status 0: there was no answer at all.
  constructor(status, body = {}, headers = null) {
    super(sentence(status, body, headers?.get("retry-after")));
    this.status = status;
    this.fields = (body.errors ?? []).map((error) => error.field);
    // RFC 9470, section 3: the login is too old for this.
    this.stale = /insufficient_user_authentication/.test(headers?.get("www-authenticate")) || /fresh/.test(body.type);
  }
}

export async function call(method, path, body) {
  try {
    return await ask(method, path, body);
  } catch (error) {
    if (!error.stale) throw error;
    const { proveAgain } = await import("./fresh.js");
    if (!(await proveAgain())) throw new Problem(403, { detail: "Nothing was changed." });
    return ask(method, path, body);
  }
}

async function ask(method, path, body) {
  const init = { method, cache: "no-store" };
  if (body) Object.assign(init, { headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  let response, answer;
  try {
    response = await fetch(path, init);
    answer = await response.text();
  } catch {
    throw new Problem(0);
  }
  const json = parsed(answer);
  if (response.ok) return json;
  throw new Problem(response.status, json ?? {}, response.headers);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // an empty answer, or a proxy's own page
  }
}

function sentence(status, body, retryAfter) {
  if (status === 0) return t("The server cannot be reached. Check the network, then try again.");
  if (status === 401) return t("Your session has ended. Log in again.");
  if (status === 429) return t("Too many attempts. Try again {0}.", after(retryAfter));
  if (status === 503) return body.detail ? t(body.detail) : t("The server is busy. Try again {0}.", after(retryAfter));
  return t(body.detail ?? body.title ?? "The server could not do this ({0}).", status);
}

function after(value) {
  const seconds = Math.ceil(Number(value ?? NaN)); // the header may be a date; then a plain word will do
  if (!(seconds > 0)) return t("in a moment");
  if (seconds === 1) return t("in a second");
  return seconds < 100 ? t("in {0} seconds", seconds) : t("in {0} minutes", Math.ceil(seconds / 60));
}
