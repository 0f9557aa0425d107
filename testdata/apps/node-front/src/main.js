import { marked } from "marked";

const text = "# Front\n\nRendered by **marked**, bundled by *esbuild*.";
document.getElementById("page").innerHTML = marked.parse(text);
