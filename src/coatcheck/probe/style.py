"""The looks of the HTML report: one style sheet, for light and dark, paper and telephones."""

__all__ = ["STYLE"]

STYLE = """
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #1c1d21; --quiet: #63656d; --line: #e3e0d8; --accent: #24517a;
  --shake: #e0a526; --request: #3a7d5c; --failed: #b3261e; --warn: #8a5a00; --good: #2c6b4b; --tint: #f1efe8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --card: #1e2024; --ink: #e8e7e3; --quiet: #a0a2aa; --line: #34363c; --accent: #8fbbe0;
    --shake: #d9a53a; --request: #5fae87; --failed: #f2877f; --warn: #e5b45a; --good: #7cc8a0; --tint: #25272c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .1rem 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 1.1rem 0 .4rem; }
p { margin: .4rem 0; }
.eyebrow { text-transform: uppercase; letter-spacing: .08em; font-size: .75rem; color: var(--accent); margin: 0; }
.quiet, footer { color: var(--quiet); font-size: .875rem; }
section { margin-top: 2rem; }
.answer { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--accent);
  border-radius: 6px; padding: 1rem 1.25rem; margin-top: 1.25rem; }
.answer p { font-size: 1.08rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .3rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); }
thead th { font-weight: 500; color: var(--quiet); vertical-align: bottom; }
thead th[title] { text-decoration: underline dotted; text-underline-offset: 3px; cursor: help; }
tbody th { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.measured td { white-space: nowrap; }
.dim, .dim th { color: var(--quiet); font-weight: 400; }
.verdict-good { color: var(--good); } .verdict-warn { color: var(--warn); } .verdict-info { color: var(--accent); }
.verdict-problem { color: var(--failed); font-weight: 600; }
.timeline { width: 100%; min-width: 40rem; height: auto; display: block; }
.timeline text { font-family: system-ui, sans-serif; fill: var(--ink); font-size: 12px; }
.timeline .name { font-weight: 600; } .timeline .small { fill: var(--quiet); font-size: 10.5px; }
.timeline .grid { stroke: var(--line); stroke-width: 1; } .timeline .open { stroke: var(--line); stroke-width: 2; }
.shake { fill: var(--shake); background: var(--shake); }
.resumed { fill: var(--shake); opacity: .6; }
.request { fill: var(--request); background: var(--request); }
.failed { fill: var(--failed); background: var(--failed); }
.legend { font-size: .875rem; }
.key { display: inline-block; width: .9rem; height: .7rem; border-radius: 2px; margin: 0 .3rem 0 .6rem; }
.key:first-child { margin-left: 0; }
.finding { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem; margin: .6rem 0; }
.finding h3 { margin: 0; }
.level { display: inline-block; font-size: .75rem; border-radius: 3px; padding: .05rem .45rem; margin-right: .3rem;
  border: 1px solid currentColor; color: var(--accent); vertical-align: .1em; }
.warn .level { color: var(--warn); } .problem .level { color: var(--failed); }
.finding.problem { border-left: 4px solid var(--failed); } .finding.warn { border-left: 4px solid var(--warn); }
summary { cursor: pointer; color: var(--accent); font-size: .9rem; }
details ul { margin: .4rem 0 .2rem; padding-left: 1.2rem; font-size: .9rem; }
code { font: .85em/1.5 ui-monospace, monospace; background: var(--tint); border-radius: 3px; padding: .1em .3em;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.25rem; font-size: .92rem; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
a { color: var(--accent); }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; }
@media (max-width: 40rem) {
  main { padding: 1.25rem .9rem 2rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; }
}
@media print { body { background: #fff; } .finding, .answer { break-inside: avoid; } }
"""
