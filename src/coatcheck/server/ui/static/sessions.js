// The view of sessions: where one is logged in, from what and over which connections; names them, ends them.

import { Problem, call } from "./api.js";
import { device } from "./device.js";
import { $, card, clockTime, h, icon, notify, number, rows, t, time, when } from "./dom.js";

const listed = ["created", "ended", "reauthenticated", "password_changed", "refreshed", "renamed", "opened", "closed"];
const most = 12;
const methods = { password: "by password", passkey: "by passkey", recovery_code: "by recovery code", "recovery-code": "by recovery code" };
const transports = { websocket: "WebSocket", sse: "Event stream", stream: "Stream", grpc: "gRPC", graphql: "GraphQL" };

let told = []; // the newest first
const names = new Map();

export function forget() {
  told = [];
  names.clear();
}

// Something has happened: kept here, so that it is there when this view is looked at.
export function tell(kind, { session, at, detail }) {
  if (kind === "created") names.set(session, device(detail.user_agent).words);
  told.unshift({ session, at, text: words(kind, detail) });
  told.length = Math.min(told.length, most);
  draw();
}

export function words(kind, detail) {
  const by = [transports[detail.transport] ?? detail.transport, detail.protocol].filter(Boolean).join(", ");
  return {
    created: () => t("Logged in from {0}", detail.address ?? t("an unknown address")),
    ended: () => t("Ended ({0})", t(detail.reason ?? "")),
    reauthenticated: () => t("Proved again who you are"),
    password_changed: () => t("Password changed"),
    refreshed: () => t("Tokens renewed"),
    renamed: () => (detail.name ? t("Named {0}", detail.name) : t("Name taken back")),
    opened: () => t("Connected ({0})", by),
    closed: () => t("Disconnected ({0})", by),
    passkey_added: () => t("Passkey added: {0}", detail.name ?? ""),
    passkey_removed: () => t("Passkey removed: {0}", detail.name ?? ""),
    recovery_codes_made: () => t("New recovery codes made"),
    recovery_code_used: () => t("A recovery code was used"),
    login_failed: () => (detail.failures === "1" ? t("A login failed") : t("{0} logins failed within an hour", number(Number(detail.failures)))),
    disabled: () => t("Account disabled"),
    enabled: () => t("Account enabled again"),
    made_admin: () => t("Made an administrator"),
    admin_taken: () => t("No longer an administrator"),
    session_ended_by_admin: () => t("A session was ended by an administrator"),
    sessions_ended_by_admin: () => t("All sessions were ended by an administrator"),
    all_sessions_ended: () => t("Everybody’s sessions were ended"),
    keys_rotated: () => t("Keys rotated"),
  }[kind]?.() ?? kind.replaceAll("_", " ");
}

// What a session has open, by kind and protocol.
export function chips(connections) {
  if (!connections?.length) return null;
  return h("ul", { class: "chips", "aria-label": t("Live connections") }, connections.map(({ kind, protocol, count }) =>
    h("li", null, [transports[kind] ?? kind, protocol, count > 1 && `×${count}`].filter(Boolean).join(" "))));
}

function draw() {
  if (!$("events")) return;
  $("quiet").hidden = told.length > 0;
  $("events").replaceChildren(...rows(told.map(({ session, at, text }) => [clockTime(at), [text, names.get(session)].filter(Boolean).join(": ")])));
}

export async function show(root, { me, guard, quietly }) {
  const others = h("button", { class: "danger", id: "end-others", hidden: true, onclick: ({ currentTarget }) => guard(currentTarget, endOthers) }, t("End all others"));
  const count = h("span", { class: "count" });
  const list = h("ul", { id: "sessions", role: "list" });
  const facts = h("dl", { class: "facts" });
  const number = h("p", { class: "number" });
  let renaming = false, timer, late, drawn;

  async function refresh() {
    const all = (await call("GET", "/v1/sessions")).sessions;
    all.sort((a, b) => b.current - a.current || b.last_seen_at.localeCompare(a.last_seen_at));
    if (!all[0]?.current) throw new Problem(401); // it ended while it was asking
    for (const each of all) names.set(each.id, each.name || device(each.user_agent).words);
    const [here] = all;
    number.textContent = here.id;
    facts.replaceChildren(...rows([
      [t("This device"), device(here.user_agent).words],
      [t("Logged in"), when(here.created_at)],
      [t("Ends at the latest"), when(here.expires_at)],
    ]));
    count.textContent = all.length;
    others.hidden = all.length < 2;
    draw();
    const now = JSON.stringify(all);
    if (renaming || now === drawn) return; // what is being written is not taken away
    drawn = now;
    const focused = document.activeElement.id;
    list.replaceChildren(...all.map(row));
    if (focused) $(focused)?.focus();
  }

  function row(session) {
    const { words, kind } = device(session.user_agent);
    const called = session.name || words;
    const title = h("h3", null, h("span", null, called), session.current && h("span", { class: "here" }, t("This one")));
    const rename = h("button", { id: `name-${session.id}`, class: "quiet", "aria-label": t("Rename {0}", called), onclick: () => edit(session, title, called) }, t("Rename"));
    const how = [t(session.kind === "token" ? "Token" : "Cookie"), t(methods[session.method] ?? session.method ?? "")].filter(Boolean).join(", ");
    return h("li", { class: session.current && "mine" }, icon(kind),
      h("div", { class: "what" }, title,
        session.name && h("p", null, words),
        h("p", null, [session.address || t("Address unknown"), how].join(" · ")),
        h("p", null, t("Last seen"), " ", time(session.last_seen_at)),
        h("p", null, t("Logged in"), " ", time(session.created_at)),
        chips(session.connections)),
      h("div", { class: "actions" }, rename,
        // This one ends by logging out.
        !session.current && h("button", { id: session.id, class: "danger", "aria-label": t("End {0}, logged in {1}", called, when(session.created_at)),
          onclick: ({ currentTarget }) => guard(currentTarget, () => end(session, called)) }, t("End"))));
  }

  function edit(session, title, called) {
    if (renaming) return;
    renaming = true;
    const input = h("input", { value: session.name ?? "", maxlength: 100, placeholder: called, "aria-label": t("Name of this device") });
    const form = h("form", { class: "inline", onsubmit: (event) => {
      event.preventDefault();
      guard(form.querySelector("button"), async () => {
        await call("PATCH", `/v1/sessions/${session.id}`, { name: input.value.trim() });
        await done();
      });
    } }, input, h("button", { class: "primary" }, t("Save")), h("button", { type: "button", onclick: () => done() }, t("Cancel")));
    form.addEventListener("keydown", ({ key }) => key === "Escape" && done());
    title.replaceWith(form);
    input.focus();
    const done = async () => {
      renaming = false;
      drawn = null;
      await guard(null, refresh);
      $(`name-${session.id}`)?.focus();
    };
  }

  async function end(session, called) {
    await call("DELETE", `/v1/sessions/${session.id}`).catch((error) => {
      if (error.status !== 404) throw error; // ended already: as good
    });
    await refresh();
    notify(t("Ended: {0}.", called));
    $("sessions-title").focus();
  }

  async function endOthers() {
    await call("DELETE", "/v1/sessions");
    await refresh();
    notify(t("All other sessions have ended."));
    $("sessions-title").focus();
  }

  const title = h("h2", { id: "sessions-title", tabindex: "-1" }, t("Sessions"), " ", count);
  root.append(
    h("div", { class: "ticket" },
      h("div", null, h("p", { class: "label" }, t("Logged in as")), h("h1", { tabindex: "-1", id: "account-title" }, me.name || me.username),
        h("p", { class: "username" }, me.name === me.username ? "" : me.username), facts),
      h("div", { class: "stub" }, h("div", null, h("p", { class: "label" }, t("Session")), number), icon("hanger"))),
    h("section", { class: "card sessions", "aria-labelledby": "sessions-title" }, h("header", null, title, others), list,
      h("p", { class: "hint" }, t("Devices are named by what they say of themselves. What you end here is refused from its next request on."))),
    card("events", "As it happens", h("div", { class: "log", role: "log", tabindex: "0", "aria-labelledby": "events-title" }, h("p", { class: "soft", id: "quiet" }, t("Nothing yet.")), h("dl", { id: "events", class: "rows" }))));
  await refresh();
  setTimeout(draw); // once it is in the document

  return {
    refresh,
    happened(kind) {
      if (!listed.includes(kind)) return;
      clearTimeout(timer); // several at once are looked up once
      if (kind === "opened" || kind === "closed") {
        clearTimeout(late); // workers tell each other once a second what they have open
        late = setTimeout(quietly, 1500, refresh);
      }
      timer = setTimeout(quietly, 50, refresh);
    },
    close() {
      clearTimeout(timer);
      clearTimeout(late);
    },
  };
}
