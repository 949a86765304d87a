// Which view is shown, and why: asks who one is, then shows the login forms, the account, or that nobody answers.

import { Problem, call } from "./api.js";
import { $, language, notify, speak, t } from "./dom.js";
import { complain, handle } from "./forms.js";

const views = ["welcome", "account", "away"].map($);
let account = null; // the module of the logged-in views, once it was needed

// Runs an action of a logged-in view. A session that has ended, wherever that was done, leads to the login view;
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
  $("log-out").hidden = view !== "account";
  document.title = `${title} · Coatcheck`;
  if (before && before.id !== view) $(`${view}-title`)?.focus(); // not at first, when the reader starts at the top
}

// Nothing of what was seen stays in the document.
function leave() {
  account?.close();
  $("account").replaceChildren();
  history.replaceState(null, "", "#log-in");
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
  show("welcome", signUp ? t("Sign up") : t("Log in"));
}

async function enter(why) {
  try {
    const me = await call("GET", "/v1/me");
    [account] = await Promise.all([import("./account.js"), styled()]).catch(() => { throw new Problem(0) });
    if (/^#(log-in|sign-up)?$/.test(location.hash)) history.replaceState(null, "", "/");
    await account.open(me, { guard, enter, shown: () => show("account", t("Your account")) });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return why ? (leave(), complain($("log-in"), why)) : $("account").hidden ? form() : leave();
    $("away-text").textContent = error.message;
    show("away", t("No answer"));
  }
}

// The second stylesheet, which whoever logs in does not wait for.
let style = null;
const styled = () => (style ??= new Promise((resolve, reject) => {
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("account.css", import.meta.url), onload: resolve });
  link.onerror = () => reject((style = null));
  document.head.append(link);
}));

async function logIn(fields) {
  const body = { username: fields.username.value, password: fields.password.value, remember: fields.remember.checked };
  await call("POST", "/v1/login", body);
  await enter();
}

if (language !== "en") speak((await import(`./${language}.js`).catch(() => ({ default: {} }))).default);
$("language").textContent = language === "ja" ? "English" : "日本語";
$("language").lang = language === "ja" ? "en" : "ja";
$("language").addEventListener("click", () => {
  localStorage.setItem("language", language === "ja" ? "en" : "ja");
  location.reload();
});

handle($("log-in"), async (fields) => {
  try {
    await logIn(fields);
  } catch (error) {
    if (error.status === 401) error.message = t("Username and password do not match.");
    throw error;
  }
});

handle($("sign-up"), async (fields) => {
  const body = { username: fields.username.value, password: fields.password.value, name: fields.name.value };
  await call("POST", "/v1/users", body);
  await logIn(fields);
  notify(t("Welcome. Your account is ready."));
});

for (const [id, name] of [["with-passkey", "byPasskey"], ["with-code", "byCode"]]) {
  $(id).addEventListener("click", ({ currentTarget }) => guard(currentTarget, async () => {
    try {
      await (await import("./passkeys.js"))[name]($("log-in").elements.remember.checked, enter);
    } catch (error) {
      complain($("log-in"), error.message);
    }
  }));
}

$("log-out").addEventListener("click", ({ currentTarget }) => guard(currentTarget, async () => {
  await call("POST", "/v1/logout");
  leave();
  notify(t("You are logged out."));
}));

$("again").addEventListener("click", ({ currentTarget }) => guard(currentTarget, enter));
addEventListener("hashchange", () => ($("welcome").hidden ? account?.route() : form()));
enter();
