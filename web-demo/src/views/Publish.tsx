/** The publish form. What is wrong is said at the field; what was stored is shown as the receipt. */

import { useState } from "preact/hooks";
import type { Receipt } from "pushwire";
import { BLANK, checked } from "../lib/draft.js";
import type { Errors, Form } from "../lib/draft.js";
import { told } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import { Field } from "../parts/Field.js";
import { useSession } from "../session.js";

type Result = { receipt: Receipt; error?: undefined } | { error: string; receipt?: undefined };

/** A publish from here is answered soon or given up (ms): somebody waits at the form. */
const TIMEOUT_MS = 10_000;

export function Publish({ topic, onDone }: { topic: string; onDone(): void }) {
  const { client } = useSession();
  const [form, setForm] = useState<Form>(BLANK);
  const [errors, setErrors] = useState<Errors>({});
  const [busy, setBusy] = useState(false);
  const [result, setResult] = useState<Result>();
  const set = (field: keyof Form) => (event: Event) => {
    const { value } = event.currentTarget as HTMLInputElement;
    const next = { ...form, [field]: value };
    setForm(next);
    if (Object.keys(errors).length) setErrors(checked(next).errors ?? {});
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    const { errors: wrong = {}, draft } = checked(form);
    setErrors(wrong);
    setResult(undefined);
    if (!draft) return;
    setBusy(true);
    try {
      setResult({ receipt: await client.publish(topic, draft.data, { ...draft.options, timeoutMs: TIMEOUT_MS }) });
      onDone();
    } catch (thrown) {
      setResult({ error: told(thrown) });
    } finally {
      setBusy(false);
    }
  };
  return (
    <section aria-labelledby="publish">
      <h2 id="publish">Publish</h2>
      <form class="card form" onSubmit={(event) => void submit(event)} noValidate>
        <Inputs form={form} errors={errors} set={set} />
        <p class="actions">
          <button type="submit" class="primary" disabled={busy}>{busy ? "Publishing…" : "Publish"}</button>
        </p>
        <div role="status" aria-live="polite">{result && <Answer result={result} topic={topic} />}</div>
      </form>
    </section>
  );
}

interface InputsProps {
  form: Form;
  errors: Errors;
  set(field: keyof Form): (event: Event) => void;
}

function Inputs({ form, errors, set }: InputsProps) {
  const line = (field: keyof Form, label: string, hint?: string) => (
    <Field label={label} hint={hint} error={errors[field]}>
      {(wiring) => <input {...wiring} value={form[field]} spellcheck={false} autocomplete="off" onInput={set(field)} />}
    </Field>
  );
  const area = (field: "body" | "headers", label: string, rows: number, hint?: string) => (
    <Field label={label} hint={hint} error={errors[field]} wide>
      {(wiring) => (
        <textarea {...wiring} class="code" rows={rows} value={form[field]} spellcheck={false} onInput={set(field)} />
      )}
    </Field>
  );
  return (
    <>
      {area("body", "Body", 5)}
      <Field label="Body is">
        {(wiring) => (
          <select {...wiring} value={form.encoding} onChange={set("encoding")}>
            <option value="json">JSON</option>
            <option value="text">text</option>
          </select>
        )}
      </Field>
      {line("key", "Key", "one at a time, in order")}
      <Field label="Priority" error={errors.priority}>
        {(wiring) => (
          <select {...wiring} value={form.priority} onChange={set("priority")}>
            <option value="0">0, lowest</option>
            <option value="1">1</option>
            <option value="2">2</option>
            <option value="3">3, highest</option>
          </select>
        )}
      </Field>
      {line("delay", "Delay", "such as 90s or 5m")}
      {line("ttl", "Time to live", "such as 1h")}
      {line("id", "Id", "made when left out")}
      {area("headers", "Headers", 2, "one a line, as name: value")}
    </>
  );
}

function Answer({ result, topic }: { result: Result; topic: string }) {
  if (result.error !== undefined) return <p class="notice bad">{result.error}</p>;
  const { seq, id, duplicate } = result.receipt;
  return (
    <p class="notice good">
      Stored as <a href={hrefOf({ view: "life", topic, seq })}>seq {seq}</a>, id <code>{id}</code>
      {duplicate && ", which had been stored before (a duplicate)"}.
    </p>
  );
}
