// Forms: sends one once at a time, shows what is wrong where it is wrong, and hands the rest on.

import { Problem } from "./api.js";
import { h, t } from "./dom.js";

export function handle(form, send) {
  const problem = form.querySelector(".problem");
  const fields = [...form.querySelectorAll(".field input")];

  form.noValidate = true; // what is wrong is said here, in one place
  form.addEventListener("input", ({ target }) => target.removeAttribute("aria-invalid"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button:not([type=button])");
    if (button.disabled) return;
    for (const field of fields) field.removeAttribute("aria-invalid");
    problem.hidden = true;
    const empty = fields.filter((field) => field.required && !field.value);
    if (empty.length) return complain(form, t("Please fill in what is empty."), empty);
    button.disabled = true;
    try {
      await send(form.elements);
      form.reset();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      complain(form, error.message, fields.filter((field) => error.fields.some((name) => [name, `new_${name}`].includes(field.name))));
    } finally {
      button.disabled = false;
    }
  });
  return form;
}

export function complain(form, text, wrong = []) {
  const problem = form.querySelector(".problem");
  problem.textContent = text;
  problem.hidden = false;
  for (const field of wrong) field.setAttribute("aria-invalid", "true");
  wrong[0]?.focus();
}

// A label with its input, as the forms of later views have them.
export const field = (id, label, attributes, hint) =>
  h("div", { class: "field" }, h("label", { for: id }, t(label)), h("input", { id, "aria-describedby": hint && `${id}-hint`, ...attributes }),
    hint && h("p", { class: "hint", id: `${id}-hint` }, t(hint)));
export const problem = () => h("p", { class: "problem", role: "alert", hidden: true });
