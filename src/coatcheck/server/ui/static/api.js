// The REST API as the page uses it: one call, and one kind of error that says in words what happened.
// Leaves to its callers what a refusal means where they are.

export class Problem extends Error {
  // RFC 9457, with the fields that are wrong; status 0: there was no answer at all.
  constructor(status, body = {}, retryAfter = null) {
    super(sentence(status, body, retryAfter));
    this.status = status;
    this.fields = (body.errors ?? []).map((error) => error.field);
  }
}

export async function call(method, path, body) {
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
  throw new Problem(response.status, json ?? {}, response.headers.get("retry-after"));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // an empty answer, or a proxy's own page
  }
}

function sentence(status, body, retryAfter) {
  if (status === 0) return "The server cannot be reached. Check the network, then try again.";
  if (status === 401) return "Your session has ended. Log in again.";
  if (status === 429) return `Too many attempts. Try again ${after(retryAfter)}.`;
  if (status === 503) return body.detail ?? `The server is busy. Try again ${after(retryAfter)}.`;
  return body.detail ?? body.title ?? `The server could not do this (${status}).`;
}

function after(value) {
  const seconds = Math.ceil(Number(value ?? NaN)); // the header may be a date; then a plain word will do
  if (!(seconds > 0)) return "in a moment";
  if (seconds === 1) return "in a second";
  return seconds < 100 ? `in ${seconds} seconds` : `in ${Math.ceil(seconds / 60)} minutes`;
}
