/** How the dashboard is built: one page, hashed assets, nothing inline, so that the gateway's strict CSP holds. */

import { defineConfig } from "vite";

/** Where `npm run dev` finds a gateway. */
const gateway = "http://127.0.0.1:8080";

export default defineConfig({
  base: "/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "pushwire_web/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // a data: address would need a hole in the CSP
    modulePreload: { polyfill: false }, // inline helper code for browsers without ES modules
    sourcemap: false,
    reportCompressedSize: true,
  },
  server: { proxy: { "/v1": { target: gateway, ws: true }, "/metrics": gateway } },
});
