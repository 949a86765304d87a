// The view of security events: what happened to this account, when and from where, the newest first.

import { call } from "./api.js";
import { device } from "./device.js";
import { card, h, icon, t, time } from "./dom.js";
import { words } from "./sessions.js";

const pictures = { created: "key", ended: "hanger", passkey_added: "key", passkey_removed: "key", recovery_codes_made: "list", login_failed: "alert" };

// What is new since it was asked for is put before it; `more` goes back in time.
export async function show(root, { guard, quietly }) {
  const list = h("ol", { class: "list" });
  const more = h("button", { hidden: true, onclick: ({ currentTarget }) => guard(currentTarget, older) }, t("Show older ones"));
  const seen = new Map();
  let next = null, timer;

  // One that is there already may say more by now: how many logins have failed.
  function add(events, place) {
    const fresh = [];
    for (const event of events) {
      const item = entry(event), before = seen.get(event.id);
      seen.set(event.id, item);
      if (before) before.replaceWith(item);
      else fresh.push(item);
    }
    place(...fresh);
  }

  async function older() {
    const page = await call("GET", `/v1/activity?limit=30${next ? `&before=${encodeURIComponent(next)}` : ""}`);
    add(page.events, (...items) => list.append(...items));
    next = page.next;
    more.hidden = !next;
  }

  async function refresh() {
    add((await call("GET", "/v1/activity?limit=30")).events, (...items) => list.prepend(...items));
  }

  root.append(h("h1", { tabindex: "-1" }, t("Security events")),
    h("p", { class: "lead" }, t("What happened to your account in the last 90 days. Something that was not you? End that session, then change your password.")),
    card("history", "The newest first", list, more));
  await older();
  return {
    refresh,
    happened: () => {
      clearTimeout(timer);
      timer = setTimeout(quietly, 300, refresh);
    },
    close: () => clearTimeout(timer),
  };
}

export function entry({ kind, at, by, detail }) {
  const from = [detail.user_agent && device(detail.user_agent).words, kind !== "created" && detail.address, detail.username, by && t("by {0}", by)].filter(Boolean);
  return h("li", null, icon(pictures[kind] ?? "desk"),
    h("div", { class: "what" }, h("h3", null, words(kind, detail)), from.length > 0 && h("p", null, from.join(" · "))),
    h("p", { class: "soft at" }, time(at)));
}
