// fetch with an access token that is renewed when the server calls it invalid: once, however many requests wait for it.
// The tokens live in this object alone, where no other page and no storage has them; a reload logs out. For a web page of
// your own a session cookie is the better ticket: scripts cannot read it, and it survives the reload.

export class SessionOver extends Error {}

export class Tokens {
  #access = null;
  #refresh = null;
  #renewing = null;

  async logIn(username, password) {
    const response = await post("/login", { username, password });
    if (!response.ok) throw new Error((await response.json()).detail);
    this.#take(await response.json());
  }

  async fetch(path, options = {}) {
    const used = this.#access;
    const response = await this.#send(path, options);
    if (response.status !== 401 || !saysInvalid(response) || used === null) return response;
    if (this.#access === used) await (this.#renewing ??= this.#renew().finally(() => (this.#renewing = null)));
    return this.#send(path, options);
  }

  async logOut() {
    await this.fetch("/logout", { method: "POST" });
    this.#access = this.#refresh = null;
  }

  #send(path, options) {
    const headers = new Headers(options.headers);
    if (this.#access !== null) headers.set("Authorization", `Bearer ${this.#access}`);
    // The token goes to this origin, and follows no redirect away from it.
    const url = new URL(path, location.origin);
    if (url.origin !== location.origin) throw new TypeError(`the tokens are not for ${url.origin}`);
    return fetch(url, { ...options, headers, redirect: "error" });
  }

  async #renew() {
    const form = { refresh_token: this.#refresh };
    // An answer that is lost may be asked for again for ten seconds.
    const response = await post("/refresh", form).catch(() => post("/refresh", form));
    const answer = await response.json();
    if (answer.error === "invalid_grant") {
      this.#access = this.#refresh = null;
      throw new SessionOver("log in again");
    }
    if (!response.ok) throw new Error(`no new tokens: ${response.status}`);
    this.#take(answer);
  }

  #take(answer) {
    this.#access = answer.access_token;
    this.#refresh = answer.refresh_token;
  }
}

function post(path, form) {
  const headers = { "Content-Type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(form), redirect: "error" });
}

function saysInvalid(response) {
  return /\bbearer\b.*\berror="invalid_token"/i.test(response.headers.get("WWW-Authenticate") ?? "");
}
