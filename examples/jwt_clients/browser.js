import { Tokens } from "./tokens.js";

const tokens = new Tokens();
const status = document.querySelector("[role=status]");

function on(selector, event, work) {
  document.querySelector(selector).addEventListener(event, async (happened) => {
    happened.preventDefault();
    status.textContent = await work(happened.target).catch((error) => error.message);
  });
}

on("#login", "submit", async (form) => {
  await tokens.logIn(form.elements.username.value, form.elements.password.value);
  return "Logged in";
});

on("#profile", "click", async () => {
  const response = await tokens.fetch("/profile");
  if (response.status === 401) return "Unauthorized";
  const { id, name } = await response.json();
  return `${name} (${id})`;
});

on("#logout", "click", async () => {
  await tokens.logOut();
  return "Logged out";
});
