// Passkeys (WebAuthn Level 3) and recovery codes where somebody logs in or proves again who they are.

import { Problem, call } from "./api.js";
import { $, h, t } from "./dom.js";
import { field, handle, problem } from "./forms.js";

export const supported = () => Boolean(window.PublicKeyCredential?.parseRequestOptionsFromJSON);

// Give whether one was made: whoever changes their mind has done nothing wrong.
export async function addPasskey(name) {
  const options = await call("POST", "/v1/passkeys/options", {});
  const credential = await asked(() => navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) }));
  if (!credential) return false;
  await call("POST", "/v1/passkeys", { name, credential: credential.toJSON() });
  return true;
}

export async function byPasskey(remember, enter) {
  const credential = await shown("/v1/login/passkey/options");
  if (!credential) return;
  try {
    await call("POST", "/v1/login/passkey", { credential, remember });
  } catch (error) {
    if (error.status === 401) error.message = t("This passkey is not known here.");
    throw error;
  }
  await enter();
}

export async function proveByPasskey() {
  const credential = await shown("/v1/reauthenticate/passkey/options");
  if (!credential) return false;
  await call("POST", "/v1/reauthenticate/passkey", { credential });
  return true;
}

async function shown(path) {
  if (!supported()) throw new Problem(400, { detail: "This browser, or a connection without TLS, knows no passkeys." });
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(await call("POST", path, {}));
  return (await asked(() => navigator.credentials.get({ publicKey })))?.toJSON();
}

async function asked(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "NotAllowedError" || error.name === "AbortError") return null;
    if (error.name === "InvalidStateError") throw new Problem(409, { detail: "This device has a passkey of yours already." });
    throw new Problem(400, { detail: "The passkey could not be used." });
  }
}

// A form of its own, since few ever need it.
export async function byCode(remember, enter) {
  const form = handle(h("form", { method: "dialog" }, h("h2", null, t("Use a recovery code")), problem(),
    field("rc-username", "Username", { name: "username", autocomplete: "username", autocapitalize: "none", required: true, value: $("li-username").value }),
    field("rc-code", "Recovery code", { name: "code", autocomplete: "one-time-code", autocapitalize: "none", spellcheck: "false", required: true }),
    h("button", { class: "primary" }, t("Log in")),
    h("button", { type: "button", onclick: () => dialog.close() }, t("Cancel"))), async ({ username, code }) => {
    try {
      await call("POST", "/v1/login/recovery", { username: username.value, code: code.value.trim(), remember });
    } catch (error) {
      if (error.status === 401) error.message = t("Username and code do not match, or the code was used.");
      throw error;
    }
    dialog.close();
    await enter();
  });
  const dialog = h("dialog", { class: "card", "aria-label": t("Use a recovery code"), onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
}
