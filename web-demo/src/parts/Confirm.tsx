/** A question before something that cannot be undone. With `word`, that word has to be typed first. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface Props {
  title: string;
  children: ComponentChildren;
  verb: string;
  word?: string | undefined;
  onConfirm(): void;
  onClose(): void;
}

export function Confirm({ title, children, verb, word, onConfirm, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  useEffect(() => dialog.current?.showModal(), []);
  const ready = word === undefined || typed === word;
  const submit = (event: Event) => {
    event.preventDefault();
    if (!ready) return;
    onConfirm();
    onClose();
  };
  return (
    <dialog ref={dialog} onClose={onClose} aria-labelledby="confirm-title">
      <form onSubmit={submit}>
        <h2 id="confirm-title">{title}</h2>
        <div>{children}</div>
        {word !== undefined && (
          <label class="field">
            <span>
              Type <code>{word}</code> to go on
            </span>
            <input value={typed} autocomplete="off" spellcheck={false} onInput={(e) => setTyped(e.currentTarget.value)} />
          </label>
        )}
        <p class="actions end">
          <button type="button" onClick={onClose}>Cancel</button>
          <button type="submit" class="danger" disabled={!ready}>{verb}</button>
        </p>
      </form>
    </dialog>
  );
}
