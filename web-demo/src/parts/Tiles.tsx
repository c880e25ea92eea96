/** Numbers that are read at a glance. */

import type { ComponentChildren } from "preact";

export interface Tile {
  label: string;
  value: ComponentChildren;
  note?: ComponentChildren;
  tone?: "bad" | "warn" | undefined;
}

export function Tiles({ tiles }: { tiles: Tile[] }) {
  return (
    <dl class="tiles">
      {tiles.map(({ label, value, note, tone }) => (
        <div key={label} class={tone ? `tile ${tone}` : "tile"}>
          <dt>{label}</dt>
          <dd>
            <b>{value}</b>
            {note && <small>{note}</small>}
          </dd>
        </div>
      ))}
    </dl>
  );
}
