// Bundles the page's script and copies what is static beside it.
import { cpSync } from "node:fs";
import { build } from "esbuild";

cpSync("public", "dist", { recursive: true });
await build({
  entryPoints: ["src/main.js"],
  bundle: true,
  minify: true,
  outfile: "dist/main.js",
});
