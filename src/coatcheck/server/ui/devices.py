"""A User-Agent header in words, as static/device.js has them, for pages that are made here. It is a claim. Pure."""

import re

__all__ = ["device"]

_BROWSERS = (
    (r"\bEdg(?:e|A|iOS)?/(\d+)", "Edge"),
    (r"\bOPR/(\d+)", "Opera"),
    (r"\bSamsungBrowser/(\d+)", "Samsung Internet"),
    (r"\bVivaldi/(\d+)", "Vivaldi"),
    (r"\b(?:Firefox|FxiOS)/(\d+)", "Firefox"),
    (r"\b(?:HeadlessChrome|Chrome|CriOS)/(\d+)", "Chrome"),
    (r"\bVersion/(\d+)\S* (?:Mobile/\S+ )?Safari/", "Safari"),
)
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)
_TOOL = re.compile(r"([\w.+-]{1,40})(?:/(\d[\w.]{0,20}))?(?:\s|$)", re.ASCII)


def device(user_agent: str | None) -> str:
    """Give browser and system in words; of what is no browser its own first word. English; nothing in it is escaped."""
    text = (user_agent or "").strip()
    if not text.startswith("Mozilla/"):
        tool = _TOOL.match(text)
        return " ".join(part for part in tool.groups() if part) if tool else "Unknown device"
    browser = "A browser"
    for pattern, name in _BROWSERS:
        if found := re.search(pattern, text):
            browser = f"{name} {found[1]}"
            break
    system = next((name for word, name in _SYSTEMS if re.search(rf"\b{word}\b", text)), "an unknown system")
    return f"{browser} on {system}"
