// The views of an administrator: how the server is, its users and their sessions, its keys, what administrators did.

import { call } from "./api.js";
import { entry } from "./activity.js";
import { device } from "./device.js";
import { card, h, icon, notify, number, rows, t, time, when } from "./dom.js";
import { area, bars, line } from "./plots.js";
import { chips } from "./sessions.js";

const EVERY = 2000;
const KEPT = 60;
const tabs = [["", "Overview"], ["users", "Users"], ["keys", "Keys"], ["log", "Log"]];

export async function show(root, { guard, rest }) {
  const [tab = "", id] = rest;
  root.append(h("h1", { tabindex: "-1" }, t("Administration")),
    h("nav", { class: "tabs", "aria-label": t("Administration") }, tabs.map(([name, words]) =>
      h("a", { href: name ? `#admin/${name}` : "#admin", "aria-current": name === tab && "page" }, t(words)))));
  return (id ? user : { users, keys, log }[tab] ?? overview)(root, guard, id);
}

// Looked at every two seconds while the page is seen; rates are differences of counters.
async function overview(root, guard) {
  const tiles = h("div", { class: "tiles" });
  const seen = [];
  let timer, stopped = false;

  async function look() {
    if (!document.hidden) {
      seen.push(await call("GET", "/v1/admin/overview"));
      if (seen.length > KEPT) seen.shift();
      draw();
    }
  }

  async function again() {
    if (stopped) return;
    await guard(null, look);
    timer = setTimeout(again, EVERY);
  }

  const rate = (pick) => seen.slice(1).map((now, index) => {
    const seconds = (new Date(now.at) - new Date(seen[index].at)) / 1000;
    return seconds > 0 ? Math.max(0, pick(now) - pick(seen[index])) / seconds : 0;
  });
  const values = (pick) => seen.map(pick);
  const open = ({ connections }) => Object.values(connections).reduce((sum, each) => sum + each, 0);
  const tile = (title, value, ...more) => h("section", { class: "card tile" }, h("h2", null, t(title)), h("strong", null, value), more);
  const note = (...texts) => h("p", { class: "soft" }, texts.filter(Boolean).join(" · "));
  const ms = (seconds) => `${number(Math.round(seconds * 10000) / 10)} ms`;

  function draw() {
    const now = seen.at(-1), { counters } = now;
    const requests = rate((each) => each.counters.requests);
    const asked = counters.cache_hits + counters.cache_misses;
    const calls = (each) => Object.values(each.store).reduce((sum, step) => [sum[0] + step.calls, sum[1] + step.seconds, sum[2] + step.failures], [0, 0, 0]);
    // Where nothing was asked meanwhile, as it was last.
    const latency = seen.slice(1).reduce((list, each, index) => {
      const [after, before] = [calls(each), calls(seen[index])];
      return [...list, after[0] > before[0] ? (after[1] - before[1]) / (after[0] - before[0]) : (list.at(-1) ?? 0)];
    }, []);
    const lag = ({ nodes }) => Math.max(0, ...nodes.map((node) => node.feed_lag_s));
    const versions = Object.entries(now.http);
    const kinds = Object.entries(now.connections).filter(([, count]) => count);
    tiles.replaceChildren(...[
      tile("Requests a second", number(Math.round((requests.at(-1) ?? 0) * 10) / 10), area(requests), note(t("{0} in all", number(counters.requests)), t("{0} errors", number(counters.errors)))),
      tile("Sessions", number(counters.sessions_created - counters.sessions_ended), line(values((each) => each.counters.sessions_created - each.counters.sessions_ended)), note(t("{0} begun", number(counters.sessions_created)), t("{0} ended since the start", number(counters.sessions_ended)))),
      tile("Users", number(now.users.total), note(t("{0} disabled", number(now.users.disabled)))),
      tile("Live connections", number(open(now)), area(values(open)), note(...kinds.map(([kind, count]) => `${kind} ${number(count)}`))),
      tile("Cache hits", asked ? `${number(Math.round((1000 * counters.cache_hits) / asked) / 10)} %` : "–", line(rate((each) => each.counters.cache_hits)), note(t("{0} of {1}", number(counters.cache_hits), number(asked)))),
      tile("Store, one step", ms(latency.at(-1) ?? 0), line(latency), note(t("{0} steps", number(calls(now)[0])), t("{0} failed", number(calls(now)[2])))),
      tile("Feed lag", ms(lag(now)), line(values(lag)), note(...now.nodes.map(({ worker, lease_left_s }) => t("worker {0}: lease {1} s", worker, number(Math.round(lease_left_s * 10) / 10))))),
      tile("Logins in 24 hours", number(total(now, "logins")), bars(hours(now, "logins")), note(t("{0} since the start", number(counters.logins)))),
      tile("Failed logins in 24 hours", number(total(now, "failures")), bars(hours(now, "failures")), note(t("{0} since the start", number(counters.failed_logins)))),
      versions.length > 0 && h("section", { class: "card tile whole" }, h("h2", null, t("By version of HTTP, since the start")), table(["Version", "Open", "Connections", "Requests", "Requests for each"],
        versions.map(([version, { connections, requests: carried, open }]) => [version, number(open), number(connections), number(carried), connections ? number(Math.round((10 * carried) / connections) / 10) : "–"]), 1)),
    ].filter(Boolean));
  }

  root.append(tiles);
  await look();
  timer = setTimeout(again, EVERY);
  return {
    close() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

const total = ({ hours }, what) => hours.reduce((sum, each) => sum + each[what], 0);

// The last 24 hours, those in which there was nothing to count too.
function hours({ at, hours }, what) {
  const known = new Map(hours.map((each) => [Math.floor(new Date(each.hour) / 3_600_000), each[what]]));
  const last = Math.floor(new Date(at) / 3_600_000);
  return Array.from({ length: 24 }, (_, index) => known.get(last - 23 + index) ?? 0);
}

function table(heads, lines, amountsFrom = heads.length) {
  return h("div", { class: "wide-table", tabindex: "0", role: "region", "aria-label": t("Table") }, h("table", null,
    h("thead", null, h("tr", null, heads.map((head, index) => h("th", { scope: "col", class: index >= amountsFrom && "amount" }, t(head))))),
    h("tbody", null, lines.map((line) => h("tr", null, line.map((cell, index) => h("td", { class: index >= amountsFrom && "amount" }, cell)))))));
}

const badge = (words, bad) => h("span", { class: bad ? "here bad" : "here" }, t(words));

async function users(root, guard) {
  const results = h("div");
  const search = h("input", { type: "search", name: "query", "aria-label": t("Username or name"), placeholder: t("Username or name") });
  const more = h("button", { hidden: true, onclick: ({ currentTarget }) => guard(currentTarget, () => look(next)) }, t("Show more"));
  let next = null, found = [], asked = 0, timer;

  async function look(after) {
    const mine = ++asked;
    const query = new URLSearchParams({ query: search.value.trim(), limit: 50, ...(after && { after }) });
    const page = await call("GET", `/v1/admin/users?${query}`);
    if (mine !== asked) return; // something else was typed meanwhile
    found = after ? [...found, ...page.users] : page.users;
    next = page.next;
    more.hidden = !next;
    results.replaceChildren(found.length === 0 ? h("p", { class: "soft" }, t("Nobody is called that.")) : table(["User", "Since", "Sessions"], found.map((each) => [
      h("div", null, h("a", { href: `#admin/users/${each.id}` }, each.username), each.admin && badge("Administrator"), each.disabled && badge("Disabled", true),
        each.name !== each.username && h("p", { class: "soft" }, each.name)),
      when(each.created_at), number(each.sessions)]), 2));
  }

  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => guard(null, () => look()), 200);
  });
  const all = h("button", { class: "danger", onclick: ({ currentTarget }) => guard(currentTarget, async () => {
    if (!(await sure(t("End the sessions of everybody but this one?"), t("End all sessions")))) return;
    const { ended } = await call("DELETE", "/v1/admin/sessions");
    notify(t("{0} sessions have ended.", number(ended)));
    await look();
  }) }, t("End everybody’s sessions"));
  root.append(card("users", "Users", h("form", { class: "inline", role: "search", onsubmit: (event) => event.preventDefault() }, search), results, more), h("div", { class: "inline" }, all));
  await look();
  return { refresh: () => look() };
}

async function user(root, guard, id) {
  const place = h("div", { class: "grid" });
  root.append(place);

  async function refresh() {
    const found = await call("GET", `/v1/admin/users/${id}`);
    const change = (words, body, said, danger) => h("button", { class: danger && "danger", onclick: ({ currentTarget }) => guard(currentTarget, async () => {
      await call("PATCH", `/v1/admin/users/${id}`, body);
      await refresh();
      notify(t(said));
    }) }, t(words));
    const all = h("button", { class: "danger", disabled: found.live.length === 0, onclick: ({ currentTarget }) => guard(currentTarget, async () => {
      const { ended } = await call("DELETE", `/v1/admin/users/${id}/sessions`);
      await refresh();
      notify(t("{0} sessions have ended.", number(ended)));
    }) }, t("End all sessions"));
    place.replaceChildren(
      h("section", { class: "card", "aria-labelledby": "who" },
        h("header", null, h("h2", { id: "who", tabindex: "-1" }, found.name, found.admin && badge("Administrator"), found.disabled && badge("Disabled", true)),
          h("div", { class: "actions" },
            found.disabled ? change("Enable", { disabled: false }, "The account is enabled again.") : change("Disable", { disabled: true }, "The account is disabled, and its sessions have ended.", true),
            found.admin ? change("No longer an administrator", { admin: false }, "No longer an administrator.") : change("Make an administrator", { admin: true }, "An administrator from now on."))),
        h("dl", { class: "rows" }, rows([[t("Username"), found.username], [t("Id"), found.id], [t("Since"), when(found.created_at)]]))),
      h("section", { class: "card", "aria-labelledby": "theirs" }, h("header", null, h("h2", { id: "theirs" }, t("Sessions"), " ", h("span", { class: "count" }, found.live.length)), all),
        h("ul", { class: "list" }, found.live.map((session) => {
          const { words, kind } = device(session.user_agent);
          return h("li", null, icon(kind), h("div", { class: "what" }, h("h3", null, session.name || words, session.current && badge("This one")),
            h("p", null, [session.address || t("Address unknown"), t(session.kind === "token" ? "Token" : "Cookie")].join(" · ")),
            h("p", null, t("Last seen"), " ", time(session.last_seen_at)), chips(session.connections)),
            !session.current && h("div", { class: "actions" }, h("button", { class: "danger", "aria-label": t("End {0}, logged in {1}", words, when(session.created_at)), onclick: ({ currentTarget }) => guard(currentTarget, async () => {
              await call("DELETE", `/v1/admin/sessions/${session.id}`);
              await refresh();
              notify(t("Ended: {0}.", words));
            }) }, t("End"))));
        }))),
      card("history", "What happened", h("ol", { class: "list" }, found.events.map(entry))));
  }

  await refresh();
  return { refresh };
}

async function keys(root, guard) {
  const place = h("div");
  async function draw({ keys: all }) {
    place.replaceChildren(table(["Key", "State", "Signs from", "until"], all.map((key) =>
      [h("span", { class: "number" }, key.kid), h("div", null, badge(key.state, false), h("span", { class: "soft" }, ` ${key.algorithm}`)), when(key.signs_from), key.signs_until ? when(key.signs_until) : t("as long as none follows")])));
  }
  root.append(card("keys", "Keys", h("p", { class: "soft" }, t("Access tokens are signed with these. A new one is announced first, so that every verifier has seen it when it begins to sign; an old one verifies until its last token is over.")), place,
    h("button", { onclick: ({ currentTarget }) => guard(currentTarget, async () => {
      await draw(await call("POST", "/v1/admin/keys/rotate", {}));
      notify(t("A new key is announced."));
    }) }, t("Rotate keys"))));
  const refresh = async () => draw(await call("GET", "/v1/admin/keys"));
  await refresh();
  return { refresh };
}

async function log(root, guard) {
  const list = h("ol", { class: "list" });
  const more = h("button", { hidden: true, onclick: ({ currentTarget }) => guard(currentTarget, look) }, t("Show older ones"));
  let next = null;
  async function look() {
    const page = await call("GET", `/v1/admin/log${next ? `?before=${encodeURIComponent(next)}` : ""}`);
    list.append(...page.events.map(entry));
    next = page.next;
    more.hidden = !next;
    if (!list.childElementCount) list.append(h("li", { class: "soft" }, t("Nothing yet.")));
  }
  root.append(card("log", "What administrators did", list, more));
  await look();
  return {};
}

// Asks before what cannot be taken back.
function sure(question, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "card", "aria-label": question, onclose: () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    } }, h("form", { method: "dialog" }, h("h2", null, question), h("div", { class: "inline" }, h("button", { class: "danger", value: "yes" }, yes), h("button", { value: "" }, t("Cancel")))));
    document.body.append(dialog);
    dialog.showModal();
  });
}
