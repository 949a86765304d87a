// Which view is shown, and why: asks who one is, then shows the login forms, the account, or that nobody answers.

import { account } from "./account.js";
import { Problem, call } from "./api.js";
import { $, notify, put } from "./dom.js";
import { complain, handle } from "./forms.js";

const views = ["welcome", "account", "away"].map($);
const home = account(guard, leave);

// Runs an action of the logged-in view. A session that has ended, wherever that was done, leads to the login view;
// a request that was overtaken by a new secret, in another tab, does not.
async function guard(button, action) {
  if (button?.disabled) return;
  if (button) button.disabled = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) await enter(error.message);
    else notify(error.message);
  } finally {
    if (button) button.disabled = false;
  }
}

function show(view, title) {
  const before = views.find((each) => !each.hidden);
  for (const each of views) each.hidden = each.id !== view;
  document.title = `${title} · Coatcheck`;
  if (before && before.id !== view) $(`${view}-title`).focus(); // not at first, when the reader starts at the top
}

function leave() {
  $("password").reset();
  location.hash = "#log-in";
  form();
}

// Log in or sign up, by the address: so that both can be linked to, and Back goes back.
function form() {
  const signUp = location.hash === "#sign-up";
  $("log-in").hidden = signUp;
  $("sign-up").hidden = !signUp;
  for (const link of document.querySelectorAll(".switch a")) {
    link.setAttribute("aria-current", (link.hash === "#sign-up") === signUp);
  }
  show("welcome", signUp ? "Sign up" : "Log in");
}

async function enter(why) {
  try {
    await home.show(await call("GET", "/v1/me"));
    history.replaceState(null, "", "/");
    show("account", "Your sessions");
    import("./events.js").then(({ follow }) => follow(home, enter), () => {}); // it does without, if need be
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return why ? (leave(), complain($("log-in"), why)) : form();
    put($("away"), { away: error.message });
    show("away", "No answer");
  }
}

async function logIn(fields) {
  const body = { username: fields.username.value, password: fields.password.value, remember: fields.remember.checked };
  await call("POST", "/v1/login", body);
  await enter();
}

handle($("log-in"), async (fields) => {
  try {
    await logIn(fields);
  } catch (error) {
    if (error.status === 401) error.message = "Username and password do not match.";
    throw error;
  }
});

handle($("sign-up"), async (fields) => {
  const body = { username: fields.username.value, password: fields.password.value, name: fields.name.value };
  await call("POST", "/v1/users", body);
  await logIn(fields);
  notify("Welcome. Your account is ready.");
});

$("again").addEventListener("click", ({ target }) => guard(target, enter));
addEventListener("hashchange", () => $("welcome").hidden || form());
enter();
