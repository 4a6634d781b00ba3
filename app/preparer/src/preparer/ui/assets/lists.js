// Puts the text of a file that is dropped onto a field into it.

const LARGEST = 32 * 1024 * 1024;

export function takeLists(field) {
  const over = (on) => (event) => {
    event.preventDefault();
    field.classList.toggle("over", on);
  };
  const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
  field.addEventListener("dragover", (event) => { if (carriesFiles(event)) over(true)(event); });
  field.addEventListener("dragleave", over(false));
  field.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    over(false)(event);
    const texts = [];
    for (const file of event.dataTransfer.files) {
      if (file.size <= LARGEST) texts.push((await file.text()).trim());
    }
    const before = field.value.trim();
    field.value = (before ? [before, ...texts] : texts).join("\n");
    field.focus();
  });
}
