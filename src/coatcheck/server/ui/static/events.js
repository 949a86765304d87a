// What happens to one's sessions, as it happens: over a WebSocket, or as server-sent events where none can be opened.
// Tells its followers, and comes back by itself. Leaves what is shown of it to them.

const kinds = ["created", "ended", "reauthenticated", "password_changed", "refreshed", "renamed", "opened", "closed"];

let current = null;

// `live` when everything is told from now on, `lost(n)` when the nth try was in vain, `check` to look how things are
// (a promise), `happened(kind, message)`, and `over(reason)` when this very session has ended.
export function follow({ live, lost, check, happened, over }) {
  let connection, place, timer, failures = 0, stopped = false;
  const mine = { stop, look };
  current = mine;
  connect();
  return mine;

  function stop() {
    stopped = true;
    clearTimeout(timer);
    connection?.close();
    if (current === mine) current = null;
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
      if (code === 4401) ended(reason.replace("session ended: ", ""));
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
      ended(JSON.parse(data).reason);
    });
    source.onopen = () => failures && begin();
    source.onerror = () => {
      if (stopped) return;
      if (source.readyState === EventSource.CLOSED) again();
      else lost(failures++); // it comes back by itself, to where it was
    };
  }

  function begin() {
    failures = 0;
    live();
    check(); // what was shown was asked for before
  }

  function again() {
    lost(failures);
    timer = setTimeout(async () => {
      await check();
      if (!stopped) connect();
    }, Math.min(10_000, 300 * 2 ** failures++) * (1 + Math.random()));
  }

  function look() {
    if (connection && connection.readyState <= 1) check();
  }

  // A new secret, as after a change of the password, is on its way to this browser, or is there: the session goes on.
  function ended(reason) {
    if (reason.includes("secret")) again();
    else over(reason);
  }
}

// Whoever comes back to this tab sees how things are now.
addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") current?.look();
});
