// Follows tasks and files by server-sent events. Texts become text and nothing else, whatever they contain.

const TONES = ["good", "wrong", "busy", "quiet"];

function show(row, told) {
  for (const element of row.querySelectorAll("[data-field]")) {
    const text = told.fields[element.dataset.field];
    if (text !== undefined && element.textContent !== text) element.textContent = text;
  }
  for (const element of row.querySelectorAll("[data-tone]")) {
    element.classList.remove(...TONES);
    element.classList.add(told.tone);
  }
  for (const bar of row.querySelectorAll("[data-progress]")) {
    bar.max = told.max;
    bar.value = told.value;
  }
}

const find = (place, name, value) => place.querySelector(`[data-${name}="${CSS.escape(value)}"]`);

export function follow(place) {
  const source = new EventSource(place.dataset.live);
  let begun = false;
  source.addEventListener("task", (event) => {
    const told = JSON.parse(event.data);
    const row = find(place, "task", told.id);
    if (row) show(row, told);
    else if ("first" in place.dataset) place.querySelector("[data-news]").hidden = false;
    // At its end a task is shown anew, with what can be done now.
    if ("active" in place.dataset && !told.active) {
      source.close();
      location.reload();
    }
  });
  source.addEventListener("file", (event) => {
    const told = JSON.parse(event.data);
    const row = find(place, "file", String(told.number));
    if (row) show(row, told);
  });
  source.addEventListener("open", () => { begun = true; });
  source.addEventListener("error", () => {
    // A refusal ends the stream; a broken connection does not. Who is signed out is shown the way in.
    if (source.readyState === EventSource.CLOSED && begun) location.reload();
  });
  addEventListener("pagehide", () => source.close());
}
