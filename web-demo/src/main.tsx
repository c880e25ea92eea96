/** Starts the page: takes the token out of the address before anything else, then shows the dashboard. */

import { render } from "preact";
import { App } from "./app.js";
import { takeToken, tokenInHash } from "./lib/token.js";
import "./styles/base.css";
import "./styles/parts.css";

const token = takeToken(location, history, sessionStorage);
render(<App token={token} />, document.getElementById("app")!);

// An address that signs in, pasted into a tab that is open already, changes the fragment and loads nothing.
addEventListener("hashchange", () => {
  if (tokenInHash(location.hash) === undefined) return;
  takeToken(location, history, sessionStorage);
  location.reload();
});
