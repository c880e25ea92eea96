/** A message's body, always as text: whatever markup it holds is shown, never taken for markup. */

import { useMemo, useState } from "preact/hooks";
import { bodyText, encodingOf } from "../lib/format.js";
import type { Bodied } from "../lib/types.js";

/** Characters that are shown at once: a browser lays out more only slowly. */
const CHARS_SHOWN = 4000;

export function Body({ of }: { of: Bodied }) {
  const text = useMemo(() => bodyText(of), [of]);
  return <Text label={`Body, ${encodingOf(of)}`}>{text}</Text>;
}

/** Text of any length: its beginning, and the rest when it is asked for. */
export function Text({ children: text, label = "Body" }: { children: string; label?: string }) {
  const [all, setAll] = useState(false);
  const cut = !all && text.length > CHARS_SHOWN;
  return (
    <>
      <pre class="body" tabIndex={0} aria-label={label}>{cut ? text.slice(0, CHARS_SHOWN) : text}</pre>
      {cut && (
        <button type="button" class="quiet" onClick={() => setAll(true)}>
          Show all {text.length} characters
        </button>
      )}
    </>
  );
}
