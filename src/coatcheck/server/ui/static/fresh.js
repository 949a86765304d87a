// Asks once more who one is, where an action wants to know it freshly.

import { call } from "./api.js";
import { h, t } from "./dom.js";
import { complain, field, handle, problem } from "./forms.js";
import { proveByPasskey, supported } from "./passkeys.js";

let open = null; // one dialog for all who ask at once

// Gives whether it was proved.
export const proveAgain = () => (open ??= ask().finally(() => (open = null)));

function ask() {
  return new Promise((resolve) => {
    const done = () => {
      dialog.returnValue = "proved";
      dialog.close("proved");
    };
    const form = handle(h("form", { method: "dialog", "aria-label": t("Is it you?") },
      h("h2", null, t("Is it you?")), h("p", { class: "soft" }, t("For this, prove again who you are.")), problem(),
      field("again-password", "Password", { name: "password", type: "password", autocomplete: "current-password", required: true }),
      h("button", { class: "primary" }, t("Go on")),
      h("p", { class: "or" },
        supported() && h("button", { type: "button", onclick: () => proveByPasskey().then((proved) => proved && done(), (error) => complain(form, error.message)) }, t("Use a passkey")),
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("Cancel")))),
    async ({ password }) => {
      await call("POST", "/v1/reauthenticate", { password: password.value });
      done();
    });
    const dialog = h("dialog", { class: "card", "aria-label": t("Is it you?"), onclose: () => {
      resolve(dialog.returnValue === "proved");
      dialog.remove();
    } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}
