// Express with express-session on Redis, as their own documentation has it for production, or bare.
// node app.js PORT [redis://…]: answers /anonymous, /read, /write, /login and /logout on 127.0.0.1, and says so in a line.

import express from "express";
import session from "express-session";
import { RedisStore } from "connect-redis";
import { createClient } from "redis";

const [port, redis] = process.argv.slice(2);
const app = express();
app.set("trust proxy", 1); // TLS ends before it: a Secure cookie is set for X-Forwarded-Proto: https
app.disable("x-powered-by");

if (redis !== undefined) {
  const client = createClient({ url: redis });
  await client.connect();
  app.use(
    session({
      store: new RedisStore({ client }),
      secret: "a secret of the benchmark's own, long enough for all",
      resave: false,
      saveUninitialized: false,
      cookie: { secure: true },
    }),
  );
}

const VALUES = { user: "user123", theme: "dark", locale: "en-GB", cart: ["apple", "pear", "plum"], visits: 12 };
let visits = 0;
const ok = (response) => response.type("text/plain").send("ok");

app.get("/anonymous", (request, response) => ok(response));
app.get("/read", (request, response) => {
  if (redis !== undefined && request.session.user !== "user123") {
    return response.status(401).send("nobody");
  }
  return ok(response);
});
app.get("/write", (request, response) => {
  visits += 1;
  request.session.visits = visits;
  ok(response);
});
app.get("/login", (request, response, next) => {
  request.session.regenerate((error) => {
    if (error) return next(error);
    Object.assign(request.session, VALUES);
    return ok(response);
  });
});
app.get("/logout", (request, response, next) => {
  request.session.destroy((error) => (error ? next(error) : ok(response)));
});

app.listen(Number(port), "127.0.0.1", () => console.log("ready"));
