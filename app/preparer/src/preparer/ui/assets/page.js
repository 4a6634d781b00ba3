// What the page does beyond showing what it was sent: it follows tasks, and takes files that are dropped.
import { follow } from "./live.js";
import { takeLists } from "./lists.js";

for (const place of document.querySelectorAll("[data-live]")) follow(place);
for (const field of document.querySelectorAll("[data-drop]")) takeLists(field);
