"""Style of the report's page: follows the reader's light or dark mode, and prints."""

from builder.bench.plots_svg import COLOURS, SHAPES

PAGE = """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; color: var(--ink);
  background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 3rem 0 .25rem; padding-top: 1rem;
  border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0 .75rem; }
a { color: var(--native); }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.soft { color: var(--soft); }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .35rem 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0; padding: 0; list-style: none; }
.cards li { background: var(--raised); border: 1px solid var(--grid); border-radius: 8px;
  padding: .7rem .9rem; }
.cards b { display: block; font-size: 1.6rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.cards span { display: block; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1.25rem; margin: 1rem 0; }
svg.plot { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th { font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 4.5em; }
th.t, td.t { text-align: left; }
td.long { white-space: normal; overflow-wrap: anywhere; }
tr.first > td { border-top: 1px solid var(--soft); }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em;
  background: var(--c); }
.better { color: var(--output); font-weight: 600; }
.worse { color: var(--queue); font-weight: 600; }
.note { background: var(--raised); border-left: 4px solid var(--python); border-radius: 4px;
  padding: .6rem .9rem; margin: .75rem 0; overflow-wrap: anywhere; }
.note p { margin: 0; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--soft); }
@media print { body { max-width: none; } details { display: block; } }
"""

STYLE = COLOURS + SHAPES + PAGE
