/** What a live tail shows: the newest rows, a pause that loses nothing of what it holds, a filter. Pure, bounded. */

/** Rows that are kept: what a page can show without becoming slow. */
export const ROWS_MAX = 500;

export interface TailRow {
  seq: number;
  id: string;
  key: string | undefined;
  priority: number;
  atMs: number;
  encoding: "json" | "text" | "binary";
  /** The body as text, whole. */
  body: string;
  /** A range that is lost instead of a message. */
  lost?: { from: number; to: number };
}

export interface TailBuffer {
  /** Newest last. */
  rows: TailRow[];
  /** Came while paused, newest last; what does not fit pushes the oldest out, and is counted. */
  held: TailRow[];
  paused: boolean;
  seen: number;
  dropped: number;
}

export const EMPTY: TailBuffer = { rows: [], held: [], paused: false, seen: 0, dropped: 0 };

export function received(buffer: TailBuffer, fresh: readonly TailRow[]): TailBuffer {
  if (!fresh.length) return buffer;
  const name = buffer.paused ? "held" : "rows";
  const all = [...buffer[name], ...fresh];
  const dropped = buffer.dropped + (buffer.paused ? Math.max(0, all.length - ROWS_MAX) : 0);
  return { ...buffer, [name]: all.slice(-ROWS_MAX), seen: buffer.seen + fresh.length, dropped };
}

export const paused = (buffer: TailBuffer): TailBuffer => ({ ...buffer, paused: true });

export const resumed = (buffer: TailBuffer): TailBuffer => ({
  ...buffer, paused: false, held: [], rows: [...buffer.rows, ...buffer.held].slice(-ROWS_MAX),
}); // prettier-ignore

export const cleared = (buffer: TailBuffer): TailBuffer => ({ ...EMPTY, paused: buffer.paused });

/** Newest first, and only what has every word of the filter somewhere. `key:x`, `id:x` and `seq:x` look there only. */
export function shown(buffer: TailBuffer, filter: string): TailRow[] {
  const tests = filter.trim().toLowerCase().split(/\s+/).filter(Boolean).map(testOf);
  return buffer.rows.filter((row) => tests.every((test) => test(row))).toReversed();
}

function testOf(word: string): (row: TailRow) => boolean {
  const [, field, text = ""] = /^(key|id|seq|priority):(.+)$/.exec(word) ?? [];
  if (field === "seq" || field === "priority") return (row) => String(row[field]) === text;
  if (field === "key" || field === "id") return (row) => (row[field] ?? "").toLowerCase().includes(text);
  return (row) => `${row.seq} ${row.id} ${row.key ?? ""} ${row.body}`.toLowerCase().includes(word);
}
