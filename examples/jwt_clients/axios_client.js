// Goes through what a client of tokens goes through, and fails where an answer is not the one it should be:
//   node axios_client.js http://localhost:8000

import assert from "node:assert/strict";
import axios from "axios";
import { SessionOver, logIn, withTokens } from "./tokens_axios.js";

// axios puts the whole request into its errors, passwords and tokens included: only the message is printed.
process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(1);
});

const baseURL = process.argv[2] ?? "http://localhost:8000";
const john = { id: "123", name: "John Doe" };

async function profile(token) {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  const response = await axios.get("/profile", { baseURL, headers, validateStatus: () => true });
  return response.status === 200 ? response.data : response.status;
}

function tell(text, value) {
  console.log(`${text}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
}

const tokens = await logIn(baseURL, "john", "a coat, a hat, an umbrella");
assert.deepEqual(Object.keys(tokens).sort(), ["access_token", "expires_in", "refresh_token", "token_type"]);
tell("logged in, seconds", tokens.expires_in);

assert.deepEqual(await profile(tokens.access_token), john);
tell("profile", john);
assert.equal(await profile(), 401);
tell("profile without a token", 401);

const [header, payload, signature] = tokens.access_token.split(".");
const claims = { ...JSON.parse(Buffer.from(payload, "base64url")), sub: "124" };
const forged = Buffer.from(JSON.stringify(claims)).toString("base64url");
const unsigned = Buffer.from(JSON.stringify({ alg: "none", typ: "at+jwt" })).toString("base64url");
assert.equal(await profile(`${header}.${forged}.${signature}`), 401);
assert.equal(await profile(`${unsigned}.${forged}.`), 401);
tell("profile with a forged token", 401);

// As if the access token had run out: five requests at once, one exchange.
const stored = [];
const worn = { ...tokens, access_token: `${header}.${payload}.${"A".repeat(86)}` };
const client = withTokens(baseURL, worn, async (fresh) => stored.push(fresh));
const answers = await Promise.all(Array.from({ length: 5 }, () => client.get("/profile")));
for (const answer of answers) assert.deepEqual(answer.data, john);
assert.equal(stored.length, 1);
assert.notEqual(stored[0].refresh_token, tokens.refresh_token);
tell("exchanges for five requests", stored.length);

assert.equal((await client.post("/logout")).status, 204);
assert.equal(await profile(stored[0].access_token), 401);
assert.equal(await profile(tokens.access_token), 401);
tell("profile after logging out", 401);
await assert.rejects(client.get("/profile"), SessionOver);
tell("the client says", "session over");
