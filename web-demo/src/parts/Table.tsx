/** A table whose columns sort, and whose rows become cards where the page is narrow. Owns the order, not the rows. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { sorted, turned } from "../lib/sort.js";
import type { Order } from "../lib/sort.js";

export interface Column<T> {
  id: string;
  title: string;
  /** What it is sorted by; without, it is not. */
  value?: (row: T) => string | number | boolean | null | undefined;
  numeric?: boolean;
  cell: (row: T) => ComponentChildren;
}

interface Props<T> {
  caption: string;
  columns: Column<T>[];
  rows: readonly T[];
  rowKey: (row: T) => string | number;
  order?: Order;
  empty: string;
}

export function Table<T>({ caption, columns, rows, rowKey, order: initial, empty }: Props<T>) {
  const [order, setOrder] = useState<Order>(initial ?? { by: "", down: false });
  const valueOf = (row: T, by: string) => columns.find(({ id }) => id === by)?.value?.(row);
  const shown = order.by ? sorted(rows, order, valueOf) : rows;
  return (
    <table class="grid">
      <caption class="unseen">{caption}</caption>
      <thead>
        <tr>
          {columns.map((column) => (
            <Head key={column.id} column={column} order={order} turn={setOrder} />
          ))}
        </tr>
      </thead>
      <tbody>
        {shown.map((row) => (
          <tr key={rowKey(row)}>
            {columns.map(({ id, title, numeric, cell }) => (
              <td key={id} class={numeric ? "num" : undefined} data-label={title}>
                {cell(row)}
              </td>
            ))}
          </tr>
        ))}
        {!rows.length && (
          <tr>
            <td class="none" colSpan={columns.length}>
              {empty}
            </td>
          </tr>
        )}
      </tbody>
    </table>
  );
}

interface HeadProps<T> {
  column: Column<T>;
  order: Order;
  turn(order: Order): void;
}

function Head<T>({ column: { id, title, value, numeric }, order, turn }: HeadProps<T>) {
  const on = order.by === id;
  const kind = numeric ? "num" : undefined;
  if (!value) return <th scope="col" class={kind}>{title ? title : <span class="unseen">Actions</span>}</th>;
  return (
    <th scope="col" class={kind} aria-sort={on ? (order.down ? "descending" : "ascending") : "none"}>
      <button type="button" class="sort" onClick={() => turn(turned(order, id, !!numeric))}>
        {title}
        <span aria-hidden="true">{on ? (order.down ? " ↓" : " ↑") : ""}</span>
      </button>
    </th>
  );
}
