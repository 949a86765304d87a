// The reference clients of graphql-ws and graphql-sse, told of a session's end: node clients.js URL COOKIE USERNAME PASSWORD
import { createClient as createStream } from "graphql-sse";
import { createClient as createSocket } from "graphql-ws";
import WebSocket from "ws";

const [url, cookie, username, password] = process.argv.slice(2);
const query = "subscription { sessionEvents { kind } }";

async function ask(query, variables = {}, headers = {}) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/graphql-response+json", ...headers },
    body: JSON.stringify({ query, variables }),
  });
  return await answer.json();
}

function say(line) {
  console.log(line);
}

function listen(client, name, begun) {
  return new Promise((resolve) => {
    client.subscribe(
      { query },
      {
        next: ({ data }) => {
          if (data.sessionEvents.kind === "BEGIN") {
            say(`${name}: BEGIN`);
            begun();
          }
        },
        error: (error) => resolve(say(`${name}: ${error.code ?? error.message} ${error.reason ?? ""}`.trim())),
        complete: () => resolve(say(`${name}: complete`)),
      },
    );
  });
}

class WithCookie extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { headers: { cookie } });
  }
}

// By cookie, over a WebSocket and as a stream.
const socket = createSocket({ url: url.replace("http", "ws"), webSocketImpl: WithCookie, retryAttempts: 5 });
const stream = createStream({ url, headers: { cookie }, retryAttempts: 0 });
let over;
await new Promise((begun) => (over = [listen(socket, "graphql-ws", begun)]));
await new Promise((begun) => over.push(listen(stream, "graphql-sse", begun)));
say(`logout: ${JSON.stringify(await ask("mutation { logout }", {}, { cookie }))}`);
await Promise.all(over);

// By an access token in connection_init; then by one that is worth nothing any more, tried again with a new one.
const login = "mutation ($u: String!, $p: String!) { login(username: $u, password: $p, mode: TOKEN) { tokens { accessToken } } }";
const token = async () => (await ask(login, { u: username, p: password })).data.login.tokens.accessToken;
const dead = await token();
await ask("mutation { logout }", {}, { authorization: `Bearer ${dead}` });
const tokens = [dead, await token()];
let given;
const codes = [];
const program = createSocket({
  url: url.replace("http", "ws"),
  webSocketImpl: WebSocket,
  connectionParams: () => ({ authorization: `Bearer ${(given = tokens.shift())}` }),
  retryAttempts: 1,
  retryWait: async () => {},
  on: { closed: (event) => codes.push(event.code) },
});
await new Promise((begun) => (over = [listen(program, "connection_init", begun)]));
await ask("mutation { logout }", {}, { authorization: `Bearer ${given}` });
await Promise.all(over);
say(`codes: ${codes}`);
