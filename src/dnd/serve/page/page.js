// The page of `dnd serve`: asks /api/v1 and shows what comes. Everything of the user's is set as text, never as markup.
"use strict";

const api = "/api/v1";
const at = (id) => document.getElementById(id);
const PAGE = 50;
const MOST_COLUMNS = 6; // of properties; with more a molecule is a card, which needs no scrolling to the side

let models = [];
let shown = null; // what the table shows: { model, fetch(start) -> {rows, total}, csv() -> Response, next }

async function ask(path, options = {}) {
  const answer = await fetch(api + path, options);
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.error || `the server answered ${answer.status}`);
  }
  return answer;
}

const post = (path, body) => ask(path, {
  method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
});

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").className = bad ? "bad" : "";
}

const model = () => models.find((one) => one.name === at("model").value) || models[0];

function tellTargets() {
  const named = model().targets.map((target) => target.name.includes(target.unit) ? target.name : `${target.name} (${target.unit})`);
  const many = named.length > MOST_COLUMNS;
  at("targets").textContent = `${model().name} predicts ${many ? `${named.length} properties` : named.join(", ")}.`;
  at("named").hidden = !many;
  at("names").textContent = `${named.join(", ")}.`;
}

// Numbers as a chemist writes them: three significant digits.
function digits(value) {
  if (value === null) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
  return size >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}

function valueCell(target, value) {
  const cell = element("td");
  cell.dataset.label = target.name;
  if (!value || (value.value === null && value.predicted_class === null)) return cell;
  const inside = element("div");
  if (value.predicted_class !== null) {
    const chance = value.probabilities[value.predicted_class];
    inside.append(element("span", value.predicted_class, "value"));
    if (chance !== null && chance !== undefined) inside.append(element("span", `probability ${digits(chance)}`, "interval"));
  } else {
    const unit = target.kind === "regression" ? target.unit : "";
    inside.append(element("span", digits(value.value) + (unit ? ` ${unit}` : ""), "value"));
  }
  if (value.low !== null) inside.append(element("span", `${digits(value.low)} to ${digits(value.high)}`, "interval"));
  if (value.classes.length) inside.append(element("span", `likely: ${value.classes.join(", ")}`, "interval"));
  cell.append(inside);
  return cell;
}

function drawingCell(row, asked) {
  const cell = element("td");
  cell.dataset.label = "";
  if (row.error) return cell;
  const button = element("button", "", "drawing");
  const picture = element("img");
  button.type = "button";
  picture.src = `${api}/drawing?smiles=${encodeURIComponent(row.smiles)}`;
  picture.alt = `Explain ${row.smiles}`;
  picture.loading = "lazy";
  picture.addEventListener("error", () => { button.textContent = "explain"; });
  button.append(picture);
  button.addEventListener("click", () => explain(row.smiles, asked));
  cell.append(button);
  return cell;
}

function domainCell(row) {
  const words = { true: "yes", false: `no: ${row.domain_reason}` };
  const cell = element("td", row.error || row.in_domain === null ? "" : words[row.in_domain]);
  cell.dataset.label = "In domain";
  if (row.in_domain === false) cell.className = "outside";
  return cell;
}

function addRows(rows) {
  for (const row of rows) {
    const line = element("tr");
    const smiles = element("td", row.smiles, "smiles");
    smiles.dataset.label = "SMILES";
    line.append(drawingCell(row, shown.model), smiles);
    if (row.error) {
      const error = element("td", row.error, "error");
      error.colSpan = shown.model.targets.length + 1;
      error.dataset.label = "Problem";
      line.append(error);
    } else {
      shown.model.targets.forEach((target, place) => line.append(valueCell(target, row.values[place])));
      line.append(domainCell(row));
    }
    at("rows").append(line);
  }
}

async function moreRows() {
  const page = await shown.fetch(shown.next);
  addRows(page.rows);
  shown.next += page.rows.length;
  at("more").hidden = shown.next >= page.total;
  at("more").textContent = `More rows (${shown.next} of ${page.total})`;
}

async function show(results, total, reasons) {
  shown = { ...results, next: 0 };
  const names = ["Molecule", "SMILES", ...shown.model.targets.map((target) => target.name), "In domain"];
  at("head").replaceChildren(...names.map((name) => {
    const head = element("th", name);
    head.scope = "col";
    return head;
  }));
  at("rows").replaceChildren();
  at("table").className = shown.model.targets.length > MOST_COLUMNS ? "cards" : "";
  at("reasons").replaceChildren(...reasons.map((one) =>
    element("li", `${one.rows} ${one.rows === 1 ? "row" : "rows"} (first: ${one.first_row}): ${one.reason}`)));
  const bad = reasons.reduce((sum, one) => sum + one.rows, 0);
  say(`${total} ${total === 1 ? "molecule" : "molecules"}` + (bad ? `, ${bad} without a prediction` : ""));
  at("results").hidden = false;
  await moreRows();
}

async function predict(event) {
  event.preventDefault();
  const smiles = at("smiles").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!smiles.length) return say("Paste at least one SMILES, or send a file.", true);
  const body = { smiles, model: model().name };
  await busy(async () => {
    say("Predicting …");
    const found = await (await post("/predict", body)).json();
    await show({
      model: model(),
      fetch: async (start) => ({ rows: found.rows.slice(start, start + PAGE), total: found.rows.length }),
      csv: () => post("/predict.csv", body),
    }, found.rows.length, found.reasons);
  });
}

// A file is sent, waits for its turn, and is asked after until it is done.
async function sendFile() {
  const file = at("file").files[0];
  at("file").value = "";
  if (!file) return;
  const asked = model();
  const form = new FormData();
  form.append("file", file);
  form.append("model", asked.name);
  await busy(async () => {
    say(`Sending ${file.name} …`);
    let job = await (await ask("/files", { method: "POST", body: form })).json();
    const path = `/files/${job.id}`;
    let stopped = false;
    at("stop").onclick = async () => { stopped = true; await ask(path, { method: "DELETE" }).catch(() => {}); };
    at("working").hidden = false;
    while (job.state === "waiting" || job.state === "running") {
      tellProgress(job);
      await new Promise((later) => setTimeout(later, 500));
      if (stopped) return say(`${file.name} was stopped.`);
      job = await (await ask(path)).json();
    }
    if (job.state === "failed") throw new Error(job.error);
    await show({
      model: asked,
      fetch: async (start) => (await ask(`${path}/rows?start=${start}&count=${PAGE}`)).json(),
      csv: () => ask(`${path}/result.csv`),
    }, job.done, job.reasons);
  });
}

function tellProgress(job) {
  const bar = at("progress");
  if (job.rows) { bar.max = job.rows; bar.value = job.done; } else bar.removeAttribute("value");
  say(job.state === "waiting" ? `${job.file} waits; ${job.ahead} before it`
    : `${job.file}: ${job.done} of ${job.rows === null ? "?" : job.rows} rows`);
}

async function busy(work) {
  at("predict").disabled = true;
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  } finally {
    at("predict").disabled = false;
    at("working").hidden = true;
  }
}

async function download() {
  await busy(async () => {
    const link = element("a");
    link.href = URL.createObjectURL(await (await shown.csv()).blob());
    link.download = "predictions.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// What each atom adds.
async function explain(smiles, asked) {
  const choice = at("why-target");
  choice.replaceChildren(...asked.targets.map((target) => element("option", target.name)));
  choice.onchange = () => colour(smiles, asked, choice.value);
  at("why").showModal();
  await colour(smiles, asked, choice.value);
}

async function colour(smiles, asked, target) {
  const picture = at("why-picture");
  picture.hidden = true;
  at("why-status").textContent = "Asking the model about each atom …";
  try {
    const found = await (await post("/explain", { smiles, target, model: asked.name })).json();
    at("why-status").textContent = found.error;
    if (!found.svg) return;
    picture.src = `data:image/svg+xml,${encodeURIComponent(found.svg)}`;
    picture.alt = found.atoms.map((atom, place) => `${atom} ${digits(found.contributions[place])}`).join(", ");
    picture.hidden = false;
  } catch (error) {
    at("why-status").textContent = error.message;
  }
}

async function start() {
  at("ask").addEventListener("submit", predict);
  at("file").addEventListener("change", sendFile);
  at("more").addEventListener("click", () => busy(moreRows));
  at("download").addEventListener("click", download);
  at("why-close").addEventListener("click", () => at("why").close());
  at("model").addEventListener("change", tellTargets);
  models = await (await ask("/models")).json();
  at("model").replaceChildren(...models.map((one) => element("option", one.name)));
  at("choice").hidden = models.length < 2;
  tellTargets();
}

start().catch((error) => say(error.message, true));
