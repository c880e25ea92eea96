/** Lines over time: uPlot in a box that it fills, in the colours of the theme. Owns the plot, not the data. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { rate } from "../lib/format.js";
import { spanOf } from "../lib/series.js";

export interface Line {
  label: string;
  /** Name of a colour of the style sheet: --chart-1 to --chart-5. */
  color: 1 | 2 | 3 | 4 | 5;
}

interface Props {
  title: string;
  lines: Line[];
  data: (number | null)[][];
}

const HEIGHT_PX = 210;
const DARK = "(prefers-color-scheme: dark)";

type Times = () => readonly (number | null)[] | undefined;

function options(title: string, lines: Line[], width: number, latest: Times): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const font = "12px system-ui, sans-serif";
  const axis = { stroke: color("--dim"), font, grid: { stroke: color("--line"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height: HEIGHT_PX,
    legend: { show: false },
    padding: [8, 12, 0, 0],
    cursor: { drag: { x: false, y: false }, points: { show: false } },
    scales: {
      x: { range: () => spanOf(latest()) },
      y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.1)] },
    },
    axes: [
      { ...axis, size: 28, space: 70, values: (_plot, ticks) => ticks.map(hourOf) },
      { ...axis, size: 48, values: (_plot, ticks) => ticks.map((tick) => rate(tick)) },
    ],
    series: [
      {},
      ...lines.map(({ label, color: number }) => ({
        label,
        stroke: color(`--chart-${number}`),
        width: 2,
        points: { show: false },
      })),
    ],
    id: title.replace(/\W+/g, "-"),
  };
}

const hourOf = (seconds: number): string => new Date(seconds * 1000).toTimeString().slice(0, 8);

export function Chart({ title, lines, data }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const latest = useRef(data);
  latest.current = data;
  const key = lines.map(({ label }) => label).join();
  useEffect(() => {
    const element = box.current!;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(title, lines, element.clientWidth, () => latest.current[0]), latest.current as uPlot.AlignedData, element);
    };
    const resize = () => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT_PX });
    const theme = matchMedia(DARK);
    const observer = new ResizeObserver(resize);
    draw();
    theme.addEventListener("change", draw);
    observer.observe(element);
    return () => {
      theme.removeEventListener("change", draw);
      observer.disconnect();
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [title, key]);
  useEffect(() => {
    if (document.visibilityState !== "hidden") plot.current?.setData(data as uPlot.AlignedData);
  }, [data]);
  const now = lines.map((_line, at) => data[at + 1]?.at(-1));
  return (
    <figure class="chart">
      <figcaption>
        <h2>{title}</h2>
        <ul class="legend">
          {lines.map(({ label, color }, at) => (
            <li key={label}>
              <i class={`swatch c${color}`} aria-hidden="true" />
              {label} <b>{rate(now[at])}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      <div ref={box} class="plot" role="img" aria-label={`${title}: the last five minutes`} />
    </figure>
  );
}
