// Text into elements, never markup; times in the reader's zone.

// The page is in English: so are its dates, in the reader's own if there is one.
const language = navigator.languages.find((tag) => tag.startsWith("en")) ?? "en-GB";
const moment = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat(language, { timeStyle: "short" });
const today = new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(0, "day");

export const $ = (id) => document.getElementById(id);
export const part = (root, name) => root.querySelector(`[data-of="${name}"]`);

export function put(root, texts) {
  for (const [name, text] of Object.entries(texts)) part(root, name).textContent = text ?? "";
}

// In full and not "five minutes ago", which an open page would soon make untrue.
export function when(text) {
  const then = new Date(text);
  return then.toDateString() === new Date().toDateString() ? `${today}, ${clock.format(then)}` : moment.format(then);
}

export function time(element, text) {
  element.dateTime = text;
  element.textContent = when(text);
}

// A description list: pairs of words; what is not known is not listed.
export function list(element, pairs) {
  element.replaceChildren(...pairs.filter(([, value]) => value).map(([term, value]) => {
    const [row, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = term;
    dd.textContent = value;
    row.append(dt, dd);
    return row;
  }));
}

let timer;
export function notify(text) {
  clearTimeout(timer);
  $("notice").textContent = text;
  timer = setTimeout(() => ($("notice").textContent = ""), 8000);
}
