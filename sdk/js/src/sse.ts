/** Reads a text/event-stream off a fetch. Owns nothing but the parsing (HTML standard, server-sent events). */

/** Calls `on` for each event; resolves when the stream ends, rejects when it breaks. Data is JSON. */
export async function readEvents(
  response: Response,
  on: (event: string, id: string, data: unknown) => void,
): Promise<void> {
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const events = rest.split(/\r?\n\r?\n/);
    rest = events.pop()!;
    for (const event of events) {
      const fields: Record<string, string> = {};
      for (const line of event.split(/\r?\n/)) {
        const [, name, text] = /^(\w+): ?(.*)$/.exec(line) ?? []; // comments keep the stream alive, no more
        if (name) fields[name] = fields[name] === undefined ? text! : `${fields[name]}\n${text}`;
      }
      if (fields.data) on(fields.event ?? "message", fields.id ?? "", JSON.parse(fields.data));
    }
  }
}
