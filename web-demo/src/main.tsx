/** Starts the page: takes the token out of the address before anything else, then shows the dashboard. */

import { render } from "preact";
import { App } from "./app.js";
import { takeToken } from "./lib/token.js";
import "./styles/base.css";
import "./styles/parts.css";

const token = takeToken(location, history, sessionStorage);
render(<App token={token} />, document.getElementById("app")!);
