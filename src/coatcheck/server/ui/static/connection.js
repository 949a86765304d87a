// The view of this connection: what brought this page, twenty requests more as a picture, and the two credentials explained.

import { call } from "./api.js";
import { card, h, number, rows, s, t, when } from "./dom.js";

const REQUESTS = 20;

export async function show(root, { guard }) {
  const reading = h("p", { class: "reading" });
  const facts = h("dl", { class: "rows", id: "connection" });
  const picture = h("figure", { class: "picture", hidden: true });
  const inTurn = h("input", { type: "checkbox" });
  const send = h("button", { class: "primary", onclick: ({ currentTarget }) => guard(currentTarget, more) }, t("Send twenty more"));
  let cookie, token;

  async function refresh() {
    const now = await call("GET", "/v1/connection");
    reading.replaceChildren(h("strong", null, now.protocol), h("span", null, t("Requests so far:"), " ", h("b", null, now.requests)));
    facts.replaceChildren(...rows([
      [t("Connection id"), now.connection_id],
      [t("Encryption"), now.tls?.version.replace("TLSv", "TLS ") ?? t("None: plain HTTP")],
      [t("Cipher"), now.tls?.cipher],
      [t("Your address"), t("{0}, port {1}", now.client_address, now.client_port)],
      [t("Worker"), String(now.worker)],
    ]));
  }

  async function more() {
    const requests = [];
    const one = async (index) => {
      const path = `/v1/connection?n=${index}`;
      const request = { from: performance.now(), path };
      requests.push(request);
      request.answer = await call("GET", path);
      request.to = performance.now();
    };
    performance.clearResourceTimings();
    if (inTurn.checked) for (let index = 0; index < REQUESTS; index++) await one(index);
    else await Promise.all(Array.from({ length: REQUESTS }, (_, index) => one(index)));
    // When each really went out, and whether a connection was made for it: a call may wait in the browser first.
    for (const seen of performance.getEntriesByType("resource")) {
      const request = requests.find(({ path }) => seen.name.endsWith(path));
      if (request && seen.requestStart) {
        Object.assign(request, { from: seen.requestStart, to: seen.responseEnd });
        if (seen.connectEnd > seen.connectStart) request.made = [seen.connectStart, seen.connectEnd];
      }
    }
    draw(requests);
    await refresh();
  }

  function draw(requests) {
    const first = Math.min(...requests.map(({ from, made }) => made?.[0] ?? from));
    const span = Math.max(...requests.map(({ to }) => to)) - first || 1;
    const width = 640, left = 8, x = (at) => left + ((at - first) / span) * (width - 2 * left);
    const connections = Map.groupBy(requests.sort((a, b) => a.from - b.from), ({ answer }) => answer.connection_id);
    const drawing = [];
    let y = 4;
    for (const [id, carried] of connections) {
      const lanes = []; // when each lane is free again
      const bars = carried.map(({ from, to, made }) => {
        let lane = lanes.findIndex((free) => free <= from);
        if (lane < 0) lane = lanes.length;
        lanes[lane] = to;
        return [from, to, lane, made];
      });
      const top = y + 18, height = lanes.length * 8 + 4;
      drawing.push(s("text", { x: left, y: y + 12 }, `${carried[0].answer.protocol} · ${id} · ${asked(carried.length)}`),
        s("rect", { class: "lane", x: 0, y: top, width, height, rx: 5 }));
      for (const [from, to, lane, made] of bars) {
        const bar = (kind, a, b) => s("rect", { class: kind, x: x(a), y: top + 3 + lane * 8, width: Math.max(2, x(b) - x(a) - 1), height: 6, rx: 2 });
        if (made) drawing.push(bar("made", ...made));
        drawing.push(bar("sent", from, to));
      }
      y = top + height + 8;
    }
    const words = said(requests, connections);
    drawing.push(s("text", { x: left, y: y + 10 }, "0 ms"), s("text", { x: width - left, y: y + 10, "text-anchor": "end" }, `${Math.round(span)} ms`));
    picture.replaceChildren(
      s("svg", { class: "timeline", viewBox: `0 0 ${width} ${y + 16}`, role: "img", "aria-label": words }, drawing),
      h("figcaption", { id: "answer" }, words));
    picture.hidden = false;
  }

  const asked = (count) => (count === 1 ? t("1 request") : t("{0} requests", count));

  function said(requests, connections) {
    const latest = requests.some((each, index) => index && each.from < requests[index - 1].to);
    const made = requests.filter((each) => each.made).length;
    const answers = [connections.size === 1
      ? t("{0} requests over one connection.", requests.length)
      : t("{0} requests over {1} connections.", requests.length, connections.size)];
    if (connections.size === 1 && latest) answers.push(t("They were under way at the same time: it was multiplexed."));
    else if (connections.size === 1) answers.push(t("One after the other: it was reused."));
    else if (!latest) answers.push(t("One after the other, over any that was free."));
    else answers.push(t("This version carries one request at a time on each, so the browser opened several and reused them."));
    answers.push(made === 0 ? t("None was made anew.") : made === 1 ? t("One was made anew.") : t("{0} were made anew.", made));
    return answers.join(" ");
  }

  const shown = h("div", { class: "told" }), read = h("div", { class: "told" });
  root.append(
    h("h1", { tabindex: "-1" }, t("This connection")),
    card("requests", "Does every request make a new one?",
      h("p", { class: "soft" }, t("Sends twenty small requests and draws each where it was carried: one band for each connection.")),
      h("div", { class: "inline" }, send, h("label", { class: "check" }, inTurn, h("span", null, t("one after the other")))), picture),
    card("connection", "What brought this page", reading, facts,
      h("button", { onclick: ({ currentTarget }) => guard(currentTarget, refresh) }, t("Refresh"))),
    h("div", { class: "wide halves" }, card("cookie", "The cookie, as it was set", shown), card("token", "An access token, beside it", read)));
  const [credentials] = await Promise.all([call("GET", "/page/credentials"), refresh()]);
  cookie = credentials.cookie;
  token = credentials.access_token;
  explainCookie(shown, cookie);
  await explainToken(read, token);
  return { refresh };
}

const attributes = {
  Path: "Sent with every path of this host.",
  Secure: "Sent over TLS only, so that nobody on the way can read it.",
  HttpOnly: "Scripts cannot read it, this page's own included: what is injected cannot steal it.",
  SameSite: "Lax: other sites' forms, frames and requests are sent without it; a link that is followed has it.",
  "Max-Age": "The browser keeps it so many seconds, also when it is closed: that is “remember me”.",
};

function explainCookie(root, { name, header, attributes: set, length }) {
  const host = name.startsWith("__Host-")
    ? t("The prefix __Host- makes the browser insist: set over TLS, by this very host, for all of it.")
    : t("Plain HTTP, on this machine only: without TLS a cookie can have no prefix and no Secure.");
  const explained = set.map(([key, value]) => [value ? `${key}=${value}` : key, h("p", null, t(attributes[key] ?? ""))]);
  if (!set.some(([key]) => key === "Max-Age")) explained.push(["Max-Age", h("p", null, t("Not set: the cookie goes when the browser is closed."))]);
  if (!set.some(([key]) => key === "Domain")) explained.push(["Domain", h("p", null, t("Not set: no other host gets it, subdomains included."))]);
  root.append(h("code", { class: "code" }, header), h("dl", { class: "rows" }, rows([
    [name, h("p", null, host)],
    [t("Value"), h("p", null, t("{0} characters: a public id and 256 random bits. It says nothing of you; the server keeps only their hash.", length))],
    ...explained,
  ])));
}

const claims = {
  typ: "An access token, and no other kind of JWT.",
  alg: "How it is signed. A verifier takes only what it was told to.",
  kid: "Which public key: of those at /.well-known/jwks.json.",
  iss: "Who issued it: this server.",
  sub: "You.",
  aud: "For whom. This one is for nobody, made to be looked at.",
  sid: "Your session: when that ends, this token ends, though it is signed.",
  gen: "How often the session's secret has changed: an older token is over.",
  exp: "When it is over by itself.",
  iat: "When it was issued.",
  auth_time: "When you proved who you are.",
  jti: "The token's own name.",
  client_id: "Which client asked.",
  amr: "How you proved who you are.",
};

async function explainToken(root, token) {
  const [head, body, signature] = token.split(".");
  const decoded = [head, body].map((part) => JSON.parse(new TextDecoder().decode(bytes(part))));
  const good = await verified(decoded[0], `${head}.${body}`, bytes(signature)).catch(() => null);
  const list = (part) => h("dl", { class: "rows" }, rows(Object.entries(part).map(([name, value]) => [name,
    [["exp", "iat", "auth_time"].includes(name) ? `${value} = ${when(value * 1000)}` : String(value), h("p", null, t(claims[name] ?? ""))]])));
  root.append(
    h("code", { class: "code" }, `${head.slice(0, 18)}….${body.slice(0, 30)}….${signature.slice(0, 12)}…`),
    h("p", { class: "soft" }, t("Anybody can read it: signed is not encrypted. {0} characters, where the cookie has less than a hundred.", number(token.length))),
    ...decoded.map(list),
    h("p", { class: good ? "here" : "here bad" }, good ? t("Signature right, checked by this browser") : good === false ? t("Signature wrong") : t("This browser cannot check the signature")),
    h("p", { class: "soft" }, t("What a server checks: the signature by a known key, typ, iss, aud and exp; and here, that the session still lives.")));
}

const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (each) => each.charCodeAt(0));

async function verified({ alg, kid }, signed, signature) {
  const { keys } = await call("GET", "/.well-known/jwks.json");
  const { kty, crv, x, y } = keys.find((key) => key.kid === kid);
  const algorithm = alg === "ES256" ? { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } : { name: "Ed25519" };
  const key = await crypto.subtle.importKey("jwk", { kty, crv, x, ...(y && { y }) }, algorithm, false, ["verify"]);
  return crypto.subtle.verify(algorithm, key, signature, new TextEncoder().encode(signed));
}
