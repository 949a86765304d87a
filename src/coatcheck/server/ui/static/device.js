// A User-Agent header in words. It is a claim; what is not recognised goes by its own first word, and nothing is said
// that browsers have frozen in it (the versions of Windows, macOS and Android).

import { t } from "./dom.js";

const browsers = [
  [/\bEdg(?:e|A|iOS)?\/(\d+)/, "Edge"],
  [/\bOPR\/(\d+)/, "Opera"],
  [/\bSamsungBrowser\/(\d+)/, "Samsung Internet"],
  [/\bVivaldi\/(\d+)/, "Vivaldi"],
  [/\b(?:Firefox|FxiOS)\/(\d+)/, "Firefox"],
  [/\b(?:HeadlessChrome|Chrome|CriOS)\/(\d+)/, "Chrome"],
  [/\bVersion\/(\d+)\S* (?:Mobile\/\S+ )?Safari\//, "Safari"],
];
const systems = [
  [/\biPhone\b/, "iPhone", "phone"],
  [/\biPad\b/, "iPad", "phone"],
  [/\bAndroid\b/, "Android", "phone"],
  [/\bWindows\b/, "Windows", "desk"],
  [/\bCrOS\b/, "ChromeOS", "desk"],
  [/\bMacintosh\b/, "macOS", "desk"],
  [/\bLinux\b/, "Linux", "desk"],
];

export function device(userAgent) {
  const text = (userAgent ?? "").trim();
  if (!text.startsWith("Mozilla/")) {
    const tool = /^([\w.+-]{1,40})(?:\/(\d[\w.]{0,20}))?(?:\s|$)/.exec(text);
    return { words: tool ? tool.slice(1).filter(Boolean).join(" ") : t("Unknown device"), kind: "tool" };
  }
  const browser = browsers.find(([pattern]) => pattern.test(text));
  const [, system, kind] = systems.find(([pattern]) => pattern.test(text)) ?? [null, t("an unknown system"), "desk"];
  const name = browser ? `${browser[1]} ${browser[0].exec(text)[1]}` : t("A browser");
  return { words: t("{0} on {1}", name, system), kind };
}
