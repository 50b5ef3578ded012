// One dashboard with Grafana's own components: window.dashboard is its JSON, window.answers what its queries returned.
import 'uplot/dist/uPlot.min.css';
import React from 'react';
import { createRoot } from 'react-dom/client';
import {
  applyFieldOverrides, createTheme, DataFrame, dateTime, Field, FieldType, getDisplayProcessor, reduceField, ThemeContext, toDataFrame,
} from '@grafana/data';
import {
  BarGauge, BigValue, BigValueColorMode, BigValueGraphMode, GlobalStyles, LegendDisplayMode, PanelChrome, TimeSeries,
} from '@grafana/ui';
import { BarGaugeDisplayMode, VizOrientation } from '@grafana/schema';

type Series = { tags: Record<string, string>; points: Array<[number, number | null]> };
type Answers = { start: number; end: number; panels: Record<string, Record<string, Series[]>> };
declare global { interface Window { dashboard: any; answers: Answers; labels: Record<string, string> } }

const theme = createTheme({ colors: { mode: 'dark' } });
const WIDTH = 1600, GAP = 8, UNIT = 30;
const { dashboard, answers } = window;

function fields(panel: any): DataFrame[] {
  const frames: DataFrame[] = [];
  for (const target of panel.targets) {
    for (const series of answers.panels[panel.id]?.[target.refId] ?? []) {
      const name = target.alias.replace(/\$tag_(\w+)/g, (_: string, tag: string) => series.tags[tag] ?? '');
      frames.push(toDataFrame({ name, fields: [
        { name: 'Time', type: FieldType.time, values: series.points.map(point => point[0]), config: {} },
        { name: 'Value', type: FieldType.number, values: series.points.map(point => point[1]), config: config(panel, name) },
      ] }));
    }
  }
  return applyFieldOverrides({ data: frames, theme, fieldConfig: { defaults: {}, overrides: [] }, replaceVariables: (text: string) => text });
}

function config(panel: any, displayName: string) {
  const made = structuredClone(panel.fieldConfig.defaults);
  made.displayName = displayName;
  made.custom = { ...made.custom };
  for (const override of panel.fieldConfig.overrides ?? []) {
    if (!new RegExp(override.matcher.options.slice(1, -1)).test(displayName)) continue;
    for (const { id, value } of override.properties) {
      if (id.startsWith('custom.')) made.custom[id.slice(7)] = value; else made[id] = value;
    }
  }
  return made;
}

const value = (frame: DataFrame): Field => frame.fields[1];

function reduced(panel: any, frame: DataFrame): number | null {
  const calc = panel.options.reduceOptions.calcs[0];
  return reduceField({ field: value(frame), reducers: [calc] })[calc];
}

function display(frame: DataFrame, number: number | null) {
  return { ...getDisplayProcessor({ field: value(frame), theme })(number), title: value(frame).config.displayName };
}

function Stat({ panel, frames, width, height }: any) {
  if (!frames.length) return <Nothing panel={panel} />;
  const [frame] = frames;
  return <BigValue theme={theme} width={width} height={height} value={{ ...display(frame, reduced(panel, frame)), title: '' }}
    colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.Area}
    sparkline={{ x: frame.fields[0], y: value(frame) } as any} />;
}

function Bars({ panel, frames, width, height }: any) {
  const each = Math.min(44, height / Math.max(1, frames.length));
  const numbers = frames.map((frame: DataFrame) => reduced(panel, frame) ?? 0);
  const max = panel.fieldConfig.defaults.max ?? Math.max(1, ...numbers);
  const shown = frames.map((frame: DataFrame, index: number) => display(frame, numbers[index]));
  const longest = (texts: string[]) => texts.reduce((one, other) => (other.length > one.length ? other : one), '');
  const alignment = { title: longest(shown.map((one: any) => one.title)), text: longest(shown.map((one: any) => one.text)) };
  return <div>{frames.map((frame: DataFrame, index: number) =>
    <BarGauge key={index} theme={theme} width={width} height={each} orientation={VizOrientation.Horizontal} itemSpacing={6}
      displayMode={BarGaugeDisplayMode.Basic} field={{ ...value(frame).config, min: 0, max } as any}
      value={shown[index]} alignmentFactors={alignment} display={getDisplayProcessor({ field: value(frame), theme })} />)}</div>;
}

// Grafana's state timeline is not among the published components: this draws what it shows.
function States({ panel, frames, width, height }: any) {
  const names = panel.fieldConfig.defaults.mappings[0].options, left = 110, legend = 26;
  const row = (height - legend) / Math.max(1, frames.length), span = answers.end - answers.start;
  const at = (time: number) => left + (width - left) * (time - answers.start) / span;
  const colour = (code: number) => theme.visualization.getColorByName(names[code]?.color ?? 'gray');
  return <svg width={width} height={height} style={{ font: '12px sans-serif' }}>
    {frames.map((frame: DataFrame, index: number) => <g key={index} transform={`translate(0 ${index * row})`}>
      <text x={4} y={row / 2 + 4} fill={theme.colors.text.primary}>{value(frame).config.displayName}</text>
      {runs(frame).map(({ from, to, code }, place) => <g key={place}>
        <rect x={at(from)} y={row * 0.1} width={Math.max(1, at(to) - at(from))} height={row * 0.8} fill={colour(code)} fillOpacity={0.85} />
        {at(to) - at(from) > 60 && <text x={at(from) + 6} y={row / 2 + 4} fill="#fff">{names[code]?.text}</text>}
      </g>)}
    </g>)}
    {Object.entries<any>(names).map(([code, found], place) => <g key={code} transform={`translate(${8 + place * 100} ${height - 10})`}>
      <rect y={-9} width={14} height={4} fill={colour(Number(code))} rx={2} /><text x={20} y={-2} fill={theme.colors.text.primary}>{found.text}</text>
    </g>)}
  </svg>;
}

function runs(frame: DataFrame) {
  const times = frame.fields[0].values as number[], codes = value(frame).values as Array<number | null>;
  const step = times.length > 1 ? times[1] - times[0] : 1000, found: Array<{ from: number; to: number; code: number }> = [];
  times.forEach((time, index) => {
    const code = codes[index], last = found[found.length - 1];
    if (code === null) return;
    if (last && last.code === code && time - last.to <= 2 * step) last.to = time + step;
    else found.push({ from: time, to: time + step, code });
  });
  return found.map(run => ({ ...run, to: Math.min(run.to, answers.end) }));
}

function Lines({ panel, frames, width, height }: any) {
  if (!frames.length) return <Nothing panel={panel} />;
  return <TimeSeries frames={frames} width={width} height={height} timeZone="utc" options={{} as any}
    timeRange={{ from: dateTime(answers.start), to: dateTime(answers.end), raw: { from: 'now-1h', to: 'now' } }}
    legend={{ displayMode: LegendDisplayMode.List, placement: 'bottom', showLegend: true, calcs: [] }} />;
}

function Nothing({ panel }: any) {
  return <div style={{ padding: 16, color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>;
}

const DRAWN: Record<string, any> = { timeseries: Lines, stat: Stat, bargauge: Bars, 'state-timeline': States };

function Panel({ panel }: any) {
  const { x, y, w, h } = panel.gridPos, column = (WIDTH - GAP) / 24;
  const place = { left: x * column + GAP, top: y * (UNIT + GAP) + 56, width: w * column - GAP, height: h * (UNIT + GAP) - GAP };
  if (panel.type === 'row')
    return <div style={{ position: 'absolute', ...place, fontSize: 16, fontWeight: 500 }}>{panel.title}</div>;
  const Drawn = DRAWN[panel.type];
  return <div style={{ position: 'absolute', ...place }}>
    <PanelChrome title={panel.title} description={panel.description} width={place.width} height={place.height}>
      {(width: number, height: number) => <Drawn panel={panel} frames={fields(panel)} width={width} height={height} />}
    </PanelChrome>
  </div>;
}

function App() {
  const bottom = Math.max(...dashboard.panels.map((panel: any) => panel.gridPos.y + panel.gridPos.h));
  const style: React.CSSProperties = { position: 'relative', width: WIDTH + GAP, height: bottom * (UNIT + GAP) + 64, background: theme.colors.background.canvas, color: theme.colors.text.primary };
  return <ThemeContext.Provider value={theme}><GlobalStyles />
    <div id="board" style={style}><h3 style={{ padding: '14px 12px' }}>{dashboard.title}</h3>
      {dashboard.panels.map((panel: any) => <Panel key={panel.id} panel={panel} />)}</div>
  </ThemeContext.Provider>;
}

createRoot(document.getElementById('root')!).render(<App />);
