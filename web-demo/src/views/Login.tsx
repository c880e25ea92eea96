/** Signing in: a token is pasted. It goes nowhere but to this gateway. */

import { useState } from "preact/hooks";
import { Field } from "../parts/Field.js";
import { cleaned, looksLikeToken } from "../lib/token.js";

export function Login({ why, onToken }: { why: string; onToken(token: string): void }) {
  const [text, setText] = useState("");
  const [error, setError] = useState<string>();
  const submit = (event: Event) => {
    event.preventDefault();
    const token = cleaned(text);
    if (looksLikeToken(token)) onToken(token);
    else setError("This is no token: three parts of letters, digits, - and _, with dots between them.");
  };
  return (
    <main class="login">
      <h1>
        <img src="/favicon.svg" alt="" width="32" height="32" /> pushwire
      </h1>
      {why && <p class="notice bad" role="alert">{why}</p>}
      <form class="card" onSubmit={submit}>
        <Field label="Token" error={error} hint="Kept in this tab until you sign out or close it." wide>
          {(wiring) => (
            <textarea
              {...wiring}
              class="code"
              rows={5}
              value={text}
              autocomplete="off"
              spellcheck={false}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          )}
        </Field>
        <button type="submit" class="primary">Sign in</button>
      </form>
      <p class="dim">
        <code>pushwire token --dev --sub me --allow 'admin:*' --allow 'replay:*'</code> makes one for a development
        gateway; <code>make demo</code> prints an address that signs in.
      </p>
    </main>
  );
}
