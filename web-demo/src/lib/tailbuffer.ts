/** What a live tail shows: the newest rows, a pause that loses nothing of what it holds, a filter. Pure, bounded. */

/** Rows that are kept: what a page can show without becoming slow. */
export const ROWS_MAX = 500;
/** Characters of bodies that are kept: what a tab holds, and a filter looks through, without becoming slow. */
export const CHARS_MAX = 8 * 1024 * 1024;
/** Of messages that come faster than this a drawing, no more are drawn: all of them are new to the page each time, and
 * nobody reads on while they pass. 500 took up to 150 ms of it. */
export const RUSH_ROWS = 100;

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
  /** More came for the last drawing than are drawn at once. */
  rush: boolean;
  seen: number;
  dropped: number;
}

export const EMPTY: TailBuffer = { rows: [], held: [], paused: false, rush: false, seen: 0, dropped: 0 };

/** As many of the newest as may be kept; the newest always is. */
function newest(rows: readonly TailRow[]): TailRow[] {
  let from = rows.length;
  for (let chars = 0; from > 0 && rows.length - from < ROWS_MAX; from--) {
    chars += rows[from - 1]!.body.length;
    if (chars > CHARS_MAX && from < rows.length) break;
  }
  return rows.slice(from);
}

/** What has come since the last drawing. A hidden tab may not draw for a minute, so this is bounded as well. */
export class Arrivals {
  #rows: TailRow[] = [];
  #chars = 0;
  #passed = 0;

  add(row: TailRow): void {
    this.#rows.push(row);
    this.#chars += row.body.length;
    if (this.#rows.length < 2 * ROWS_MAX && this.#chars < 2 * CHARS_MAX) return;
    const kept = newest(this.#rows);
    this.#passed += this.#rows.length - kept.length;
    this.#rows = kept;
    this.#chars = kept.reduce((sum, { body }) => sum + body.length, 0);
  }

  /** All of it, and how many more came than are left. */
  take(): [rows: TailRow[], passed: number] {
    const taken: [TailRow[], number] = [this.#rows, this.#passed];
    [this.#rows, this.#chars, this.#passed] = [[], 0, 0];
    return taken;
  }
}

/** `passed`: how many came before these and are not kept any more. */
export function received(buffer: TailBuffer, fresh: readonly TailRow[], passed = 0): TailBuffer {
  if (!fresh.length) return buffer.rush ? { ...buffer, rush: false } : buffer;
  const name = buffer.paused ? "held" : "rows";
  const all = [...buffer[name], ...fresh];
  const kept = newest(all);
  const dropped = buffer.dropped + (buffer.paused ? all.length - kept.length + passed : 0);
  const came = fresh.length + passed;
  return { ...buffer, [name]: kept, rush: !buffer.paused && came > RUSH_ROWS, seen: buffer.seen + came, dropped };
}

export const paused = (buffer: TailBuffer): TailBuffer => ({ ...buffer, paused: true, rush: false });

export const resumed = (buffer: TailBuffer): TailBuffer => ({
  ...buffer, paused: false, held: [], rows: newest([...buffer.rows, ...buffer.held]),
}); // prettier-ignore

export const cleared = (buffer: TailBuffer): TailBuffer => ({ ...EMPTY, paused: buffer.paused });

/** Newest first, in a rush the first of them, and only what has every word of the filter somewhere. `key:x`, `id:x` and
 * `seq:x` look there only. */
export function shown(buffer: TailBuffer, filter: string): TailRow[] {
  const tests = filter.trim().toLowerCase().split(/\s+/).filter(Boolean).map(testOf);
  const found = buffer.rows.filter((row) => tests.every((test) => test(row)));
  return (buffer.rush ? found.slice(-RUSH_ROWS) : found).toReversed();
}

function testOf(word: string): (row: TailRow) => boolean {
  const [, field, text = ""] = /^(key|id|seq|priority):(.+)$/.exec(word) ?? [];
  if (field === "seq" || field === "priority") return (row) => String(row[field]) === text;
  if (field === "key" || field === "id") return (row) => (row[field] ?? "").toLowerCase().includes(text);
  return (row) => `${row.seq} ${row.id} ${row.key ?? ""} ${row.body}`.toLowerCase().includes(word);
}
