// What happens to one's sessions, as it happens: over a WebSocket, or as server-sent events where none can be opened.
// Keeps the list of sessions true, tells the newest in a card of its own, and notices the end of this very session.

import { device } from "./device.js";
import { $, list } from "./dom.js";

const sessionKinds = ["created", "ended", "reauthenticated", "password_changed", "refreshed", "renamed"];
const kinds = [...sessionKinds, "opened", "closed"];
const most = 12;
const ends = {
  logout: "You have logged out in another tab.",
  "ended by user": "This session was ended from another device. Log in again.",
  "password changed": "Your password was changed, which ended this session. Log in again.",
  "too many sessions": "This session was ended by newer ones. Log in again.",
  "ended by operator": "This session was ended by an administrator. Log in again.",
  "password changed by operator": "Your password was changed by an administrator.",
  "disabled by operator": "This account was disabled by an administrator.",
  idle: "This session was not used for too long. Log in again.",
  expired: "This session has come to its end. Log in again.",
};

let current = null; // what is followed now; a later call takes its place

// `sessions` fetches and shows the list, and gives it; `refresh` does that and more; `enter` asks who one is, and says why.
export function follow({ sessions, refresh }, enter) {
  current?.stop();
  const names = new Map();
  const told = [];
  let connection, place, timer, refetching, unexplained, failures = 0, stopped = false;
  const mine = { stop, look };
  current = mine;
  card().replaceChildren();
  connect();

  function stop() {
    stopped = true;
    clearTimeout(timer);
    clearTimeout(refetching);
    clearTimeout(unexplained);
    connection?.close();
    $("account").removeAttribute("data-live");
  }

  function connect() {
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}/v1/events`);
    let opened = false;
    connection = socket;
    socket.onopen = () => {
      opened = true;
      socket.send(JSON.stringify({ id: 1, type: "subscribe", after: place ?? null }));
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.place) place = message.place;
      if (message.type === "begin" || message.type === "reset") begin();
      if (message.type === "event") happened(message.event, message);
      if (message.type === "error") socket.close(); // try again in a while
    };
    socket.onclose = ({ code, reason }) => {
      if (stopped) return;
      if (code === 4401) over(reason.replace("session ended: ", ""));
      else if (opened) again();
      else fallBack();
    };
  }

  function fallBack() {
    const source = new EventSource("/v1/events");
    connection = source;
    for (const kind of ["begin", "reset"]) source.addEventListener(kind, begin);
    for (const kind of kinds) source.addEventListener(kind, ({ data }) => happened(kind, JSON.parse(data)));
    source.addEventListener("session-ended", ({ data }) => {
      source.close();
      over(JSON.parse(data).reason);
    });
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED && !stopped) again(); // else it comes back by itself
    };
  }

  function begin() {
    failures = 0;
    $("account").dataset.live = "";
    refetch(); // what was shown was asked for before
  }

  function again() {
    $("account").removeAttribute("data-live");
    timer = setTimeout(async () => {
      try {
        await refresh();
      } catch (error) {
        if (error.status === 401) return stopped || enter(error.message);
      }
      if (!stopped) connect();
    }, Math.min(30_000, 500 * 2 ** failures++) * (1 + Math.random()));
  }

  function look() {
    if (!connection || connection.readyState > 1) return;
    refetch();
  }

  // A new secret, as after a change of the password, is on its way to this browser, or is there: the session goes on.
  // Whoever is just logging out in this tab is told by the answer to that.
  function over(reason) {
    clearTimeout(unexplained);
    if (reason.includes("secret")) again();
    else if (!$("log-out").disabled && !$("account").hidden) enter(ends[reason] ?? "Your session has ended. Log in again.");
  }

  function happened(kind, { session, at, detail }) {
    if (kind === "created") names.set(session, device(detail.user_agent).words);
    told.unshift({ session, time: new Date(at).toLocaleTimeString(document.documentElement.lang), text: words(kind, detail) });
    told.length = Math.min(told.length, most);
    draw();
    if (sessionKinds.includes(kind)) refetch();
  }

  function draw() {
    list(card(), told.map(({ session, time, text }) => [time, [text, names.get(session)].filter(Boolean).join(": ")]));
  }

  function refetch() {
    clearTimeout(refetching); // several at once are looked up once
    refetching = setTimeout(async () => {
      try {
        for (const each of await sessions()) names.set(each.id, each.name || device(each.user_agent).words);
        draw();
      } catch (error) {
        // The reason may be on its way still: a refusal can overtake it.
        if (error.status === 401 && !stopped && !$("log-out").disabled) unexplained = setTimeout(enter, 700, error.message);
      }
    }, 50);
  }
}

function words(kind, detail) {
  const by = [detail.transport, detail.protocol].filter(Boolean).join(", ");
  return {
    created: `Logged in from ${detail.address ?? "an unknown address"}`,
    ended: `Ended (${detail.reason})`,
    reauthenticated: "Password given again",
    password_changed: "Password changed",
    refreshed: "Tokens renewed",
    renamed: detail.name ? `Named ${detail.name}` : "Name taken back",
    opened: `Connected (${by})`,
    closed: `Disconnected (${by})`,
  }[kind];
}

// Made here, and not in the document, which whoever logs in has to wait for.
function card() {
  if (!$("events")) {
    const [section, title, rows] = ["section", "h2", "dl"].map((tag) => document.createElement(tag));
    Object.assign(section, { className: "card" });
    Object.assign(title, { id: "events-title", textContent: "As it happens" });
    Object.assign(rows, { id: "events", className: "rows", role: "log" });
    section.setAttribute("aria-labelledby", title.id);
    section.append(title, rows);
    document.querySelector(".aside").prepend(section);
  }
  return $("events");
}

// Whoever comes back to this tab sees how things are now.
addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && !$("account").hidden) current?.look();
});
