// The logged-in views: the way between them, each fetched when it is first looked at, and what happens meanwhile.
// Leaves what a view shows to the module of its name.

import { Problem, call } from "./api.js";
import { $, h, icon, notify, t } from "./dom.js";
import * as sessions from "./sessions.js";

const views = {
  sessions: ["Sessions", "desk", () => sessions],
  connection: ["Connection", "link", () => import("./connection.js")],
  activity: ["Activity", "list", () => import("./activity.js")],
  security: ["Security", "key", () => import("./security.js")],
  admin: ["Admin", "gauge", () => import("./admin.js")],
};
const ends = {
  logout: "You have logged out in another tab.",
  "ended by user": "This session was ended from another device. Log in again.",
  "password changed": "Your password was changed, which ended this session. Log in again.",
  "too many sessions": "This session was ended by newer ones. Log in again.",
  "ended by operator": "This session was ended by an administrator. Log in again.",
  "ended by administrator": "This session was ended by an administrator. Log in again.",
  "password changed by operator": "Your password was changed by an administrator.",
  "disabled by operator": "This account was disabled by an administrator.",
  idle: "This session was not used for too long. Log in again.",
  expired: "This session has come to its end. Log in again.",
};

let page = null; // what app.js offers: `guard`, `enter`, `shown`
let person, following, view, unexplained, turn = 0, cut = false;

export async function open(me, offered) {
  const again = person?.id === me.id && !$("account").hidden;
  page = offered;
  if (again) return refresh();
  person = me;
  if (me.admin === undefined) ({ admin: me.admin } = await call("GET", "/v1/me/security"));
  const known = Object.keys(views).filter((name) => name !== "admin" || me.admin);
  $("account").replaceChildren(
    h("nav", { class: "views", "aria-label": t("Views") },
      known.map((name) => h("a", { href: `#${name}` }, icon(views[name][1]), h("span", null, t(views[name][0]))))),
    h("div", { id: "view", class: "view" }));
  sessions.forget();
  await route(true);
  page.shown();
  title();
  follow();
}

export function close() {
  clearTimeout(unexplained);
  following?.stop();
  view?.close?.();
  [following, view, person] = [null, null, null];
  $("live").textContent = "";
}

// The view that the address names; a later call overtakes an earlier one that is still fetching.
export async function route(first) {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const known = Object.hasOwn(views, name) && (name !== "admin" || person.admin) ? name : "sessions";
  const mine = ++turn;
  for (const link of document.querySelectorAll(".views a")) {
    if (link.hash === `#${known}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const draw = async () => {
    const module = await Promise.resolve(views[known][2]()).catch(() => { throw new Problem(0) });
    const root = h("div", { class: `grid of-${known}` });
    const made = await module.show(root, { me: person, guard: page.guard, quietly, rest });
    if (mine !== turn || !person) return made?.close?.();
    view?.close?.();
    view = made;
    $("view").replaceChildren(root);
    if (first) return;
    title();
    root.querySelector("h1, h2")?.focus();
    scrollTo(0, 0);
  };
  if (first) return draw();
  await page.guard(null, draw);
}

function title() {
  document.title = `${document.querySelector(".views [aria-current]")?.textContent ?? ""} · Coatcheck`;
}

const refresh = async () => view?.refresh?.();

// What nobody asked for, and so says nothing when it fails; but where the session has ended, the reason for that may be
// on its way still: a refusal can overtake it.
async function quietly(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401 && person && !$("log-out").disabled) {
      clearTimeout(unexplained);
      unexplained = setTimeout(() => page.enter(error.message), 700);
    }
  }
}

function follow() {
  import("./events.js").then((events) => {
    if (!person) return;
    following?.stop();
    following = events.follow({
      check: () => quietly(async () => {
        Object.assign(person ?? {}, await call("GET", "/v1/me"));
        await refresh();
      }),
      live() {
        $("live").textContent = t("Live");
        $("account").dataset.live = "";
        view?.happened?.("opened"); // this very connection
        if (cut) notify(t("Connected again."));
        cut = false;
      },
      lost(often) {
        $("account").removeAttribute("data-live");
        if (often < 1) return; // once is a worker that leaves
        cut = true;
        $("live").textContent = t("Reconnecting …");
      },
      happened(kind, message) {
        sessions.tell(kind, message);
        view?.happened?.(kind, message);
      },
      // Whoever is just logging out in this tab is told by the answer to that.
      over(reason) {
        clearTimeout(unexplained);
        if (!$("log-out").disabled && !$("account").hidden) page.enter(t(ends[reason] ?? "Your session has ended. Log in again."));
      },
    });
  }, () => {}); // it does without, if need be
}
