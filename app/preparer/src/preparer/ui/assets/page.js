// What the page does beyond showing what it was sent: it follows tasks, takes lists that are dropped, and sends files.
import { follow } from "./live.js";
import { takeLists } from "./lists.js";
import { sendsFiles } from "./upload.js";

for (const place of document.querySelectorAll("[data-live]")) follow(place);
for (const field of document.querySelectorAll("[data-drop]")) takeLists(field);
for (const place of document.querySelectorAll("[data-upload]")) sendsFiles(place);
