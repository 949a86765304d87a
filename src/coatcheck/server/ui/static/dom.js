// Elements from text, never from markup; words in the reader's language; times in the reader's zone.

let chosen = null;
try {
  chosen = localStorage.getItem("language");
} catch {} // storage may be forbidden
export const language = ["ja", "en"].includes(chosen) ? chosen : navigator.languages.find((tag) => /^(ja|en)\b/.test(tag))?.slice(0, 2) ?? "en";

// Dates as the reader's own kind of that language writes them.
const locale = navigator.languages.find((tag) => tag.startsWith(language)) ?? (language === "en" ? "en-GB" : language);
const moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const seconds = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const today = new Intl.RelativeTimeFormat(locale, { numeric: "auto" }).format(0, "day");
const counted = new Intl.NumberFormat(locale);

// The English sentence is the key: what has no translation is said in English. {0} stands for the first value.
let words = {};
export const t = (text, ...values) => (words[text] ?? text).replace(/\{(\d)\}/g, (_, index) => values[index]);

// The document is written in English; in place of it the words of the reader's language.
export function speak(translations) {
  words = translations;
  document.documentElement.lang = language;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.ariaLabel) node.ariaLabel = t(node.ariaLabel);
    else if (node.nodeType === Node.TEXT_NODE && words[node.data.trim()]) node.data = t(node.data.trim());
  }
}

export const $ = (id) => document.getElementById(id);

// An element: `onclick` and its like are functions; what is null or false is left out; children are text or elements.
export const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => filled(document.createElementNS(svg, tag), attributes, children);
const svg = document.querySelector("svg").namespaceURI;

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const icon = (name) => s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));

export function card(id, title, ...children) {
  return h("section", { class: `card ${id}`, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title`, tabindex: "-1" }, t(title)), children);
}

// In full and not "five minutes ago", which an open page would soon make untrue.
export function when(text) {
  const then = new Date(text);
  return then.toDateString() === new Date().toDateString() ? `${today}${language === "ja" ? " " : ", "}${clock.format(then)}` : moment.format(then);
}

export const clockTime = (text) => seconds.format(new Date(text));
export const time = (text) => (text ? h("time", { datetime: text }, when(text)) : t("never"));
export const number = (value) => (value === null || value === undefined ? "–" : counted.format(value));

// Rows of a description list: pairs of words or elements; what is not known is not listed.
export const rows = (pairs) => pairs.filter(([, value]) => value).map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value)));

let timer;
export function notify(text) {
  clearTimeout(timer);
  $("notice").textContent = text;
  timer = setTimeout(() => ($("notice").textContent = ""), 8000);
}
