/** Order of a table's rows by one of its columns. Pure. */

export interface Order {
  by: string;
  down: boolean;
}

type Value = string | number | boolean | null | undefined;

/** A click on a column: another column starts with its large end for numbers, the same column turns round. */
export const turned = (order: Order, by: string, numeric: boolean): Order =>
  order.by === by ? { by, down: !order.down } : { by, down: numeric };

export function sorted<T>(rows: readonly T[], order: Order, valueOf: (row: T, by: string) => Value): T[] {
  const sign = order.down ? -1 : 1;
  return rows.toSorted((a, b) => sign * compared(valueOf(a, order.by), valueOf(b, order.by)));
}

function compared(a: Value, b: Value): number {
  if (typeof a === "string" && typeof b === "string") return a.localeCompare(b, "en", { numeric: true });
  return Number(a ?? -Infinity) - Number(b ?? -Infinity) || 0;
}
