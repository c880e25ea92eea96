/** This tab as a worker of a group: joins it, shows what it holds while the leases run down, ends them by hand. */

import { useState } from "preact/hooks";
import { nameError, spanOf } from "../lib/draft.js";
import { Field } from "../parts/Field.js";
import { Bench } from "./Bench.js";

export interface Job {
  topic: string;
  group: string;
  prefetch: number;
  ackTimeoutMs: number;
}

type Form = Record<keyof Job, string>;
type Errors = Partial<Form>;

function jobOf(form: Form): { job?: Job; errors: Errors } {
  const errors: Errors = {};
  for (const name of ["topic", "group"] as const) {
    const wrong = nameError(form[name]);
    if (wrong) errors[name] = wrong;
  }
  const prefetch = Number(form.prefetch);
  if (!Number.isInteger(prefetch) || prefetch < 1 || prefetch > 100) errors.prefetch = "1 to 100";
  let ackTimeoutMs = 0;
  try {
    ackTimeoutMs = spanOf(form.ackTimeoutMs, 1000) ?? 0;
    if (ackTimeoutMs < 1000 || ackTimeoutMs > 900_000) errors.ackTimeoutMs = "1 s to 15 min";
  } catch (thrown) {
    errors.ackTimeoutMs = (thrown as Error).message;
  }
  if (Object.keys(errors).length) return { errors };
  return { errors, job: { topic: form.topic, group: form.group, prefetch, ackTimeoutMs } };
}

export function Worker({ topic, group }: { topic: string; group: string }) {
  const [form, setForm] = useState<Form>({ topic, group: group || "default", prefetch: "3", ackTimeoutMs: "30s" });
  const [errors, setErrors] = useState<Errors>({});
  const [job, setJob] = useState<Job>();
  const submit = (event: Event) => {
    event.preventDefault();
    const read = jobOf(form);
    setErrors(read.errors);
    if (read.job) setJob(read.job);
  };
  const line = (name: keyof Form, label: string, hint: string) => (
    <Field label={label} hint={hint} error={errors[name]}>
      {(wiring) => (
        <input
          {...wiring} value={form[name]} spellcheck={false} autocomplete="off"
          onInput={(event) => setForm({ ...form, [name]: event.currentTarget.value })}
        />
      )}
    </Field>
  ); // prettier-ignore
  return (
    <>
      <h1>This tab as a worker</h1>
      {job ? (
        <Bench job={job} onClose={() => setJob(undefined)} />
      ) : (
        <>
          <p>
            Connect this tab to a group as one of its members. It is handed real messages: ack them, fail them, or close the
            tab and watch them move to another worker.
          </p>
          <form class="card form" onSubmit={submit} noValidate>
            {line("topic", "Topic", "such as demo.orders")}
            {line("group", "Group", "its members share the messages")}
            {line("prefetch", "Window", "messages it may hold at a time")}
            {line("ackTimeoutMs", "Ack timeout", "how long a lease lasts")}
            <p class="actions">
              <button type="submit" class="primary">Connect this tab</button>
            </p>
          </form>
        </>
      )}
    </>
  );
}
