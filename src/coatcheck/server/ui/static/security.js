// The view of what one proves with who one is: password, passkeys, recovery codes.

import { call } from "./api.js";
import { card, h, icon, notify, t, time } from "./dom.js";
import { field, handle, problem } from "./forms.js";
import { addPasskey, supported } from "./passkeys.js";

export async function show(root, { me, guard }) {
  const keys = h("ul", { class: "list", id: "passkeys" });
  const left = h("p", { class: "soft" });
  const codes = h("div", { id: "codes" });

  const password = h("form", { id: "password", method: "post", action: "/v1/me/password", "aria-label": t("Password") }, problem(),
    h("input", { class: "unseen", name: "username", autocomplete: "username", tabindex: "-1", "aria-hidden": "true", readonly: true, value: me.username }),
    field("pw-current", "Current password", { name: "current_password", type: "password", autocomplete: "current-password", required: true }),
    field("pw-new", "New password", { name: "new_password", type: "password", autocomplete: "new-password", required: true }, "Changing it ends your other sessions."),
    h("button", null, t("Change password")));

  handle(password, async ({ current_password, new_password }) => {
    try {
      await call("POST", "/v1/me/password", { current_password: current_password.value, new_password: new_password.value });
    } catch (error) {
      if (error.status === 401) return guard(null, refresh);
      if (error.status === 403) error.fields = ["current_password"];
      throw error;
    }
    notify(t("Password changed. Your other sessions have ended."));
  });

  async function refresh() {
    const [{ passkeys }, security] = await Promise.all([call("GET", "/v1/passkeys"), call("GET", "/v1/me/security")]);
    keys.replaceChildren(...passkeys.map(row));
    left.textContent = security.recovery_codes_left ? t("{0} codes are left.", security.recovery_codes_left) : t("You have none.");
  }

  function row(passkey) {
    return h("li", null, icon("key"),
      h("div", { class: "what" }, h("h3", null, passkey.name),
        h("p", null, t("Added"), " ", time(passkey.created_at)), h("p", null, t("Last used"), " ", time(passkey.last_used_at)),
        h("p", null, passkey.backed_up ? t("Kept by your password manager, on all your devices") : t("On this one device only"))),
      h("div", { class: "actions" },
        h("button", { class: "quiet", "aria-label": t("Rename {0}", passkey.name), onclick: (event) => rename(event.currentTarget.closest("li"), passkey) }, t("Rename")),
        h("button", { class: "danger", "aria-label": t("Remove {0}", passkey.name), onclick: ({ currentTarget }) => guard(currentTarget, async () => {
          await call("DELETE", `/v1/passkeys/${passkey.id}`);
          await refresh();
          notify(t("Passkey removed."));
        }) }, t("Remove"))));
  }

  function rename(item, passkey) {
    const input = h("input", { value: passkey.name, maxlength: 100, required: true, "aria-label": t("Name of this passkey") });
    const form = h("form", { class: "inline", onsubmit: (event) => {
      event.preventDefault();
      guard(form.querySelector("button"), async () => {
        await call("PATCH", `/v1/passkeys/${passkey.id}`, { name: input.value.trim() });
        await refresh();
      });
    }, onkeydown: ({ key }) => key === "Escape" && guard(null, refresh) }, input, h("button", { class: "primary" }, t("Save")));
    item.querySelector("h3").replaceWith(form);
    input.focus();
  }

  const added = h("form", { class: "inline", "aria-label": t("Add a passkey"), onsubmit: (event) => {
    event.preventDefault();
    guard(added.querySelector("button"), async () => {
      const name = added.elements.name.value.trim() || t("Passkey");
      if (!(await addPasskey(name))) return;
      added.reset();
      await refresh();
      notify(t("Passkey added: {0}", name));
    });
  } }, h("input", { name: "name", maxlength: 100, placeholder: t("Its name, as “My laptop”"), "aria-label": t("Name of the new passkey") }), h("button", { class: "primary" }, t("Add a passkey")));

  const make = h("button", { onclick: ({ currentTarget }) => guard(currentTarget, async () => {
    const made = (await call("POST", "/v1/recovery-codes", {})).codes;
    codes.replaceChildren(h("p", { role: "alert" }, t("Write them down now: they are shown this once. Each is good for one login.")),
      h("ol", { class: "codes" }, made.map((code) => h("li", null, code))),
      h("button", { onclick: () => navigator.clipboard.writeText(made.join("\n")).then(() => notify(t("Copied."))) }, t("Copy them")));
    await refresh();
  }) }, t("Make new codes"));

  root.append(h("h1", { tabindex: "-1" }, t("Security")),
    card("passkeys", "Passkeys", h("p", { class: "soft" }, t("Log in with your fingerprint, face or device in place of the password. A passkey cannot be guessed, reused or given to a false page.")),
      keys, supported() ? added : h("p", { class: "soft" }, t("This browser, or a connection without TLS, knows no passkeys."))),
    h("div", { class: "grid" }, card("password", "Password", password),
      card("recovery", "Recovery codes", h("p", { class: "soft" }, t("For the day when neither password nor passkey is at hand. New ones replace the old ones.")), left, make, codes)));
  await refresh();
  return { refresh };
}
