"""The style of the page that `inspect --html` writes: light and dark by the reader's own setting, and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --ink: #1a1d23; --soft: #5a6270; --line: #e1e4e9; --hover: #eef1f5;
  --label: #5b5fc7; --text: #2a6fdb; --audio: #c8641b; --vision: #14866a;
  --part-0: #7b8494; --part-1: #2a6fdb; --part-2: #c8641b; --part-3: #14866a; --part-4: #a14bb8; --part-5: #b98a00;
  --part-6: #3c9fbf; --part-7: #c43d5d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101216; --card: #181b21; --ink: #e7e9ee; --soft: #9ba4b3; --line: #2b303a; --hover: #222731;
    --label: #9a9df2; --text: #6ea6f7; --audio: #ee9a56; --vision: #4cc3a1;
    --part-0: #6d7686; --part-1: #6ea6f7; --part-2: #ee9a56; --part-3: #4cc3a1; --part-4: #cf8be2; --part-5: #e0b84a;
    --part-6: #77cbe6; --part-7: #f07f9a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main, header, footer { max-width: 1160px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 19px; }
h3 { margin: 0 0 4px; font-size: 15px; }
p { margin: 4px 0 12px; max-width: 80ch; }
.soft, figcaption, footer { color: var(--soft); }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin: 24px 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px; }
.card + .card { margin-top: 16px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
th, td { padding: 6px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
tbody th { color: var(--ink); font-weight: 500; font-size: 14px; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr:hover { background: var(--hover); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.name { text-align: left; }
.long { white-space: normal; min-width: 130px; overflow-wrap: anywhere; }
.plots { display: grid; gap: 8px 20px; margin-top: 10px; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.plots.broad { grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }
figure { margin: 0; }
figcaption { font-size: 13px; }
figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
.hit { fill: transparent; }
.column:hover .hit { fill: var(--hover); }
.label { fill: var(--label); } .words { fill: var(--soft); }
.text { fill: var(--text); } .audio { fill: var(--audio); } .vision { fill: var(--vision); }
.text-wide { fill: var(--text); opacity: 0.16; } .audio-wide { fill: var(--audio); opacity: 0.16; }
.vision-wide { fill: var(--vision); opacity: 0.16; }
.text-near { fill: var(--text); opacity: 0.34; } .audio-near { fill: var(--audio); opacity: 0.34; }
.vision-near { fill: var(--vision); opacity: 0.34; }
.text-line, .audio-line, .vision-line { fill: none; stroke-width: 1.4; }
.text-line { stroke: var(--text); } .audio-line { stroke: var(--audio); } .vision-line { stroke: var(--vision); }
.part-0 { fill: var(--part-0); background: var(--part-0); } .part-1 { fill: var(--part-1); background: var(--part-1); }
.part-2 { fill: var(--part-2); background: var(--part-2); } .part-3 { fill: var(--part-3); background: var(--part-3); }
.part-4 { fill: var(--part-4); background: var(--part-4); } .part-5 { fill: var(--part-5); background: var(--part-5); }
.part-6 { fill: var(--part-6); background: var(--part-6); } .part-7 { fill: var(--part-7); background: var(--part-7); }
.bars { display: grid; grid-template-columns: auto 1fr; gap: 10px 14px; align-items: center; }
.bars span { color: var(--soft); font-size: 13px; }
.bars svg { height: 22px; border-radius: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 0; padding: 0; }
.legend { list-style: none; font-size: 13px; }
.legend span { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
footer { padding: 24px 24px 48px; font-size: 13px; }
@media print { body { background: none; } .card, .tiles div { break-inside: avoid; } }
"""
