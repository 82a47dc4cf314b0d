// What HTMX does not do by itself: dropping and pasting pictures, the radius slider, saying what went wrong.
"use strict";

const trouble = document.getElementById("trouble");

function say(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

// a job that is looked at again and again (no event of the user's) leaves a message where it is
document.body.addEventListener("htmx:beforeRequest", (event) => { if (event.detail.requestConfig.triggeringEvent) say(""); });
document.body.addEventListener("htmx:sendError", () => say("The server cannot be reached."));
document.body.addEventListener("htmx:responseError", (event) => {
  const answer = event.detail.xhr;
  let text = `The server answered ${answer.status}.`;
  try {
    text = JSON.parse(answer.responseText).error.message;
  } catch { /* no JSON: the status has to do */ }
  const wait = answer.getResponseHeader("retry-after");
  say(wait && answer.status === 429 ? `${text} (${wait} s)` : text);
});

// --- pictures ------------------------------------------------------------------------------------------------------

const drop = document.querySelector(".drop");
if (drop) {
  const input = drop.querySelector("input");
  const shown = drop.querySelector("img");
  const without = document.getElementById("no-picture");

  const show = () => {
    const file = input.files[0];
    if (shown.src) URL.revokeObjectURL(shown.src);
    shown.hidden = without.hidden = !file;
    drop.classList.toggle("full", Boolean(file));
    if (file) shown.src = URL.createObjectURL(file);
    else shown.removeAttribute("src");
  };
  const take = (files) => {
    const picture = [...files].find((file) => file.type.startsWith("image/"));
    if (!picture) return;
    const list = new DataTransfer();
    list.items.add(picture);
    input.files = list.files;
    show();
  };

  input.addEventListener("change", show);
  without.addEventListener("click", () => { input.value = ""; show(); input.focus(); });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
  show();
}

// Ctrl+Enter sends a form from within a text area
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) event.target.form.requestSubmit();
});

// --- the radius slider -----------------------------------------------------------------------------------------------

function update(form) {
  const radius = Number(form.querySelector("input[type=range]").value);
  const rows = [...form.querySelectorAll("tbody tr")];
  let inside = 0;
  for (const row of rows) {
    const fires = Number(row.dataset.distance) <= radius;
    inside += fires;
    row.classList.toggle("in", fires);
    row.querySelector(".now").textContent = fires ? row.dataset.inside : row.dataset.outside;
  }
  form.querySelector("output").textContent = Number(radius.toPrecision(3)).toString();
  form.querySelector("#inside").textContent = `${inside} of ${rows.length} probes lie within.`;
}

document.addEventListener("input", (event) => {
  if (event.target.matches(".reach input[type=range]")) update(event.target.form);
});
document.addEventListener("click", (event) => {
  if (!event.target.matches("[data-radius]")) return;
  const form = event.target.form;
  form.querySelector("input[type=range]").value = event.target.dataset.radius;
  update(form);
});
document.body.addEventListener("htmx:afterSettle", () => document.querySelectorAll("form.reach").forEach(update));
