// The logged-in view: who one is, the connection this page came on, and the sessions with their ends.

import { call } from "./api.js";
import { device } from "./device.js";
import { $, list, notify, part, put, time, when } from "./dom.js";
import { handle } from "./forms.js";

// `guard` runs an action and shows what goes wrong; `leave` goes to the login view.
export function account(guard, leave) {
  const root = $("account");
  const refresh = () => Promise.all([sessions(), connection()]);

  async function show({ name, username }) {
    put(root, { name: name || username, username: name === username ? "" : username });
    $("password").elements.username.value = username;
    await refresh();
  }

  async function sessions() {
    const all = (await call("GET", "/v1/sessions")).sessions;
    all.sort((a, b) => b.current - a.current || b.last_seen_at.localeCompare(a.last_seen_at));
    const [here] = all;
    put(root, {
      session: here.id,
      device: device(here.user_agent).words,
      created: when(here.created_at),
      expires: when(here.expires_at),
      count: all.length,
    });
    $("end-others").hidden = all.length < 2;
    const focused = document.activeElement.id;
    $("sessions").replaceChildren(...all.map(row));
    $(focused)?.focus();
    return all;
  }

  function row(session) {
    const item = $("session-row").content.cloneNode(true).firstElementChild;
    const { words, kind } = device(session.user_agent);
    item.querySelector("use").setAttribute("href", `#i-${kind}`);
    put(item, { device: session.name || words, address: session.address || "Address unknown" });
    time(part(item, "created"), session.created_at);
    time(part(item, "seen"), session.last_seen_at);
    const button = part(item, "end");
    (session.current ? button : part(item, "here")).remove(); // this one ends by logging out
    button.id = session.id;
    button.setAttribute("aria-label", `End ${words}, logged in ${when(session.created_at)}`);
    button.addEventListener("click", () => guard(button, async () => {
      await call("DELETE", `/v1/sessions/${session.id}`).catch((error) => {
        if (error.status !== 404) throw error; // ended already: as good
      });
      await sessions();
      notify(`Ended: ${words}.`);
      $("sessions-title").focus();
    }));
    return item;
  }

  async function connection() {
    const facts = await call("GET", "/v1/connection");
    put(root, { protocol: facts.protocol, requests: facts.requests });
    list($("connection"), [
      ["Connection id", facts.connection_id],
      ["Encryption", facts.tls?.version.replace("TLSv", "TLS ") ?? "None: plain HTTP"],
      ["Cipher", facts.tls?.cipher],
      ["Your address", `${facts.client_address}, port ${facts.client_port}`],
      ["Worker", String(facts.worker)],
    ]);
  }

  $("refresh").addEventListener("click", ({ target }) => guard(target, refresh));

  $("end-others").addEventListener("click", ({ target }) => guard(target, async () => {
    await call("DELETE", "/v1/sessions");
    await sessions();
    notify("All other sessions have ended.");
    $("sessions-title").focus();
  }));

  $("log-out").addEventListener("click", ({ target }) => guard(target, async () => {
    await call("POST", "/v1/logout");
    leave();
    notify("You are logged out.");
  }));

  handle($("password"), async ({ current_password, new_password }) => {
    try {
      await call("POST", "/v1/me/password", {
        current_password: current_password.value,
        new_password: new_password.value,
      });
    } catch (error) {
      if (error.status === 401) return guard(null, refresh);
      if (error.status === 403) error.fields = ["current_password"];
      throw error;
    }
    await sessions();
    notify("Password changed. Your other sessions have ended.");
  });

  return { show, refresh, sessions };
}
