"""The timeline as SVG, to stand in a page: colours by CSS classes, so that it follows light and dark. Pure."""

from html import escape

from coatcheck.probe.timeline import Bar, Lane, Picture
from coatcheck.probe.words import count, milliseconds

__all__ = ["timeline_svg"]

_WIDTH = 960
_LEFT = 92
_RIGHT = 24
_ROW = 9
_LANE_GAP = 4
_GROUP_GAP = 16
_TOP = 8
_AXIS = 26
_NAMES = {"h1.0": "HTTP/1.0", "h1.1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 60000)
_MOST_TICKS = 10
_MOST_ROWS = 3


def timeline_svg(picture: Picture) -> str:
    """One run of all versions on one scale: a lane for each connection, a row for each request that is open at once."""
    scale = (_WIDTH - _LEFT - _RIGHT) / picture.span if picture.span else 0.0
    parts: list[str] = []
    y = float(_TOP)
    for group in picture.groups:
        first = y
        for lane in group.lanes:
            parts.append(_lane(lane, y, scale))
            y += lane.rows * _ROW + _LANE_GAP
        name = escape(_NAMES.get(group.version, group.version))
        opened = count(len(group.lanes), "connection")
        parts.append(f'<text class="name" x="0" y="{first + 9:.0f}">{name}</text>')
        parts.append(f'<text class="small" x="0" y="{first + 23:.0f}">{opened}</text>')
        y = max(y, first + 26) + _GROUP_GAP
    axis = _axis(picture.span, scale, y - _GROUP_GAP + 4)
    height = y - _GROUP_GAP + _AXIS
    title = f"Connections and requests, {picture.run}, over {milliseconds(picture.span)}"
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{axis}{''.join(parts)}</svg>"
    )


def _lane(lane: Lane, y: float, scale: float) -> str:
    # With many rows of requests, as tall as all of them would look like more than it is.
    height = min(lane.rows, _MOST_ROWS) * _ROW - 2
    top = y + (lane.rows - min(lane.rows, _MOST_ROWS)) * _ROW / 2
    begin = _LEFT + lane.begin * scale
    ready = lane.ready if lane.ready is not None else lane.end
    shake = max((ready - lane.begin) * scale, 0.8)
    kind = "resumed" if lane.resumed else "shake"
    ended = f", {lane.ended}" if lane.ended else ""
    words = f"Connection {lane.number}: handshake {milliseconds(ready - lane.begin)}{ended}"
    parts = [
        f'<rect class="{kind}" x="{begin:.1f}" y="{top:.1f}" width="{shake:.1f}" height="{height}" rx="1.5">'
        f"<title>{escape(words)}</title></rect>"
    ]
    if lane.bars:
        line = _LEFT + lane.end * scale
        middle = top + height / 2
        parts.append(f'<path class="open" d="M{begin + shake:.1f} {middle:.1f}H{line:.1f}"/>')
    parts += [_bar(bar, y, scale) for bar in lane.bars]
    return "".join(parts)


def _bar(bar: Bar, y: float, scale: float) -> str:
    x = _LEFT + bar.begin * scale
    width = max((bar.end - bar.begin) * scale - 0.6, 0.8)
    kind = "failed" if bar.failed else "request"
    status = f", {bar.status}" if bar.status is not None else ""
    words = f"Request {bar.number}: {milliseconds(bar.end - bar.begin)}{status}"
    top = y + bar.row * _ROW
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_ROW - 2}" rx="1.5">'
        f"<title>{escape(words)}</title></rect>"
    )


def _axis(span: float, scale: float, y: float) -> str:
    step = next((step for step in _STEPS if span / step <= _MOST_TICKS), _STEPS[-1])
    parts: list[str] = []
    tick = 0.0
    while tick <= span and scale:
        x = _LEFT + tick * scale
        parts.append(f'<path class="grid" d="M{x:.1f} 0V{y:.0f}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{y + 14:.0f}" text-anchor="middle">{_label(tick)}</text>')
        tick += step
    return "".join(parts)


def _label(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value / 1000:g} s" if value >= 1000 else f"{round(value, 3):g} ms"
