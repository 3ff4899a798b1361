"""The page's style: marble by day, slate by night; nothing is fetched from anywhere."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #f7f5f0; --card: #fffefb; --ink: #23262d; --soft: #686c76; --line: #ddd8cc;
  --stone: #e9e4d8; --stone-edge: #c9c2b1; --accent: #2f5d8c; --accent-ink: #ffffff;
  --rival: #a39a86; --off: #8fa9c4; --stop: #b4532a; --stop-paper: #fbeee6; --good: #3d7a4e; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15171b; --card: #1c1f25; --ink: #e8e5de; --soft: #9a9ea8; --line: #31353d;
  --stone: #2b2f37; --stone-edge: #454a55; --accent: #6ea3d8; --accent-ink: #10141a;
  --rival: #7d776b; --off: #48617b; --stop: #e08a5c; --stop-paper: #2e231d; --good: #7dbb8c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 42px 0 4px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
.small { font-size: 13px; } .wrap { overflow-wrap: anywhere; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: 12.5px; }
.cut { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; }
svg { display: block; width: 100%; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
  margin: 24px 0 0; }
.many { grid-template-columns: repeat(auto-fit, minmax(min(200px, 45%), 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 11px 12px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 12.5px; }

.race { display: grid; grid-template-columns: 108px minmax(80px, 1fr) 92px 172px; gap: 5px 14px;
  align-items: center; margin: 6px 0 20px; }
.race h3 { grid-column: 1 / -1; font-size: 14px; margin: 10px 0 0; color: var(--soft);
  font-weight: 600; }
.verdict { white-space: nowrap; }
.race .ours { font-weight: 650; }
.tokens { color: var(--soft); font-size: 12px; font-weight: 400; }
.bar-colonnade { fill: var(--accent); } .bar-onnxruntime { fill: var(--rival); }
.bar-off { fill: var(--off); } .spread { stroke: var(--ink); stroke-width: 1.5; opacity: .55; }

.order { max-width: 1080px; margin-top: 16px; }
.cap, .foot { margin: 0 -1px; padding: 8px 16px; border: 1px solid var(--stone-edge);
  background: var(--stone); }
.cap { border-radius: 6px 6px 0 0; display: flex; flex-wrap: wrap; gap: 2px 14px;
  align-items: baseline; }
.foot { border-radius: 0 0 6px 6px; }
.step { display: grid; gap: 0 14px; align-items: stretch; background: var(--card);
  grid-template-columns: 196px minmax(120px, 1fr) 104px minmax(90px, 210px) 84px;
  border: solid var(--line); border-width: 0 1px; padding-right: 16px; }
.step > div { padding: 7px 0; align-self: center; min-width: 0; }
.zeros svg { margin-bottom: 4px; }
.shafts { align-self: stretch !important; display: grid; padding: 0 0 0 18px !important;
  grid-template-columns: repeat(6, 1fr); gap: 9px; }
.shafts i { background: linear-gradient(90deg, #0003, transparent 22% 38%, #0001 48%,
  transparent 58% 78%, #0003), color-mix(in srgb, var(--accent) var(--heat), var(--stone));
  border-top: 1px solid var(--stone-edge); }
.beam { align-self: stretch !important; display: flex; gap: 2px; margin-left: 10px;
  padding: 0 !important; border: solid var(--stone-edge); border-width: 2px 0; z-index: 1; }
.beam i { background: linear-gradient(180deg, #fff3, transparent 35% 70%, #0003),
  color-mix(in srgb, var(--accent) var(--heat), var(--stone)); }
.fold { padding: 6px 16px; font-size: 13px; background: var(--stone);
  border: 1px solid var(--stone-edge); border-width: 1px 1px 0; }
.each { background: var(--card); border: 1px solid var(--stone-edge); border-width: 1px 1px 2px; }
.each summary { padding: 6px 16px; cursor: pointer; font-size: 13px; color: var(--soft); }
.every { max-height: 60vh; overflow-y: auto; border-top: 1px solid var(--line); }
.slab { margin: 0 0 0 18px; align-self: stretch !important; grid-row: 1 / span 2;
  border-top: 1px solid var(--stone-edge);
  background: repeating-linear-gradient(135deg, #0000 0 7px, #0002 7px 8px),
  color-mix(in srgb, var(--stop) var(--heat), var(--stone)); }
.about b { font-weight: 600; } .about .name { direction: rtl; text-align: left; }
.about .cut { line-height: 1.35; }
.reason { grid-column: 2 / -1; color: var(--stop); font-size: 13px; padding-top: 0 !important;
  overflow-wrap: anywhere; }
.fill { fill: var(--accent); } .track { fill: var(--stone); } .stop-fill { fill: var(--stop); }
.mark { stroke: var(--ink); stroke-width: 2; }
.stop { margin: 10px 0; padding: 9px 16px; border-left: 4px solid var(--stop);
  background: var(--stop-paper); border-radius: 0 6px 6px 0; }
.stop b { color: var(--stop); } .stop .cut { white-space: normal; overflow-wrap: anywhere; }
.flow { margin: 10px 0; padding: 2px 18px; color: var(--soft); overflow-wrap: anywhere; }
.cache { display: grid; grid-template-columns: 196px minmax(120px, 1fr) minmax(0, 1.2fr);
  gap: 5px 14px; align-items: center; font-size: 13px; }
.cache > :nth-child(3n + 1) { padding-left: 2px; }
.foot .track { fill: var(--card); }
.fits { color: var(--good); font-weight: 600; } .over { color: var(--stop); font-weight: 600; }

.scroll { overflow-x: auto; } .tall { max-height: 75vh; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; margin-top: 8px; background: var(--card);
  border: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: 13px; text-align: left; }
th.num { text-align: right; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); }
td.name { max-width: 260px; direction: rtl; }
td.name { text-align: left; } tr.fallback td { color: var(--stop); }
ul { margin: 6px 0; padding-left: 20px; }
footer { margin-top: 40px; border-top: 1px solid var(--line); padding-top: 12px; }
@media (max-width: 760px) {
  .step { grid-template-columns: 84px minmax(90px, 1fr) 84px; }
  .shafts { grid-template-columns: repeat(3, 1fr); gap: 5px; }
  .step .zeros, .step .gauge { display: none; }
  .reason { grid-column: 2 / -1; }
  .about .name { direction: ltr; white-space: normal; overflow-wrap: anywhere; }
  .race { grid-template-columns: 92px minmax(60px, 1fr) 78px; } .race .verdict { display: none; }
  .cache { grid-template-columns: 1fr; } .slab { grid-row: 1 / span 2; } }
@media print { body { background: #fff; } .shafts i, .slab, svg {
  print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
