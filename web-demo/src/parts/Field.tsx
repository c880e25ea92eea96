/** A labelled control, with its hint and its error where a screen reader finds them. */

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

export interface Wiring {
  id: string;
  "aria-invalid"?: boolean;
  "aria-describedby"?: string;
}

interface Props {
  label: string;
  hint?: string | undefined;
  error?: string | undefined;
  wide?: boolean;
  children: (wiring: Wiring) => ComponentChildren;
}

export function Field({ label, hint, error, wide, children }: Props) {
  const id = useId();
  const note = error ?? hint;
  const wiring: Wiring = { id, ...(error && { "aria-invalid": true }), ...(note && { "aria-describedby": `${id}-note` }) };
  return (
    <div class={wide ? "field wide" : "field"}>
      <label for={id}>{label}</label>
      {children(wiring)}
      {note && (
        <span id={`${id}-note`} class={error ? "error" : "hint"}>
          {note}
        </span>
      )}
    </div>
  );
}
