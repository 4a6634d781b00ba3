// Sends files, one after the other, each as a stream that shows how far it is.

function send(url, file, bar, replace) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    if (!replace) request.setRequestHeader("If-None-Match", "*");
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) { bar.max = event.total || 1; bar.value = event.loaded; }
    });
    request.addEventListener("loadend", () => done(request));
    request.send(file);
  });
}

function reason(request) {
  if (request.status === 0) return "the connection broke off";
  try { return JSON.parse(request.responseText).detail; } catch { return `the server answers ${request.status}`; }
}

function addLine(list, name) {
  const line = document.createElement("li");
  const words = document.createElement("span");
  const bar = document.createElement("progress");
  words.textContent = name;
  bar.value = 0;
  bar.setAttribute("aria-label", `Sent of ${name}`);
  line.append(words, bar);
  list.append(line);
  return { words, bar };
}

export function sendsFiles(place) {
  const input = place.querySelector("input[type=file]");
  const list = place.querySelector("[data-sent]");

  async function take(files) {
    let good = 0;
    input.disabled = true;
    const lines = [...files].map((file) => ({ file, ...addLine(list, file.name) }));
    for (const { file, words, bar } of lines) {
      const url = `${place.dataset.upload}/${encodeURIComponent(file.name)}`;
      let request = await send(url, file, bar, false);
      if (request.status === 409 && confirm(`Replace ${file.name}?`)) request = await send(url, file, bar, true);
      if (request.status === 201) {
        good += 1;
        words.textContent = `${file.name}: sent`;
      } else {
        words.className = "wrong";
        words.textContent = `${file.name}: ${reason(request)}`;
        bar.remove();
      }
    }
    input.disabled = false;
    if (good === lines.length) location.reload();
  }

  input.disabled = false;
  input.addEventListener("change", () => take(input.files));
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  });
}
